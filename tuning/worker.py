"""A worker process: takes one study after the other, leads it under its lease or helps with its trials."""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.devices import resolve_device
from engine.errors import EngineError
from storage import slots, studies, workers
from storage.errors import (
    BlobsUnavailable,
    DatabaseUnavailable,
    DiskFull,
    LeaseLost,
    StorageError,
    StudyNotFound,
    TrackingError,
    TrackingUnavailable,
    WorkerNotFound,
)
from storage.heartbeats import Beat, Watch
from storage.records import Study, StudyState, now
from storage.tracking import Tracking
from storage.workspace import Session, Workspace
from tuning.budget import counted
from tuning.child import Child
from tuning.closing import close_study
from tuning.computing import RunTrial
from tuning.errors import (
    AlwaysFails,
    StudyCancelled,
    StudyPaused,
    TooManyAttempts,
    TuningError,
    UnableHere,
)
from tuning.lease import Lease, WorkerStopping
from tuning.queries import shares_studies
from tuning.search import trials_of
from tuning.study import help_study, lead_study
from tuning.study_log import logged
from tuning.sweep import sweep
from tuning.trial import run_trial

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0  # between two looks for a study
OUTAGE_SECONDS = 10.0  # after MLflow refused something, before the next look
UNABLE_SECONDS = 300.0  # that a worker leaves a study to others which it can't work on
RECORD_SECONDS = 1.0  # between two tries to record how a study ended
MAX_ATTEMPTS = 30  # in a row that ended with their worker, and with no trial ended, before a study never ends
_VAIN = "vain"  # in a study's progress: how many such attempts there were, and after how many ended trials


def worker_name(place: str | None = None) -> str:
    """A new worker's id: readable, and different even where place and process id come again.

    Args:
        place: where it runs, for people; None: on the machine of this name.
    """
    return f"{place or socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def device_name(device: torch.device) -> str:
    """A device for people: 'cpu', 'cuda', or 'cuda (GPU 3)' where CUDA_VISIBLE_DEVICES has pinned the process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"{device} (GPU {visible})" if device.type == "cuda" and visible else str(device)


@dataclass
class _Worker:
    workspace: Workspace
    worker_id: str
    stop: threading.Event
    run: RunTrial
    child: Child
    watch: Watch
    device: str
    place: str
    unable: dict[int, float] = field(
        default_factory=dict
    )  # by study that it can't work on: until when, monotonic

    def step_aside(self, study: Study) -> None:
        """Leave a study to others for some minutes: what is wrong here may be mended by then."""
        self.unable[study.id] = time.monotonic() + UNABLE_SECONDS

    def without(self) -> list[int]:
        """The studies that this worker leaves to others now."""
        moment = time.monotonic()
        return [study_id for study_id, until in self.unable.items() if until > moment]


def run_worker(
    workspace: Workspace,
    *,
    worker_id: str,
    stop: threading.Event,
    place: str | None = None,
    study_id: int | None = None,
    once: bool = False,
    run: RunTrial = run_trial,
) -> None:
    """Take and run studies until told to stop.

    Args:
        stop: ends the worker after the present step; its study is then free for another at once.
        place: where it runs, as the pages show it; None: on the machine of this name.
        study_id: end by itself as soon as this study is finished or paused; None: serve for ever.
        once: end by itself as soon as no study is waiting.
        run: what trains and judges one configuration; it is imported by the process that computes.
    Raises:
        StudyNotFound: there is no study `study_id`.
    """
    device = device_name(resolve_device(workspace.settings.device))
    sweep(workspace)
    with Child() as child:
        worker = _Worker(
            workspace=workspace,
            worker_id=worker_id,
            stop=stop,
            run=run,
            child=child,
            watch=Watch(workspace.settings.lease_seconds),
            device=device,
            place=place or socket.gethostname(),
        )
        _register(worker)
        child.prepare()
        logger.info("worker started", extra={"worker": worker_id, "device": device})
        try:
            _serve(worker, study_id, once)
        finally:
            with workspace.session() as session:
                workers.remove_worker(session, worker_id=worker_id)


def _serve(worker: _Worker, study_id: int | None, once: bool) -> None:
    idle = min(IDLE_SECONDS, worker.workspace.settings.heartbeat_seconds / 2)
    while not worker.stop.is_set():
        try:
            if _ended(worker.workspace, study_id):
                return
            lead, study = _take(worker, study_id)
        except StudyNotFound:
            raise  # no waiting would bring it
        except StorageError:
            # An unreachable database is waited for, not died of.
            logger.exception("no claim possible; trying again", extra={"worker": worker.worker_id})
            worker.stop.wait(idle)
            continue
        if study is None and once:
            return
        if study is None:
            worker.stop.wait(idle)
        elif lead:
            _lead(worker, study)
        else:
            _help(worker, study)
            worker.stop.wait(idle)


def _take(worker: _Worker, study_id: int | None) -> tuple[bool, Study | None]:
    """The next study, and whether it is this worker's to lead; None where there is none."""
    workspace, watch = worker.workspace, worker.watch
    with workspace.session() as session:
        watch.see([*studies.study_beats(session), *slots.slot_beats(session)])
    _beat(worker)
    if silent := watch.silent("study"):
        _bring_to_rest(worker, silent)
    without = worker.without()
    with workspace.session() as session:
        shared = None
        if shares_studies(workspace.settings):
            shared = studies.first_open(session, study_id=study_id, without=without)
        led = studies.claim(
            session,
            worker_id=worker.worker_id,
            now=studies.common_clock(session, now()),
            lease_seconds=workspace.settings.lease_seconds,
            study_id=study_id,
            silent=silent,
            before=shared,
            without=without,
        )
    return led is not None, led or shared


def _bring_to_rest(worker: _Worker, silent: list[Beat]) -> None:
    """See to the studies that a person paused or cancelled and whose worker died before it could follow."""
    with worker.workspace.session() as session:
        rested = studies.bring_to_rest(session, silent=silent, now=now())
    for study in rested:
        if study.state is StudyState.CANCELLED:
            _close(worker, study)


def _close(worker: _Worker, study: Study) -> None:
    try:
        close_study(worker.workspace, Tracking(worker.workspace.settings), study)
    except DatabaseUnavailable:
        logger.exception("trials of a finished study stay open", extra={"study": study.id})


def _beat(worker: _Worker) -> None:
    try:
        with worker.workspace.session() as session:
            moment = studies.common_clock(session, now())
            workers.beat_worker(session, worker_id=worker.worker_id, study_id=None, now=moment)
    except WorkerNotFound:
        _register(worker)


def _register(worker: _Worker) -> None:
    with worker.workspace.session() as session:
        workers.register_worker(
            session,
            worker_id=worker.worker_id,
            hostname=worker.place,
            pid=os.getpid(),
            device=worker.device,
            threads=torch.get_num_threads(),
            now=studies.common_clock(session, now()),
        )


def _ended(workspace: Workspace, study_id: int | None) -> bool:
    if study_id is None:
        return False
    with workspace.session() as session:
        state, _ = studies.wish(session, study_id)
    return state.finished or state is StudyState.PAUSED


def _lead(worker: _Worker, study: Study) -> None:
    """Run one claimed study and record how it ended.

    What is out of reach does not fail the study, nor what MLflow refuses a few times: it is handed back, taken again.
    """
    workspace, stop = worker.workspace, worker.stop
    extra = {"study": study.id, "worker": worker.worker_id}
    hold: dict[str, Any] = {"study_id": study.id, "worker_id": worker.worker_id, "attempt": study.attempt}
    with logged(workspace, study.id, worker.worker_id, worker.place) as log:
        logger.info("study claimed", extra=extra)
        state, error, attempts = StudyState.FAILED, None, {"times": 1}
        try:
            with Lease(
                workspace, study, worker.worker_id, stop, watch=worker.watch, beside=log.keep
            ) as lease:
                attempts = _count_attempt(workspace, study)
                lease.report({_VAIN: attempts}, at_once=True)
                lead_study(workspace, lease, worker.child, worker.run)
            logger.info("study completed", extra=extra)
            return
        except StudyCancelled:
            state = StudyState.CANCELLED
        except StudyPaused:
            state = StudyState.PAUSED
        except LeaseLost:
            logger.warning("lease lost; another worker has the study", extra=extra)
            return
        except WorkerStopping:
            _record(worker, study, lambda session: studies.release(session, **hold, now=now()))
            return
        except DiskFull as full:
            reason = str(full)
            logger.warning("study pauses: %s", reason, extra=extra)
            _record(
                worker, study, lambda session: studies.pause_for(session, **hold, reason=reason, now=now())
            )
            return
        except UnableHere as trouble:
            reason = str(trouble)
            logger.warning("study left to others: %s", reason, extra=extra)
            worker.step_aside(study)
            _record(worker, study, lambda session: studies.release(session, **hold, now=now(), reason=reason))
            return
        except (DatabaseUnavailable, TrackingError, BlobsUnavailable) as outage:
            logger.exception("out of reach", extra=extra)
            # What MLflow refuses it may refuse for good; an outage is waited for, however long it lasts.
            refused = isinstance(outage, TrackingError) and not isinstance(outage, TrackingUnavailable)
            error = str(outage)
            if not refused or attempts["times"] < MAX_ATTEMPTS:
                _record(
                    worker,
                    study,
                    lambda session: studies.release(session, **hold, now=now(), reason=error),
                    in_vain=refused,
                )
                stop.wait(OUTAGE_SECONDS)
                return
        except (EngineError, StorageError, TuningError) as known:
            logger.warning("study failed: %s", known, extra=extra)
            error = str(known)
        except Exception as unknown:
            incident = uuid.uuid4().hex[:8]
            logger.exception("study failed, incident %s", incident, extra=extra)
            error = (
                f"{type(unknown).__name__}: {unknown} (incident {incident}; the worker's log has the details)"
            )
        _record(
            worker,
            study,
            lambda session: studies.finish(session, **hold, state=state, error=error, now=now()),
        )


def _help(worker: _Worker, study: Study) -> None:
    """Run trials of a study that another worker leads. What this one can't do is left to the others."""
    workspace = worker.workspace
    extra = {"study": study.id, "worker": worker.worker_id}
    with logged(workspace, study.id, worker.worker_id, worker.place) as log:
        try:
            with Lease(
                workspace,
                study,
                worker.worker_id,
                worker.stop,
                watch=worker.watch,
                lead=False,
                beside=log.keep,
            ) as lease:
                help_study(workspace, lease, worker.child, worker.run)
        except (StudyCancelled, StudyPaused, LeaseLost, WorkerStopping) as end:
            logger.info("no more help: %s", end, extra=extra)
        except (DatabaseUnavailable, TrackingError, BlobsUnavailable):
            logger.exception("out of reach", extra=extra)
        except AlwaysFails as end:  # the lead ends the study; whoever mends it may be helped at once
            logger.warning("no more help: %s", end, extra=extra)
        except Exception:
            logger.exception("this worker can't help with the study", extra=extra)
            worker.step_aside(study)


def _count_attempt(workspace: Workspace, study: Study) -> dict[str, int]:
    """Count this attempt as one in vain, as it is should the worker die; `_record` takes that back.

    Raises:
        TooManyAttempts: there were too many before, and no trial has ended meanwhile.
    """
    before = study.progress.get(_VAIN) or {}
    done = counted(trials_of(workspace.settings.optuna_url, study.id))
    times = before.get("times", 0) if before.get("after") == done else 0
    if times >= MAX_ATTEMPTS:
        raise TooManyAttempts(
            f"Study '{study.name}' was begun {times} times in a row without ending one trial; at most {MAX_ATTEMPTS} "
            "are allowed. Look for the reason in the workers' logs, then add trials: the study goes on with them."
        )
    return {"times": times + 1, "after": done}


def _record(worker: _Worker, study: Study, write: Callable[..., Study], *, in_vain: bool = False) -> None:
    """Write how a study ended, as soon as the database takes it; a worker that is to end leaves it to the lease.

    Args:
        in_vain: the attempt counts as one, as if the worker had died.
    """
    while True:
        try:
            with worker.workspace.session() as session:
                if not in_vain:
                    _forgive(session, study)
                ended = write(session)
            break
        except LeaseLost:
            logger.warning("somebody else has decided how the study goes on", extra={"study": study.id})
            return
        except DatabaseUnavailable:
            logger.exception("the end of a study is not recorded yet", extra={"study": study.id})
            if worker.stop.wait(RECORD_SECONDS):
                return
    if ended.state in (StudyState.FAILED, StudyState.CANCELLED):
        _close(worker, ended)


def _forgive(session: Session, study: Study) -> None:
    """Begin to count attempts anew: this one ended in good order."""
    progress = {**studies.get_study(session, study.id).progress, _VAIN: None}
    studies.set_progress(
        session,
        study_id=study.id,
        worker_id=str(study.worker_id),
        attempt=study.attempt,
        progress=progress,
    )
