"""Disks that are really full: a small file system of its own, filled to the last bytes while pictures are taken in."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from storage import datasets, staging
from storage.errors import DatabaseUnavailable, DiskFull
from storage.events import record_event
from storage.records import now
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tests.wholeness import check_whole
from tuning import arrivals, jobs
from tuning.arrivals import Intake, Plan
from tuning.ingest import ingest_folder
from tuning.jobs import Job, JobState

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60
PLAN = Plan(intakes=(Intake(name="parts"),), who="ann")


@pytest.fixture
def full(small_disk: Any, tmp_path: Path, make_folder: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An installation on a small disk, with pictures for it on another."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    disk = small_disk(24)
    folder = make_folder(train=40, test_normal=10, defects={"dent": 4}, size=256)
    settings = Settings(home=disk / "home", picture_roots=(tmp_path,), device="cpu")
    monkeypatch.setenv("SIMPLENET_PICTURE_ROOTS", f'["{tmp_path}"]')
    workspace = open_workspace(settings)
    yield workspace, folder
    workspace.close()


@pytest.mark.slow
def test_intake_on_a_full_disk_fails_whole_and_goes_on_once_there_is_room(full: Any) -> None:
    workspace, folder = full
    settings = workspace.settings
    arrival_id = arrivals.from_folder(workspace, str(folder), "parts", who="ann")
    arrivals.start_look(workspace, arrival_id)
    assert _ended(settings, arrivals.look_key(arrival_id)).state is JobState.DONE
    told = []
    # What was kept of the pictures by one attempt needs no room in the next: so the first stop while pictures are read,
    # the last at the database.
    for room in (1_500_000, 1_500_000, 1_500_000, *[300_000] * 12):
        filler = _fill(settings.home, room)
        job = _ended(settings, arrivals.start_take(workspace, arrival_id, PLAN).key)
        assert job.state is JobState.FAILED, job
        told.append(_checked_sentence(str(job.error), settings))
        assert check_whole(settings) == []
        filler.unlink()
        if told[-1] == "database":
            break
    assert (told[0], told[-1]) == ("disk", "database")
    arrivals.start_take(workspace, arrival_id)
    done = _ended(settings, job.key)
    assert done.state is JobState.DONE, done.error
    assert check_whole(settings) == [("parts", 1, 54)]
    with workspace.session() as session:
        version = datasets.latest_version(session, "parts")
        images = datasets.list_images(session, version.id)
    assert {image.digest for image in images} == {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("train", "test")
        for path in (folder / part).rglob("*.png")
    }
    for image in images:
        assert hashlib.sha256(workspace.blobs.get(image.digest)).hexdigest() == image.digest


def test_job_can_tell_its_end_where_the_last_byte_is_used(full: Any) -> None:
    settings = full[0].settings

    def write_until_full(progress: Any) -> None:
        with (settings.home / "large").open("wb") as file:
            while True:
                file.write(bytes(1000))
                file.flush()

    job = jobs.work(settings, "large", write_until_full)
    assert job.state is JobState.FAILED
    assert jobs.status(settings, "large") == job
    assert _checked_sentence(str(job.error), settings) == "disk"
    (settings.home / "large").unlink()


def test_job_that_can_not_be_told_of_is_not_started(full: Any) -> None:
    workspace, folder = full
    arrival_id = arrivals.from_folder(workspace, str(folder), "parts", who="ann")
    filler = _fill(workspace.settings.home, 0)
    with pytest.raises(DiskFull, match="has no room left: No space left on device"):
        arrivals.start_look(workspace, arrival_id)
    with pytest.raises(DiskFull, match="Free some space there"):
        arrivals.from_folder(workspace, str(folder), "more", who="ann")
    filler.unlink()
    arrivals.start_look(workspace, arrival_id)
    assert _ended(workspace.settings, arrivals.look_key(arrival_id)).state is JobState.DONE


def test_command_line_tells_it_too(full: Any) -> None:
    workspace, folder = full
    filler = _fill(workspace.settings.home, 1_000_000)
    with pytest.raises(DiskFull, match="has no room left"):
        ingest_folder(workspace, folder, "parts")
    assert check_whole(workspace.settings) == []
    filler.unlink()
    assert ingest_folder(workspace, folder, "parts").version.count() == 54


def test_database_that_can_not_grow_says_so_and_stays_whole(full: Any) -> None:
    workspace, folder = full
    ingest_folder(workspace, folder, "parts")
    before = check_whole(workspace.settings)
    filler = _fill(workspace.settings.home, 0)
    long_story = "x" * 5_000_000
    with pytest.raises(DatabaseUnavailable, match=r"its disk is full\. Free some space"):
        _tell(workspace, long_story)
    filler.unlink()
    assert check_whole(workspace.settings) == before


def test_upload_needs_room_beside_the_reserve_and_names_the_folder(small_disk: Any) -> None:
    folder = small_disk(4) / "staging"
    with pytest.raises(DiskFull, match=r"stay in reserve\. Free some space") as caught:
        staging.create(
            folder, files=[("a.zip", 10)], dataset="", limits=staging.Limits(max_bytes=1e9), now=now()
        )
    assert str(folder) in str(caught.value)
    assert list(folder.iterdir()) == []


def test_upload_begun_on_a_full_disk_leaves_nothing(small_disk: Any) -> None:
    folder = small_disk(4) / "staging"
    folder.mkdir()
    filler = _fill(folder.parent, 0)
    limits = staging.Limits(max_bytes=1e9, reserve_bytes=0)
    with pytest.raises(DiskFull, match="is full"):
        staging.create(folder, files=[("a.zip", 0)], dataset="", limits=limits, now=now())
    assert list(folder.iterdir()) == []
    filler.unlink()


def _tell(workspace: Workspace, story: str) -> None:
    with workspace.session() as session:
        record_event(session, 1, story, who="ann", now=now())


def _checked_sentence(told: str, settings: Settings) -> str:
    """What the error is about, if it is one line that names the place and what to do."""
    assert "\n" not in told
    assert str(settings.home) in told
    assert "Free some space there, then try again" in told, told
    return "database" if told.startswith("Database") else "disk"


def _fill(home: Path, leave: int) -> Path:
    """Take all room on a disk but so many bytes."""
    filler = home / "filler"
    with filler.open("wb") as file:
        status = os.statvfs(home)
        free = status.f_bavail * status.f_frsize
        rest = max(0, free - leave)
        while rest and file.write(bytes(min(rest, 65_536))):
            rest -= min(rest, 65_536)
    return filler


def _ended(settings: Settings, key: str) -> Job:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        job = jobs.status(settings, key)
        if job is not None and job.state is not JobState.RUNNING and not jobs.is_running(settings, key):
            return job
        time.sleep(0.05)
    raise AssertionError((settings.jobs_folder / key / "log").read_text())
