"""Where a worker computes for one study: a child process that has the study loaded, whichever of them died before."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from engine.config import SimpleNetConfig
from storage.errors import DatabaseUnavailable, TrackingUnavailable
from tuning import computing
from tuning.child import Child, ChildDied
from tuning.computing import RunTrial, Trained
from tuning.context import ReadyBackbone, StudySetup
from tuning.errors import OutOfMemory, TuningError
from tuning.lease import Lease
from tuning.spec import StudySpec

logger = logging.getLogger(__name__)

CRASHES = 2  # times that preparing a study, or its champion, is tried again after its process died
UNWIND_SECONDS = 3.0  # for the features that are being written to be removed again
OUTAGE_SECONDS = 2.0  # between two tries while MLflow or the database is away

_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class Bench:
    """Computing for one study; for the study's own thread."""

    def __init__(self, child: Child, lease: Lease) -> None:
        """Nothing is computed yet."""
        self._child = child
        self._lease = lease
        self._setup: StudySetup | None = None
        self._loaded = 0  # which of the child's processes has the study

    def resolve(self, spec: StudySpec, names: Mapping[str, str]) -> dict[str, ReadyBackbone]:
        """The backbones of a study on this machine; see `computing.resolve`."""
        settings = self._lease.workspace.settings

        def resolve() -> Any:
            self._child.start()
            return self._run(computing.resolve, settings, spec, names, on_message=self._report)

        ready: dict[str, ReadyBackbone] = self._steadily(resolve, "preparing the backbone")
        return ready

    def load(self, setup: StudySetup) -> None:
        """Have the study's features; see `computing.load`."""
        self._setup, self._loaded = setup, 0
        self._steadily(self._ready, "computing the features of the pictures")

    def train(
        self,
        backbone: str,
        config: SimpleNetConfig,
        smaller: int,
        head: Path,
        run: RunTrial,
        *,
        on_epoch: Callable[[tuple[Any, ...]], bool],
    ) -> Trained | None:
        """Train one configuration; see `computing.train_trial`. None where `on_epoch` answered False.

        Raises:
            ChildDied: its process crashed or was killed; the next call has another one.
        """
        self._ready()
        trained: Trained | None = self._run(
            computing.train_trial, backbone, config, smaller, head, run, on_message=on_epoch
        )
        return trained

    def candidate(self, backbone: str, best: FrozenTrial) -> None:
        """Make the champion candidate, waiting for MLflow and the database where they are away."""
        lease = self._lease

        def tell(message: tuple[Mapping[str, Any], bool]) -> bool:
            lease.report({"waiting": None, **message[0]}, at_once=message[1])
            return True

        def make() -> None:
            self._ready()
            self._run(computing.candidate, lease.study, lease.hold, backbone, best, on_message=tell)

        while True:
            try:
                self._steadily(make, "making the champion")
            except (TrackingUnavailable, DatabaseUnavailable) as outage:
                logger.warning("waiting: %s", outage, extra={"study": lease.study.id})
                lease.report({"waiting": str(outage)}, at_once=True)
                lease.pause(OUTAGE_SECONDS)
            else:
                return

    def renew(self) -> None:
        """Compute in a new process from now on: after some errors a device does nothing right any more."""
        self._child.kill()

    def _ready(self) -> None:
        """A process that has the study."""
        started = self._child.start()
        if started == self._loaded:
            return
        self._run(computing.load, self._setup, on_message=self._report, grace_seconds=UNWIND_SECONDS)
        self._loaded = started

    def _report(self, progress: Mapping[str, Any]) -> bool:
        self._lease.report(progress, at_once="fetching" in progress)
        return True

    def _run(self, task: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        return self._child.run(task, *arguments, check=self._lease.check, **keywords)

    def _steadily(self, action: Callable[[], Any], doing: str) -> Any:
        for crash in range(CRASHES + 1):
            try:
                return action()
            except ChildDied as death:
                logger.warning("%s: %s", doing, death, extra={"study": self._lease.study.id})
                if crash == CRASHES:
                    raise TuningError(
                        f"{death} That was while {doing}, {CRASHES + 1} times in a row. Give the worker more memory, "
                        "make the pictures smaller, or choose a smaller backbone; then launch the study again."
                    ) from death
            except (MemoryError, RuntimeError) as error:
                if not is_memory(error):
                    raise
                raise OutOfMemory(
                    f"Memory ran out while {doing}: {error} Make the pictures smaller, choose a smaller backbone, or "
                    "let nothing else use the device; then launch the study again."
                ) from error
        raise AssertionError("unreachable")


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or beside it. Torch raises RuntimeError for the latter."""
    if isinstance(error, ChildDied):
        return error.killed
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _MEMORY)
