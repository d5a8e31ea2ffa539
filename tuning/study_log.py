"""What a worker says while it works on a study: all of it in a file of its machine, its end in the database.

The database is what pages and commands read, for the worker may run on any machine.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from storage import studies, study_logs
from storage.errors import StorageError
from storage.records import LogEntry, now
from storage.settings import Settings
from storage.workspace import Workspace

logger = logging.getLogger(__name__)

KEPT_LINES = 200  # of a worker in the database, and of a study when it is shown
KEPT_BYTES = 32 << 10  # of a worker in the database
KEEP_SECONDS = 2.0  # it is written at most this often
_PACKAGES = ("engine", "storage", "tuning")


def study_log(settings: Settings, study_id: int) -> Path:
    """The file that all workers of this home append to."""
    return settings.logs_folder / f"study-{study_id}.log"


def last_entries(workspace: Workspace, study_id: int) -> list[LogEntry]:
    """The last of what any worker logged of a study, on whatever machine: together at most `KEPT_LINES` lines."""
    with workspace.session() as session:
        entries = study_logs.list_log(session, study_id)
    lines = 0
    for start in range(len(entries) - 1, -1, -1):
        lines += _lines(entries[start].text)
        if lines > KEPT_LINES:
            return entries[start + 1 :]
    return entries


def as_lines(entries: Sequence[LogEntry]) -> list[str]:
    """Entries as people read them, times in UTC; each says whose it is where several workers wrote them."""
    several = len({entry.worker_id for entry in entries}) > 1
    return [
        line
        for entry in entries
        for line in (
            f"{entry.at:%Y-%m-%d %H:%M:%S} {f'[{writer(entry)}] ' if several else ''}{entry.text}"
        ).splitlines()
    ]


def writer(entry: LogEntry) -> str:
    """Which worker wrote an entry, and on which machine: ids that workers give themselves begin with it."""
    own = entry.worker_id.startswith(f"{entry.hostname}-")
    return entry.worker_id if own else f"{entry.worker_id} on {entry.hostname}"


class LogTail(logging.Handler):
    """Holds the last of what a worker logs of a study, and brings it to the database where `keep` is called."""

    def __init__(self, workspace: Workspace, study_id: int, worker_id: str, hostname: str) -> None:
        """Begin with nothing; needs no database until `keep`."""
        super().__init__()
        self._workspace = workspace
        self._study_id, self._worker_id, self._hostname = study_id, worker_id, hostname
        self._entries: deque[tuple[float, str]] = deque()
        self._changed = False
        self._kept_at = 0.0
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Take an entry, and let go of the oldest that there is no room for."""
        # A name of a file may hold what is no character at all; no database takes that.
        text = (
            self.format(record).encode("utf-8", "backslashreplace")[-KEPT_BYTES:].decode("utf-8", "replace")
        )
        self._entries.append((record.created, "\n".join(text.splitlines()[-KEPT_LINES:])))
        self._changed = True
        while len(self._entries) > 1 and self._is_too_long():
            self._entries.popleft()

    def _is_too_long(self) -> bool:
        texts = [text for _, text in self._entries]
        return sum(map(_lines, texts)) > KEPT_LINES or sum(len(text.encode()) for text in texts) > KEPT_BYTES

    def keep(self, *, at_once: bool = False) -> None:
        """Write to the database what was logged since the last time; not more often than every few seconds.

        Raises:
            DatabaseUnavailable: it is away; what was logged is written the next time.
        """
        moment = time.monotonic()
        if not self._changed or (moment - self._kept_at < KEEP_SECONDS and not at_once):
            return
        self._kept_at = moment
        self.acquire()  # any thread may log meanwhile
        entries, self._changed = list(self._entries), False
        self.release()
        try:
            with self._workspace.session() as session:
                study_logs.put_log(
                    session,
                    study_id=self._study_id,
                    worker_id=self._worker_id,
                    hostname=self._hostname,
                    entries=entries,
                    now=studies.common_clock(session, now()),
                )
        except StorageError:
            self._changed = True
            raise


@contextmanager
def logged(workspace: Workspace, study_id: int, worker_id: str, hostname: str) -> Iterator[LogTail]:
    """Write what this thread logs, and what is logged of the study, to the study's file and database as well.

    Gives what brings it to the database: for a thread that does so while this one works. The end is written here.
    """
    file = logging.FileHandler(study_log(workspace.settings, study_id), encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {worker_id}: %(message)s"))
    tail = LogTail(workspace, study_id, worker_id, hostname)
    thread = threading.get_ident()
    loggers = [logging.getLogger(name) for name in _PACKAGES]
    for handler in (file, tail):
        handler.addFilter(
            lambda record: record.thread == thread or getattr(record, "study", None) == study_id
        )
        for logger_ in loggers:
            logger_.addHandler(handler)
    try:
        yield tail
    finally:
        for handler in (file, tail):
            for logger_ in loggers:
                logger_.removeHandler(handler)
            with suppress(OSError):  # a full disk: the last lines are lost, the study must not be
                handler.close()
        try:
            tail.keep(at_once=True)
        except StorageError:
            logger.warning("the end of a study's log is not in the database", exc_info=True)


def _lines(text: str) -> int:
    return text.count("\n") + 1
