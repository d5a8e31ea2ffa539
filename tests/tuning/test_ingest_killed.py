"""The process that takes pictures in, killed at random moments of its life: the old state or the new one, never a part.

The moments are spread over the time that a whole run takes on this machine: its start, reading and unpacking, reading
the pictures, and the transaction at the end.
"""

import os
import random
import shutil
import signal
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from storage import datasets, staging
from storage.records import now
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tests.wholeness import check_whole, database_file
from tuning import arrivals, jobs
from tuning.arrivals import Intake, Plan
from tuning.jobs import Job, JobState
from tuning.sweep import OLD_SECONDS, sweep

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120
PLAN = Plan(intakes=(Intake(name="parts"),), who="ann")


@dataclass(frozen=True)
class Case:
    """An installation to which an upload has come, and what a whole run makes of it."""

    home: Path
    upload: str
    before: list[tuple[str, int, int]]  # versions: dataset, number, images
    after: list[tuple[str, int, int]]
    digests: set[tuple[str, str, str | None]]  # of the latest version in the end: of pixels, file and mask
    look_seconds: float
    take_seconds: float


@pytest.fixture(params=["new", "added"])
def case(
    request: pytest.FixtureRequest, tmp_path: Path, make_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> Case:
    """Measured by one whole run that nobody disturbs."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = make_folder(train=120, test_normal=20, defects={"dent": 10}, size=384)
    template = tmp_path / "template"
    workspace = open_workspace(Settings(home=template))
    before = []
    if request.param == "added":
        first = make_folder("first", train=20, flat=True, size=48)
        _step(workspace, "look", upload := _uploaded(workspace, first))
        _step(workspace, "take", upload)
        before = [("parts", 1, 20)]
        _ended(workspace.settings, "doctor-1")
    upload = _uploaded(workspace, folder)
    workspace.close()
    shutil.copytree(template, tmp_path / "reference")
    reference = open_workspace(Settings(home=tmp_path / "reference"))
    look_seconds, take_seconds = _step(reference, "look", upload), _step(reference, "take", upload)
    after = check_whole(reference.settings)
    assert after == [*before, ("parts", len(before) + 1, 150 + sum(count for _, _, count in before))]
    digests = _digests(reference)
    _ended(reference.settings, f"doctor-{len(after)}")
    reference.close()
    return Case(template, upload, before, after, digests, look_seconds, take_seconds)


@pytest.mark.slow
def test_ten_kills_spread_over_an_intake_leave_the_old_state_or_the_new_one(
    case: Case, tmp_path: Path
) -> None:
    moments = random.Random(1)
    seconds = case.look_seconds + case.take_seconds
    came_to = []
    for number in range(10):
        moment = (number + moments.random()) * seconds / 10
        if moment < case.look_seconds:
            came_to.append(_killed(case, tmp_path / str(number), "look", lambda _, at=moment: time.sleep(at)))
        else:
            at = moment - case.look_seconds
            came_to.append(_killed(case, tmp_path / str(number), "take", lambda _, at=at: time.sleep(at)))
    assert came_to.count("old") >= 5, came_to  # else hardly any was killed at work


@pytest.mark.slow
def test_kills_within_the_transaction_leave_the_old_state_or_the_new_one(case: Case, tmp_path: Path) -> None:
    moments = random.Random(2)
    for number in range(6):
        delay = moments.uniform(0, 0.004) * (number % 3)

        def wait_for_a_write(workspace: Workspace, delay: float = delay) -> None:
            log = database_file(workspace.settings).with_suffix(".db-wal")
            before = _size(log)
            _until(lambda: _size(log) != before, pause=0)
            time.sleep(delay)

        _killed(case, tmp_path / str(number), "take", wait_for_a_write)


def _killed(case: Case, home: Path, step: str, wait: Callable[[Workspace], None]) -> str:
    """Kill one step after waiting, check what is left, and repeat it; answers which state the kill left."""
    shutil.copytree(case.home, home)
    workspace = open_workspace(Settings(home=home))
    settings = workspace.settings
    if step == "take":
        _step(workspace, "look", case.upload)
    job = _start(workspace, step, case.upload)
    assert job.state is JobState.RUNNING
    pid = _pid(settings, job.key)
    wait(workspace)
    if pid is not None:
        with suppress(ProcessLookupError):  # it was quicker this time
            os.killpg(pid, signal.SIGKILL)
    _until(lambda: not jobs.is_running(settings, job.key))
    ended = jobs.status(settings, job.key)
    assert ended is not None
    found = check_whole(settings)
    assert found in (case.before, case.after)
    assert ended.state is JobState.INTERRUPTED or (ended.state is JobState.DONE)
    if found == case.after:
        assert _digests(workspace) == case.digests
    if ended.state is JobState.DONE and step == "take":
        assert found == case.after
    elif step == "look":
        assert found == case.before
        _step(workspace, "look", case.upload)
        _step(workspace, "take", case.upload)
    elif ended.state is JobState.INTERRUPTED:  # whatever it had done by then, it can be repeated
        _step(workspace, "take", case.upload)
    assert check_whole(settings) == case.after
    assert _digests(workspace) == case.digests
    for pixels, digest, mask in case.digests:
        for one in filter(None, (digest, mask)):
            assert sha256(workspace.blobs.get(one)).hexdigest() == one, pixels
    _ended(settings, f"doctor-{len(case.after)}")
    _check_that_leftovers_go(workspace)
    workspace.close()
    shutil.rmtree(home, ignore_errors=True)  # the doctor may be closing its database still
    return "new" if found == case.after else "old"


def _check_that_leftovers_go(workspace: Workspace) -> None:
    """Young ones stay, for somebody may be at them; old ones go."""
    home = workspace.settings.home
    left = sorted(home.rglob(".tmp-*"))
    sweep(workspace)
    assert sorted(home.rglob(".tmp-*")) == left
    long_ago = time.time() - 8 * OLD_SECONDS
    for path in left:
        for one in (path, *path.rglob("*")):
            os.utime(one, (long_ago, long_ago))
    sweep(workspace)
    assert list(home.rglob(".tmp-*")) == []
    assert list(workspace.settings.staging_folder.iterdir()) == []


def _uploaded(workspace: Workspace, folder: Path) -> str:
    packed = folder.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, f"{folder.name}/{path.relative_to(folder)}")
    data = packed.read_bytes()
    upload = staging.create(
        workspace.settings.staging_folder,
        files=[(packed.name, len(data))],
        dataset="parts",
        limits=staging.Limits(max_bytes=1e9),
        now=now(),
    )
    staging.append(upload, staging.Position(0, 0), 0, data)
    staging.complete(upload, now())
    return upload.id


def _start(workspace: Workspace, step: str, upload: str) -> Job:
    if step == "look":
        return arrivals.start_look(workspace, upload)
    return arrivals.start_take(workspace, upload, PLAN)


def _step(workspace: Workspace, step: str, upload: str) -> float:
    """Do a step to its end; answers its seconds."""
    begun = time.monotonic()
    _ended(workspace.settings, _start(workspace, step, upload).key)
    return time.monotonic() - begun


def _ended(settings: Settings, key: str) -> None:
    _until(lambda: jobs.status(settings, key) is not None and not jobs.is_running(settings, key))
    job = jobs.status(settings, key)
    assert job is not None
    assert job.state is JobState.DONE, (job, (settings.jobs_folder / key / "log").read_text())


def _digests(workspace: Workspace) -> set[tuple[str, str, str | None]]:
    with workspace.session() as session:
        version = datasets.latest_version(session, "parts")
        images = datasets.list_images(session, version.id)
    return {(image.pixel_digest, image.digest, image.mask_digest) for image in images}


def _pid(settings: Settings, key: str) -> int | None:
    """Of the process that holds the lock of a job; None if it has ended."""
    lock = settings.jobs_folder / key / "lock"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(link.resolve() == lock for link in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue
    return None


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _until(holds: Callable[[], bool], pause: float = 0.02) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(pause)
