"""Whether a database holds anything by half: rows that belong to nothing, or versions that are not whole."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from storage.settings import Settings

ORPHANS = {
    "datasets without a version": "SELECT id FROM datasets WHERE id NOT IN (SELECT dataset_id FROM dataset_versions)",
    "versions without a dataset": "SELECT id FROM dataset_versions WHERE dataset_id NOT IN (SELECT id FROM datasets)",
    "versions without images": "SELECT id FROM dataset_versions WHERE id NOT IN (SELECT version_id FROM images)",
    "images without a version": "SELECT id FROM images WHERE version_id NOT IN (SELECT id FROM dataset_versions)",
    "versions without a report": "SELECT id FROM dataset_versions WHERE id NOT IN (SELECT version_id FROM ingests)",
    "reports without a version": "SELECT version_id FROM ingests "
    "WHERE version_id NOT IN (SELECT id FROM dataset_versions)",
    "images without measures": "SELECT id FROM images WHERE pixel_digest NOT IN (SELECT pixel_digest FROM measures)",
    "measures without an image": "SELECT pixel_digest FROM measures "
    "WHERE pixel_digest NOT IN (SELECT pixel_digest FROM images)",
    "checkups without a version": "SELECT version_id FROM checkups "
    "WHERE version_id NOT IN (SELECT id FROM dataset_versions)",
    "edits without a dataset": "SELECT dataset_id FROM edits WHERE dataset_id NOT IN (SELECT id FROM datasets)",
    "events without a dataset": "SELECT id FROM events WHERE dataset_id NOT IN (SELECT id FROM datasets)",
    "versions without an event": "SELECT d.id FROM datasets d WHERE "
    "(SELECT count(*) FROM events e WHERE e.dataset_id = d.id) != "
    "(SELECT count(*) FROM dataset_versions v WHERE v.dataset_id = d.id)",
}


def check_whole(settings: Settings) -> list[tuple[str, int, int]]:
    """Assert that nothing is by half; answers (dataset, version, number of its images) for all versions."""
    with closing(sqlite3.connect(database_file(settings))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        found = {what: connection.execute(query).fetchall() for what, query in ORPHANS.items()}
        orphans = {what: rows for what, rows in found.items() if rows}
        assert orphans == {}, orphans
        versions = connection.execute(
            "SELECT d.name, v.number, v.counts, (SELECT count(*) FROM images i WHERE i.version_id = v.id) "
            "FROM dataset_versions v JOIN datasets d ON d.id = v.dataset_id ORDER BY v.id"
        ).fetchall()
    for name, number, counts, images in versions:
        told = sum(sum(labels.values()) for labels in json.loads(counts).values())
        assert told == images, f"version {number} of {name} tells of {told} images and has {images}"
    return [(name, number, images) for name, number, _, images in versions]


def database_file(settings: Settings) -> Path:
    """The SQLite file of an installation."""
    return Path(settings.database_url.removeprefix("sqlite:///"))
