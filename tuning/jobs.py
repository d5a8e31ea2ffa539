"""Work that outlives the page that asked for it: one process per job, its progress in a file that anybody can read.

A job has a key, and a folder of that name: `status.json` (written whole), `lock` (held by the process as long as it
lives, so that a dead one is told from a busy one), `cancel` (asks it to stop), `reserve` (room for the last status,
where the disk is full) and `log`. Nothing of it is in the database: what a job does there, it does in one transaction
of its own.
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from engine.errors import EngineError
from storage.atomic_files import write_file
from storage.errors import StorageError
from storage.records import now
from storage.room import NO_ROOM, told_when_full
from storage.settings import Settings
from tuning.errors import JobCancelled, JobRunning, TuningError

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is being done now); may raise to stop the work."""

WRITE_SECONDS = 0.3  # between two writings of the progress
LOCK_VARIABLE = "JOB_LOCK"  # tells a started process which of its descriptors is the lock
RESERVE_BYTES = 64 << 10  # kept back on the disk, so that the end of a job can be told even where it is full
_KEY = re.compile(r"[a-z0-9][a-z0-9-]{0,80}")
UNPACKING = "unpacking"  # begins what a job says while it counts bytes, and no pictures


class JobState(StrEnum):
    """Where a job is in its life."""

    RUNNING = "running"
    """Its process works, or is about to."""
    DONE = "done"
    """It came to its end; `result` says what came of it."""
    FAILED = "failed"
    """It stopped by itself; `error` says why and what to do."""
    CANCELLED = "cancelled"
    """A person stopped it; what it would have changed is as it was."""
    INTERRUPTED = "interrupted"
    """Its process died; what it would have changed is as it was. It can be started again."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is known of a job."""

    key: str
    state: JobState
    done: int = 0
    total: int = 0
    text: str = ""  # what is being done now
    started_at: datetime
    updated_at: datetime
    error: str | None = None
    result: Any = None  # JSON

    @property
    def seconds_left(self) -> float | None:
        """Guess from what is done; None while nothing can be said."""
        elapsed = (self.updated_at - self.started_at).total_seconds()
        if self.state is not JobState.RUNNING or not 0 < self.done <= self.total or elapsed < 1:
            return None
        return elapsed / self.done * (self.total - self.done)


def start(settings: Settings, key: str, module: str, arguments: Sequence[str]) -> Job:
    """Run `python -m module arguments` as a process of its own; the same job that runs already is left alone.

    The process must call `work` with the same key. It is born with the lock, so that there is no moment at which a dead
    one passes for one that is about to begin.

    Raises:
        DiskFull: no room for its status.
    """
    folder = _folder(settings, key)
    job = Job(key=key, state=JobState.RUNNING, text="starting", started_at=now(), updated_at=now())
    with told_when_full(settings.home), _lock_of(folder) as lock:
        if not _acquired(lock):
            return status(settings, key) or job
        if not _is_at(
            lock, folder
        ):  # forgotten between the opening and the locking: there is another folder now
            return start(settings, key, module, arguments)
        (folder / "cancel").unlink(missing_ok=True)
        _write(folder, job)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env={
                    **os.environ,
                    "SIMPLENET_HOME": str(settings.home),
                    LOCK_VARIABLE: str(lock.fileno()),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it outlives the server that started it
                pass_fds=[lock.fileno()],
            )
    threading.Thread(target=process.wait, daemon=True).start()  # leaves no zombie behind
    return job


def work(
    settings: Settings,
    key: str,
    do: Callable[[Progress], Any],
    *,
    afterwards: Callable[[], object] = lambda: None,
) -> Job:
    """Do a job in this process, keeping its status; errors that people can act on end up there, others are raised too.

    Args:
        afterwards: takes away what the job needs no more, once it is told that it came to its end.
    Raises:
        JobRunning: another process is at it.
    """
    folder = _folder(settings, key)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, key):
        job = Job(key=key, state=JobState.RUNNING, started_at=now(), updated_at=now())
        _write_if_room(folder, job)
        _keep_reserve(folder)
        last_written = 0.0

        def progress(done: int, total: int, text: str) -> None:
            nonlocal job, last_written
            if (folder / "cancel").exists():
                raise JobCancelled(f"Job '{key}' was cancelled. Start it again to go on.")
            if time.monotonic() - last_written < WRITE_SECONDS:
                return
            # "reading a.png", "reading b.png", "checking a.png": another verb, another pace to guess the end from.
            started_at = job.started_at if text.split(" ")[0] == job.text.split(" ")[0] else now()
            job = replace(job, done=done, total=total, text=text, updated_at=now(), started_at=started_at)
            _write_if_room(folder, job)
            last_written = time.monotonic()

        try:
            with told_when_full(settings.home):
                result = do(progress)
        except JobCancelled as stopped:
            job = replace(job, state=JobState.CANCELLED, error=str(stopped), updated_at=now())
            (folder / "cancel").unlink(missing_ok=True)
        except (EngineError, StorageError, TuningError) as error:
            job = replace(job, state=JobState.FAILED, error=str(error), updated_at=now())
        except BaseException as error:
            text = f"It stopped with {type(error).__name__}: {error}. Details are in {folder / 'log'}."
            _write_last(folder, replace(job, state=JobState.FAILED, error=text, updated_at=now()))
            raise
        else:
            job = replace(job, state=JobState.DONE, result=result, updated_at=now())
        _write_last(folder, job)
        if job.state is JobState.DONE:
            afterwards()
        return job


def status(settings: Settings, key: str) -> Job | None:
    """What is known of a job; None where there never was one, or it was forgotten."""
    folder = _folder(settings, key)
    values = _told(folder)
    if values is None:
        return None
    job = Job(
        **{
            **values,
            "state": JobState(values["state"]),
            "started_at": datetime.fromisoformat(values["started_at"]),
            "updated_at": datetime.fromisoformat(values["updated_at"]),
        }
    )
    if job.state is JobState.RUNNING and not _is_locked(folder):
        # It may have ended between the two looks.
        if _told(folder) != values:
            return status(settings, key)
        return replace(job, state=JobState.INTERRUPTED)
    return job


def cancel(settings: Settings, key: str) -> None:
    """Ask a job to stop at its next step."""
    folder = _folder(settings, key)
    if folder.is_dir():
        (folder / "cancel").touch()


def keys(settings: Settings, prefix: str) -> list[str]:
    """Keys that begin so of jobs that something is known of, be it only a log."""
    return [
        folder.name
        for folder in settings.jobs_folder.glob(f"{prefix}*")
        if _KEY.fullmatch(folder.name) and folder.is_dir()
    ]


def is_running(settings: Settings, key: str) -> bool:
    """Whether a process is at a job."""
    return _is_locked(_folder(settings, key))


def forget(settings: Settings, key: str, *, older_than: timedelta = timedelta(0)) -> None:
    """Take a job that doesn't run, and told nothing for so long, out of the records."""
    folder = _folder(settings, key)
    with contextlib.suppress(FileNotFoundError):  # there never was one, or another process is forgetting it
        told = [file.stat().st_mtime for file in folder.iterdir() if file.name != "lock"]
        last = max(told, default=folder.stat().st_mtime)
        if now().timestamp() - last < older_than.total_seconds():
            return
        with (folder / "lock").open("a") as lock:
            if _acquired_at_once(lock) and _is_at(lock, folder):
                # Out of the way first: whoever starts it meanwhile finds no folder, and makes one of its own.
                gone = folder.with_name(f".{key}.{secrets.token_hex(4)}")
                folder.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)


def sweep(settings: Settings, prefix: str, *, older_than: timedelta) -> None:
    """Forget jobs whose keys begin so, as `forget` does each.

    Fails never: what can't go is logged.
    """
    for key in keys(settings, prefix):
        try:
            forget(settings, key, older_than=older_than)
        except OSError:
            logger.warning("job can not be forgotten", extra={"job": key}, exc_info=True)


def _folder(settings: Settings, key: str) -> Path:
    if not _KEY.fullmatch(key):
        raise ValueError(f"job key {key!r} must be lowercase letters, digits and hyphens")
    return settings.jobs_folder / key


def _told(folder: Path) -> Any:
    """What a job has written of itself; None where there is nothing, no more, or what a power cut left of it."""
    try:
        return json.loads((folder / "status.json").read_bytes())
    except (FileNotFoundError, ValueError):  # it is written often, so nobody waits until it is safe
        return None


def _write(folder: Path, job: Job) -> None:
    values: Mapping[str, Any] = {
        **asdict(job),
        "started_at": job.started_at.isoformat(),
        "updated_at": job.updated_at.isoformat(),
    }
    write_file(folder / "status.json", json.dumps(values).encode(), settled=False)


def _write_if_room(folder: Path, job: Job) -> None:
    """Nobody stops working because its progress can't be told."""
    try:
        _write(folder, job)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise


def _keep_reserve(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / "reserve").write_bytes(bytes(RESERVE_BYTES))


def _write_last(folder: Path, job: Job) -> None:
    (folder / "reserve").unlink(missing_ok=True)
    _write(folder, job)


def _lock_of(folder: Path) -> IO[str]:
    """The file of a job's lock, and the folder around it, where `forget` has not taken it away in between."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return (folder / "lock").open("a")


def _is_at(lock: IO[str], folder: Path) -> bool:
    """Whether an open lock is still the one of a job's folder."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), (folder / "lock").stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _locked(folder: Path, key: str) -> Iterator[None]:
    with _inherited(folder / "lock") or (folder / "lock").open("a") as lock:
        if not _acquired(lock):
            raise JobRunning(f"Job '{key}' runs already. Wait for its end, or cancel it.")
        yield


def _inherited(path: Path) -> IO[str] | None:
    """The lock that `start` has given to this process, if it has."""
    try:
        descriptor = int(os.environ.pop(LOCK_VARIABLE, ""))
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            return None
    except (ValueError, OSError):
        return None
    os.set_inheritable(descriptor, False)  # else a process that this one starts would hold it on
    return os.fdopen(descriptor, "a")


def _acquired(lock: IO[str]) -> bool:
    for patience in (0.1, 0.2, 0.4, None):  # a page that looks whether it is locked holds it for a moment
        if _acquired_at_once(lock):
            return True
        if patience is not None:
            time.sleep(patience)
    return False


def _acquired_at_once(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(folder: Path) -> bool:
    try:
        # Never made by looking: it would stay of a folder that another process is deleting.
        with (folder / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (BlockingIOError, PermissionError):  # another user's is not ours to judge
        return True
    return False
