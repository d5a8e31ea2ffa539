"""A place to drop pictures, folders and archives: the browser sends them in slices to dashboard/uploads.py."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import tickets, unread
from dashboard.guard import base_path
from storage import staging
from storage.errors import UploadNotFound
from storage.settings import Settings
from storage.staging import Upload
from storage.unread_formats import REASONS

STATIC = Path(__file__).parents[1] / "static"

PICTURES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".tif",
    ".tiff",
    ".webp",
    ".gif",
)  # a GIF is refused with a reason, later
TABLES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".manifest")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

QUIET = timedelta(minutes=1)  # an upload that nothing came for so long goes on in no other window
TOLD = 5  # uploads that are not complete


def uploader(settings: Settings, *, key: str, dataset: str = "") -> str | None:
    """Draw the drop area, or the upload that is under way.

    It goes on while the visitor looks at another page, after a lost connection, and after a reload once the same files
    are chosen again.

    Args:
        key: of the widget, unique on the page.
        dataset: what the upload is meant for; the same files for another dataset are another upload.
    Returns:
        Id of the completed upload, for `storage.staging.find`, on every run until it is discarded or the visitor
        begins another; None before.
    """
    mount = st.components.v2.component(
        "simplenet_uploader",
        html=(STATIC / "uploader.html").read_text(),
        css=(STATIC / "uploader.css").read_text(),
        js=(STATIC / "uploader.js").read_text(),
    )
    claimed = (st.session_state.get(key) or {}).get("completed")
    completed = _completed(settings, claimed)
    data: dict[str, Any] = {
        "key": key,
        "dataset": dataset,
        "address": f"{base_path()}/uploads",
        "ticket": tickets.issue(tickets.secret(settings.home), time.time()),
        "suffixes": [*PICTURES, *TABLES, *ARCHIVES],
        "reasons": REASONS,
        "reason": unread.OTHER,
        "formats": (
            "PNG, JPEG, TIFF, BMP or WebP, with masks and a table if there are any; also as zip or tar. "
            f"Up to {settings.upload_max_gb:g} GB at once."
        ),
        "unfinished": _unfinished(settings, dataset),
        "completed": completed,
        "gone": claimed if completed is None else None,  # discarded: the component begins anew
    }

    def rerun() -> None:
        """Callbacks make Streamlit keep the values."""

    mount(key=key, data=data, on_completed_change=rerun, on_ticket_change=rerun)
    return completed


def _completed(settings: Settings, upload_id: Any) -> str | None:
    """The id, if it is that of a completed upload; it comes from a browser."""
    if not isinstance(upload_id, str):
        return None
    try:
        upload = staging.find(settings.staging_folder, upload_id)
    except UploadNotFound:
        return None
    return upload.id if upload.completed else None


def _unfinished(settings: Settings, dataset: str) -> list[dict[str, Any]]:
    """Uploads of this dataset that are not complete, the one that something came of last first."""
    told: list[tuple[datetime, dict[str, Any]]] = []
    now = datetime.now(UTC)
    for upload in staging.list_uploads(settings.staging_folder):
        if upload.completed or upload.dataset != dataset:
            continue
        try:
            heard = staging.last_change(upload)
            values = {
                "id": upload.id,
                "title": _title(upload),
                "received": sum(staging.received(upload)),
                "size": upload.size,
                "quiet": now - heard > QUIET,  # else it may go on in another window
            }
        except UploadNotFound:  # discarded meanwhile
            continue
        told.append((heard, values))
    newest = sorted(told, key=lambda one: one[0], reverse=True)
    return [values for _, values in newest[:TOLD]]


def _title(upload: Upload) -> str:
    first = upload.files[0].name
    if len(upload.files) == 1:
        return first
    folder, separator, _ = first.partition("/")
    return f"{folder} ({len(upload.files):,} files)" if separator else f"{len(upload.files):,} files"
