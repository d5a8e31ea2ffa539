"""An MLflow that may go away for a while: what is written to it waits in order and arrives later.

A `PatientTracking` is a `Tracking` whose calls are made one after the other by a thread of its own. What only writes
returns at once; what answers something, or must be known to have arrived, is waited for. While MLflow is away the
oldest call is tried again and again, and those after it wait: their order is kept, and nothing is lost but by the end
of the process.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from storage.errors import TrackingUnavailable
from storage.room import NO_ROOM, told_when_full
from storage.settings import Settings
from storage.tracking import Tracking

logger = logging.getLogger(__name__)

LIMIT = 10_000  # calls that wait at most; the next one is waited for
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)  # waits before another try, the last one for ever
LOOK_SECONDS = 0.1  # between two looks whether what is waited for has arrived
END_SECONDS = 5.0  # patience with what still waits when nobody writes any more
_T = TypeVar("_T")

_QUEUED = (
    "log_params",
    "log_history",
    "set_tags",
    "log_dict",
    "log_image",
    "log_file",
    "end_run",
    "delete_artifacts",
)
_ANSWERED = (
    "experiment",
    "start_run",
    "tags",
    "run",
    "tagged_runs",
    "read_dict",
    "artifact_folder",
    "has_run",
    "folder_out_of_reach",
    "log_folder",  # of files that may be gone later
    "log_model",
    "register",
    "set_champion",
    "clear_champion",
    "champion_version",
    "tag_version",
    "model_folder",
    "registered_version",
    "checkpoint_folder",
)


class PatientTracking(Tracking):
    """A `Tracking` that waits where the other one fails. For one thread; `close` it.

    Raises:
        TrackingError: MLflow refuses; told by the next call that is waited for.
        DiskFull: there is no room for an artifact; told likewise.
        Exception: whatever `wait` raises; what was asked for is then made later, or never.
    """

    def __init__(self, settings: Settings, wait: Callable[[str | None], None]) -> None:
        """Begin; nothing is opened before the first call.

        Args:
            wait: called some times a second while something is waited for, with what is wrong, or None where nothing
                is. What it raises ends the waiting.
        """
        super().__init__(settings)
        self._made = Tracking(settings)  # by the thread alone
        self._wait = wait
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._trouble: str | None = None
        self._refused: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log the metrics of one step, as of now."""
        self.log_history(run_id, [(step, int(time.time() * 1000), dict(metrics))])

    def flush(self) -> None:
        """Wait until all that was written has arrived."""
        self.answer(lambda: None)

    def close(self) -> None:
        """End the thread. What still waits is given a few seconds, for MLflow may be away for long."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(END_SECONDS)

    def later(self, call: Callable[[], Any]) -> None:
        """Make a call after those before it."""
        while len(self._calls) >= LIMIT:
            self._wait(self._trouble)
            time.sleep(LOOK_SECONDS)
        self._put(call)

    def answer(self, call: Callable[[], _T]) -> _T:
        """Make a call after those before it, and wait for what it answers."""
        future = self._put(call)
        try:
            while not future.done():
                self._wait(self._trouble)
                with self._changed:
                    if not future.done():
                        self._changed.wait(LOOK_SECONDS)
        except BaseException:
            future.cancel()  # if it has not begun, it never will
            raise
        refused, self._refused = self._refused, None
        if refused is not None:
            raise refused
        answer: _T = future.result()
        return answer

    def _put(self, call: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        with self._changed:
            self._calls.append((call, future))
            self._changed.notify_all()
        return future

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._closing)
                if not self._calls:
                    return
                call, future = self._calls[0]
            done = not future.set_running_or_notify_cancel() or self._try(call, future)
            with self._changed:
                if done:
                    self._calls.popleft()
                    self._changed.notify_all()
                elif self._closing:
                    logger.warning("%d calls of MLflow are given up: %s", len(self._calls), self._trouble)
                    return

    def _try(self, call: Callable[[], Any], future: "Future[Any]") -> bool:
        """Make a call, however long MLflow is away; answers whether it was made before the end came."""
        for attempt in range(1_000_000):
            try:
                with told_when_full(self._settings.home):
                    answer = _made(call)
            except TrackingUnavailable as outage:
                self._trouble = str(outage)
                logger.warning("waiting for MLflow: %s", outage)
            except Exception as error:
                self._trouble = None
                self._refused = self._refused or error
                future.set_result(None)
                return True
            else:
                self._trouble = None
                future.set_result(answer)
                return True
            with self._changed:
                seconds = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
                if self._changed.wait_for(lambda: self._closing, seconds):
                    return False
        return False


def _made(call: Callable[[], Any]) -> Any:
    """What a call answers; where it fails for want of room, that error itself."""
    try:
        return call()
    except TrackingUnavailable as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            raise cause from None
        raise


def _queued(name: str) -> Callable[..., None]:
    def call(self: PatientTracking, *arguments: Any, **keywords: Any) -> None:
        self.later(partial(getattr(self._made, name), *arguments, **keywords))

    return call


def _answered(name: str) -> Callable[..., Any]:
    def call(self: PatientTracking, *arguments: Any, **keywords: Any) -> Any:
        return self.answer(partial(getattr(self._made, name), *arguments, **keywords))

    return call


# Every call of a Tracking that speaks to MLflow is one of the two; a test compares the lists with the class.
for _name in _QUEUED:
    setattr(PatientTracking, _name, _queued(_name))
for _name in _ANSWERED:
    setattr(PatientTracking, _name, _answered(_name))
