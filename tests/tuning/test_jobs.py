"""Work in the background: real processes, killed, cancelled and failing."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from storage.settings import Settings
from storage.workspace import Workspace
from tuning import exports, jobs
from tuning.errors import JobRunning
from tuning.jobs import Job, JobState, Progress
from tuning.sweep import sweep

MODULE = "tests.tuning.scripts.count_slowly"
ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = Settings(home=tmp_path / "home")
    found.jobs_folder.mkdir(parents=True)
    return found


def wait(settings: Settings, key: str, until: Callable[[Job], bool]) -> Job:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        job = jobs.status(settings, key)
        assert job is not None
        if until(job):
            return job
        time.sleep(0.05)
    raise AssertionError(f"job is {job}; log: {(settings.jobs_folder / key / 'log').read_text()}")


def test_job_tells_its_progress_and_what_came_of_it(settings: Settings) -> None:
    assert jobs.status(settings, "count") is None
    started = jobs.start(settings, "count", MODULE, ["count", "4", "0.5"])
    assert started.state is JobState.RUNNING
    halfway = wait(settings, "count", lambda job: job.done >= 2)
    assert (halfway.total, halfway.text) == (4, f"counting {halfway.done}")
    assert halfway.seconds_left is not None
    ended = wait(settings, "count", lambda job: job.state is not JobState.RUNNING)
    assert (ended.state, ended.result, ended.seconds_left) == (JobState.DONE, {"counted": 4}, None)
    wait(
        settings, "count", lambda _: not jobs.is_running(settings, "count")
    )  # it tells its end, then it ends
    jobs.forget(settings, "count")
    assert jobs.status(settings, "count") is None


def test_job_that_is_forgotten_and_started_by_many_at_once_is_never_lost(settings: Settings) -> None:
    ended = threading.Event()

    def forget_again_and_again() -> None:
        while not ended.is_set():
            jobs.forget(settings, "count")

    forgetting = [threading.Thread(target=forget_again_and_again) for _ in range(2)]
    for thread in forgetting:
        thread.start()
    try:
        for _ in range(5):
            jobs.start(settings, "count", MODULE, ["count", "2", "0.3"])
            assert jobs.is_running(settings, "count")
            assert wait(settings, "count", lambda job: job.done >= 1).state is JobState.RUNNING
            jobs.cancel(settings, "count")
            deadline = time.monotonic() + 60
            while jobs.status(settings, "count") is not None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    finally:
        ended.set()
        for thread in forgetting:
            thread.join()
    assert list(settings.jobs_folder.iterdir()) == []


@pytest.mark.parametrize("left", [b"", bytes(200), b'{"key": "cou'])
def test_status_that_a_power_cut_left_empty_or_cut_off_is_none(settings: Settings, left: bytes) -> None:
    jobs.work(settings, "count", lambda progress: None)
    (settings.jobs_folder / "count" / "status.json").write_bytes(left)
    assert jobs.status(settings, "count") is None
    assert jobs.work(settings, "count", lambda progress: None).state is JobState.DONE


def test_running_job_is_not_started_twice(settings: Settings) -> None:
    jobs.start(settings, "count", MODULE, ["count", "100", "0.2"])
    wait(settings, "count", lambda job: job.done >= 1)
    again = jobs.start(settings, "count", MODULE, ["count", "1", "0"])
    assert (again.state, again.total) == (JobState.RUNNING, 100)

    def nothing(progress: Progress) -> None: ...

    with pytest.raises(JobRunning, match="'count' runs already"):
        jobs.work(settings, "count", nothing)
    jobs.cancel(settings, "count")
    ended = wait(settings, "count", lambda job: job.state is not JobState.RUNNING)
    assert ended.state is JobState.CANCELLED


def test_killed_job_is_interrupted_and_can_be_started_again(settings: Settings) -> None:
    jobs.start(settings, "count", MODULE, ["count", "100", "0.2"])
    wait(settings, "count", lambda job: job.done >= 1)
    os.kill(_pid(settings), signal.SIGKILL)
    wait(settings, "count", lambda job: job.state is JobState.INTERRUPTED)
    jobs.start(settings, "count", MODULE, ["count", "1", "0"])
    ended = wait(settings, "count", lambda job: job.state is not JobState.RUNNING)
    assert ended.result == {"counted": 1}


def test_job_killed_before_it_begins_is_interrupted_at_once(settings: Settings) -> None:
    # Long, for finding its process takes a while on a busy machine.
    started = jobs.start(settings, "count", MODULE, ["count", "100", "0.2"])
    assert started.text == "starting"
    os.kill(_pid(settings), signal.SIGKILL)
    interrupted = wait(settings, "count", lambda job: job.state is not JobState.RUNNING)
    assert interrupted.state is JobState.INTERRUPTED
    assert not jobs.is_running(settings, "count")
    jobs.start(settings, "count", MODULE, ["count", "1", "0"])
    ended = wait(settings, "count", lambda job: job.state is not JobState.RUNNING)
    assert ended.state is JobState.DONE


def test_process_that_can_not_even_begin_is_interrupted(settings: Settings) -> None:
    jobs.start(settings, "count", "tests.tuning.scripts.no_such_module", [])
    ended = wait(settings, "count", lambda job: job.state is not JobState.RUNNING)
    assert ended.state is JobState.INTERRUPTED


def test_job_is_over_though_one_that_it_started_goes_on(settings: Settings) -> None:
    def start_another(progress: Progress) -> None:
        jobs.start(settings, "other", MODULE, ["other", "100", "0.2"])

    jobs.work(settings, "count", start_another)
    assert jobs.is_running(settings, "other")
    assert not jobs.is_running(settings, "count")
    jobs.cancel(settings, "other")
    wait(settings, "other", lambda job: job.state is JobState.CANCELLED)


def test_only_jobs_that_have_told_nothing_for_long_are_forgotten(settings: Settings) -> None:
    for key in ("look-a", "look-b", "take-a"):
        jobs.work(settings, key, lambda progress: None)
    assert sorted(jobs.keys(settings, "look-")) == ["look-a", "look-b"]
    for file in (settings.jobs_folder / "look-a").iterdir():
        os.utime(file, (0, 0))
    for key in ("look-a", "look-b"):
        jobs.forget(settings, key, older_than=timedelta(days=7))
    assert jobs.keys(settings, "look-") == ["look-b"]


def test_sweeps_at_once_forget_old_jobs_and_fail_never(settings: Settings) -> None:
    barrier = threading.Barrier(3)

    def sweep_all(_: int) -> None:
        barrier.wait()
        jobs.sweep(settings, "export-", older_than=timedelta(days=1))
        exports.sweep(settings)

    for _ in range(4):
        for number in range(100):
            folder = settings.jobs_folder / f"export-{number}"
            folder.mkdir()
            for name in ("status.json", "log", "lock"):
                (folder / name).write_text("{}")
                os.utime(folder / name, (0, 0))
            os.utime(folder, (0, 0))
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(sweep_all, range(3)))
        assert list(settings.jobs_folder.iterdir()) == []
        assert jobs.status(settings, "export-0") is None
        assert not jobs.is_running(settings, "export-0")


def test_job_that_can_not_be_forgotten_hinders_no_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for key in ("look-a", "look-b"):
        jobs.work(settings, key, lambda progress: None)
    iterdir = Path.iterdir

    def refused(folder: Path) -> Iterator[Path]:
        if folder.name == "look-a":
            raise PermissionError(13, "Permission denied")
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    jobs.sweep(settings, "look-", older_than=timedelta(0))
    assert jobs.keys(settings, "look-") == ["look-a"]
    assert "job can not be forgotten" in caplog.text


def test_examinations_are_forgotten_a_week_after_their_end(workspace: Workspace) -> None:
    for key in ("doctor-1", "doctor-2"):
        jobs.work(workspace.settings, key, lambda progress: None)
    for age_days, key in ((8, "doctor-1"), (6, "doctor-2")):
        moment = time.time() - age_days * 24 * 3600
        for file in (workspace.settings.jobs_folder / key).iterdir():
            os.utime(file, (moment, moment))
    sweep(workspace)
    assert jobs.keys(workspace.settings, "doctor-") == ["doctor-2"]


def test_error_that_people_can_act_on_is_told_as_it_is(settings: Settings) -> None:
    jobs.start(settings, "count", MODULE, ["count", "1", "0", "ours"])
    ended = wait(settings, "count", lambda job: job.state is not JobState.RUNNING)
    assert (ended.state, ended.error) == (JobState.FAILED, "There are no pictures. Add some.")


def test_bug_ends_the_job_and_points_to_its_log(settings: Settings) -> None:
    jobs.start(settings, "count", MODULE, ["count", "1", "0", "bug"])
    ended = wait(settings, "count", lambda job: job.state is not JobState.RUNNING)
    assert ended.state is JobState.FAILED
    log = settings.jobs_folder / "count" / "log"
    assert f"RuntimeError: a bug. Details are in {log}" in str(ended.error)
    wait(settings, "count", lambda _: "Traceback" in log.read_text())


def test_key_can_not_lead_out_of_the_folder(settings: Settings) -> None:
    with pytest.raises(ValueError, match="job key"):
        jobs.status(settings, "../count")


def _pid(settings: Settings) -> int:
    """Of the process that holds the lock of the job `count`."""
    lock = settings.jobs_folder / "count" / "lock"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(link.resolve() == lock for link in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue
    raise AssertionError("nobody holds the lock")
