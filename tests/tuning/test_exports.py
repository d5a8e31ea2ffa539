"""Exports in the background, by real processes: packed once, cancelled, killed, swept."""

import os
import time
import zipfile
from pathlib import Path

import pytest

from storage.records import now
from tuning import exports, jobs
from tuning.errors import JobCancelled
from tuning.jobs import JobState
from tuning.sweep import sweep

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120
DAY_SECONDS = exports.KEPT.total_seconds()


@pytest.fixture(autouse=True)
def found_by_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def ended(workspace, key):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        job = jobs.status(workspace.settings, key)
        if job is not None and job.state is not JobState.RUNNING:
            return job
        time.sleep(0.1)
    raise AssertionError((workspace.settings.jobs_folder / key / "log").read_text())


def export(workspace, version):
    exports.start_export(workspace, version.id)
    return ended(workspace, exports.job_key(version.id))


def test_version_is_packed_once_and_its_archive_used_again(workspace, parts) -> None:
    job = export(workspace, parts)
    assert job.state is JobState.DONE, job.error
    file = exports.archive(workspace.settings, parts)
    assert job.result == {"file": "parts-version-1.zip", "bytes": file.stat().st_size}
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert sum(name.startswith("train/good/") for name in archive.namelist()) == 24
    before = file.stat()
    an_hour_ago = time.time() - 3600
    os.utime(file, (an_hour_ago, an_hour_ago))
    assert export(workspace, parts).state is JobState.DONE
    assert file.stat().st_ino == before.st_ino  # the same file
    assert file.stat().st_mtime > an_hour_ago + 60  # kept for another day


def test_cancelled_export_leaves_no_file(workspace, parts) -> None:
    def pack(progress: jobs.Progress) -> object:
        def cancelled_meanwhile(done: int, total: int, text: str) -> None:
            if done == 5:
                jobs.cancel(workspace.settings, key)
            progress(done, total, text)

        return exports.pack(workspace, parts.id, cancelled_meanwhile)

    key = exports.job_key(parts.id)
    assert jobs.work(workspace.settings, key, pack).state is JobState.CANCELLED
    assert list(workspace.settings.exports_folder.iterdir()) == []
    assert export(workspace, parts).state is JobState.DONE


def test_interrupted_packing_leaves_nothing_under_the_archives_name(workspace, parts) -> None:
    def stop(done: int, total: int, text: str) -> None:
        raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        exports.pack(workspace, parts.id, stop)
    assert not exports.archive(workspace.settings, parts).exists()


def test_version_that_is_not_there_is_told_by_the_job(workspace) -> None:
    exports.start_export(workspace, 99)
    job = ended(workspace, exports.job_key(99))
    assert (job.state, "99" in str(job.error)) == (JobState.FAILED, True)


@pytest.mark.parametrize("sweeper", ["worker", "next export"])
def test_exports_of_yesterday_are_swept_and_those_of_today_stay(workspace, parts, sweeper: str) -> None:
    folder = workspace.settings.exports_folder
    assert export(workspace, parts).state is JobState.DONE
    old, half, foreign = folder / "old-version-1.zip", folder / ".tmp-1-half", folder / "notes.txt"
    for file in (old, half, foreign):
        file.write_bytes(b"x")
        moment = now().timestamp() - DAY_SECONDS - 60
        os.utime(file, (moment, moment))
    if sweeper == "worker":
        sweep(workspace)
    else:
        export(workspace, parts)
    assert {file.name for file in folder.iterdir()} == {"parts-version-1.zip", "notes.txt"}


def test_what_was_told_of_old_exports_is_forgotten(workspace, parts) -> None:
    assert export(workspace, parts).state is JobState.DONE
    key = exports.job_key(parts.id)
    while jobs.is_running(workspace.settings, key):  # it tells its end, then it ends
        time.sleep(0.01)
    for path in (workspace.settings.jobs_folder / key).iterdir():
        os.utime(path, (0, 0))
    exports.sweep(workspace.settings)
    assert jobs.status(workspace.settings, key) is None
