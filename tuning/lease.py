"""A worker's hold on a study and on the trial that it runs: a thread keeps both alive and hears what is wanted.

The study's thread asks at every step whether to go on. One worker leads a study: it holds the study's lease, prepares
it and makes its champion. Others help: they hold trials of it only.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError

from storage import slots, studies, workers
from storage.errors import DatabaseUnavailable, LeaseLost, StorageError
from storage.heartbeats import Watch
from storage.records import Study, StudyState, TrialSlot, Wanted, now
from storage.workspace import Workspace
from tuning.errors import StudyCancelled, StudyPaused

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5  # progress is written at most this often; a page refreshes no faster
WISH_SECONDS = 1.0  # between two looks at what is wanted
OUTAGE_SECONDS = (0.5, 1.0, 2.0, 5.0)  # waits while a database is away, the last one for ever
_Answer = TypeVar("_Answer")


class WorkerStopping(Exception):
    """The worker process is to end: not an error, the study goes on elsewhere or later."""


class TrialTaken(Exception):
    """Another worker has the trial by now: this one was not heard of for too long. Not an error of the study."""


class Lease:
    """Holds a study, and a trial of it, while used as a context manager. Its methods are for the study's own thread.

    A heartbeat that fails because the database is busy or away is tried again at the next beat.
    """

    def __init__(
        self,
        workspace: Workspace,
        study: Study,
        worker_id: str,
        stop: threading.Event,
        *,
        watch: Watch,
        lead: bool = True,
        beside: Callable[[], None] = lambda: None,
    ) -> None:
        """Take over the hold that a claim gave.

        Args:
            study: as `studies.claim` answered it; its attempt number fences all that a lead writes.
            stop: set when the worker process is asked to end; the study is then left for another worker.
            watch: kept up to date with every heartbeat, so that this worker knows who else has fallen silent.
            lead: holds the study's lease; a helper holds the slot of a trial only.
            beside: what the thread does as well about once a second; may raise what a heartbeat may.
        """
        self.workspace = workspace
        self.study = study
        self.worker_id = worker_id
        self.lead = lead
        self.watch = watch
        self.slot: TrialSlot | None = None
        self._trial_number: int | None = None
        self._stop = stop
        self._beside = beside
        self._released = threading.Event()
        self._wanted = Wanted.RUN
        self._queued = False
        self._lost: LeaseLost | None = None
        self._slot_lost: TrialSlot | None = None
        self._reported_at = 0.0
        self._progress: dict[str, Any] = dict(study.progress)
        self._thread = threading.Thread(target=self._keep_alive, name=f"lease-{study.id}", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._thread.join()

    @property
    def hold(self) -> dict[str, Any]:
        """What every fenced write to the study names."""
        return {"study_id": self.study.id, "worker_id": self.worker_id, "attempt": self.study.attempt}

    @property
    def lead_wanted(self) -> bool:
        """Whether nobody leads the study that this worker helps with: its lead gave it back, or has fallen silent."""
        if self.lead:
            return False
        return self._queued or any(beat.id == self.study.id for beat in self.watch.silent("study"))

    def hold_slot(self, slot: TrialSlot | None, trial_number: int | None = None) -> None:
        """Keep the slot of a trial alive as well, from now on; None: none any more."""
        self._slot_lost = None
        self.slot, self._trial_number = slot, trial_number

    def check(self) -> None:
        """Unwind the study or its trial if it should not go on.

        Raises:
            StudyCancelled, StudyPaused: by a person's wish.
            WorkerStopping: the worker process is to end.
            LeaseLost: another worker has the study, or it has ended.
            TrialTaken: another worker has the trial.
        """
        if self._lost is not None:
            raise self._lost
        if self._stop.is_set():
            raise WorkerStopping(f"Worker '{self.worker_id}' was asked to end.")
        if self._wanted is Wanted.CANCEL:
            raise StudyCancelled(f"Study '{self.study.name}' was cancelled.")
        if self._wanted is Wanted.PAUSE:
            raise StudyPaused(f"Study '{self.study.name}' was paused.")
        if self._slot_lost is not None and self._slot_lost is self.slot:
            raise TrialTaken(f"Trial slot {self.slot.number} of study '{self.study.name}' was taken over.")

    def report(self, progress: Mapping[str, Any], *, at_once: bool = False) -> None:
        """Show how far the study or the trial is; what changes is merged into what was reported before. Also checks.

        While the database is away nothing is shown, and the work goes on.
        """
        self.check()
        self._progress.update(progress)
        moment = time.monotonic()
        if not at_once and moment - self._reported_at < PROGRESS_SECONDS:
            return
        self._reported_at = moment
        try:
            if self.slot is not None:
                self._report_trial(self.slot)
            if self.lead:
                with self.workspace.session() as session:
                    studies.set_progress(session, **self.hold, progress=self._progress)
        except DatabaseUnavailable:
            logger.warning("progress not shown: the database is away", extra={"study": self.study.id})

    def _report_trial(self, slot: TrialSlot) -> None:
        try:
            with self.workspace.session() as session:
                slots.beat_slot(session, slot, _of_trial(self._progress))
        except LeaseLost as lost:
            raise TrialTaken(str(lost)) from lost

    def patiently(self, action: Callable[[], _Answer]) -> _Answer:
        """Do something with our database or Optuna's, waiting while it is away. Checks meanwhile.

        Raises:
            TrialTaken: somebody has ended the trial that it would write to, and with it what `check` may raise.
        """
        attempt = 0
        while True:
            try:
                answer = action()
            except UpdateFinishedTrialError as ended:  # before the next heartbeat could tell that it is taken
                raise TrialTaken(
                    f"A trial of study '{self.study.name}' was ended elsewhere: {ended}"
                ) from ended
            except (DatabaseUnavailable, StorageInternalError) as outage:
                logger.warning("waiting for the database: %s", outage, extra={"study": self.study.id})
                if attempt:  # said only of what lasts
                    self.report({"waiting": str(outage)}, at_once=True)
                self.pause(OUTAGE_SECONDS[min(attempt, len(OUTAGE_SECONDS) - 1)])
                attempt += 1
            else:
                if attempt > 1:
                    self.report({"waiting": None}, at_once=True)
                return answer

    def pause(self, seconds: float) -> None:
        """Do nothing for a while, but check."""
        until = time.monotonic() + seconds
        while True:
            self.check()
            left = until - time.monotonic()
            if left <= 0:
                return
            self._stop.wait(min(left, 0.1))

    def _keep_alive(self) -> None:
        settings = self.workspace.settings
        beat_at = 0.0
        while not self._released.is_set() and self._lost is None:
            try:
                if time.monotonic() >= beat_at:
                    self._beat()
                    beat_at = time.monotonic() + settings.heartbeat_seconds
                else:
                    self._hear()
                self._beside()
            except LeaseLost as error:
                self._lost = error
            except StorageError:
                logger.exception("heartbeat failed; trying again", extra={"study": self.study.id})
            self._released.wait(min(WISH_SECONDS, settings.heartbeat_seconds))

    def _beat(self) -> None:
        slot = self.slot
        if self.lead:
            with self.workspace.session() as session:
                seconds = self.workspace.settings.lease_seconds
                moment = studies.common_clock(session, now())
                studies.heartbeat(session, **self.hold, now=moment, lease_seconds=seconds)
        if slot is not None:
            try:
                with self.workspace.session() as session:
                    slots.beat_slot(session, slot)
            except LeaseLost:
                if self.slot is slot:  # not given back meanwhile by the study's thread
                    self._slot_lost = slot
        with self.workspace.session() as session:
            self.watch.see([*studies.study_beats(session), *slots.slot_beats(session)])
        self._hear()
        with self.workspace.session() as session:
            workers.beat_worker(
                session,
                worker_id=self.worker_id,
                study_id=self.study.id,
                trial_number=self._trial_number,
                now=studies.common_clock(session, now()),
            )

    def _hear(self) -> None:
        with self.workspace.session() as session:
            state, wanted = studies.wish(session, self.study.id)
        self._wanted = wanted
        self._queued = state is StudyState.QUEUED
        # A helper goes on while the study has no lead for a moment, but not after it has come to rest.
        if not self.lead and state not in (StudyState.RUNNING, StudyState.QUEUED) and wanted is Wanted.RUN:
            raise LeaseLost(
                f"Study '{self.study.name}' ({self.study.id}) is {state}. Its trials are not run any more."
            )


def _of_trial(progress: Mapping[str, Any]) -> dict[str, Any]:
    return {name: progress[name] for name in ("phase", "epoch", "epochs", "message") if name in progress}
