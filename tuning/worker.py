"""A worker process: claims one study after the other and runs each under its lease."""

import logging
import os
import socket
import threading
import uuid

from engine.devices import resolve_device
from engine.errors import EngineError
from storage import studies
from storage.errors import DatabaseUnavailable, LeaseLost, StorageError, TrackingError
from storage.records import Study, StudyState, now
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning.closing import close_study
from tuning.errors import StudyCancelled, StudyPaused, TooManyAttempts, TuningError
from tuning.lease import Lease, WorkerStopping
from tuning.study import run_study
from tuning.sweep import sweep

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0  # between two looks for a study
OUTAGE_SECONDS = 10.0  # after a database or MLflow was out of reach, before the next look
MAX_ATTEMPTS = 30  # claims of one study, pauses and outages included, before it counts as one that never ends


def worker_name() -> str:
    """A new worker's id: readable, and different even where host and process id come again."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def run_worker(
    workspace: Workspace,
    *,
    worker_id: str,
    stop: threading.Event,
    study_id: int | None = None,
    once: bool = False,
) -> None:
    """Claim and run studies until told to stop.

    Args:
        stop: ends the worker after the present step; its study is then free for another at once.
        study_id: end by itself as soon as this study is finished or paused; None: serve for ever.
        once: end by itself as soon as no study is waiting.
    """
    device = str(resolve_device(workspace.settings.device))
    sweep(workspace)
    with workspace.session() as session:
        studies.register_worker(
            session,
            worker_id=worker_id,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            device=device,
            now=now(),
        )
    logger.info("worker started", extra={"worker": worker_id, "device": device})
    try:
        while not stop.is_set() and not _ended(workspace, study_id):
            study = _claim(workspace, worker_id, study_id)
            if study is None and once:
                return
            if study is None:
                stop.wait(IDLE_SECONDS)
            else:
                _run(workspace, study, worker_id, stop)
    finally:
        with workspace.session() as session:
            studies.remove_worker(session, worker_id=worker_id)


def _claim(workspace: Workspace, worker_id: str, study_id: int | None) -> Study | None:
    """The next study, or None; an unreachable database is waited for, not died of."""
    try:
        with workspace.session() as session:
            studies.beat_worker(session, worker_id=worker_id, study_id=None, now=now())
            return studies.claim(
                session,
                worker_id=worker_id,
                now=now(),
                lease_seconds=workspace.settings.lease_seconds,
                study_id=study_id,
            )
    except StorageError:
        logger.exception("no claim possible; trying again", extra={"worker": worker_id})
        return None


def _ended(workspace: Workspace, study_id: int | None) -> bool:
    if study_id is None:
        return False
    with workspace.session() as session:
        state = studies.get_study(session, study_id).state
    return state.finished or state is StudyState.PAUSED


def _run(workspace: Workspace, study: Study, worker_id: str, stop: threading.Event) -> None:
    """Run one claimed study and record how it ended.

    A database or an MLflow server that is out of reach does not fail the study: it is handed back and taken again.
    """
    extra = {"study": study.id, "worker": worker_id}
    logger.info("study claimed", extra=extra)
    state, error = StudyState.FAILED, None
    try:
        if study.attempt > MAX_ATTEMPTS:
            raise TooManyAttempts(
                f"Study '{study.name}' was begun {study.attempt - 1} times without reaching its end; at most "
                f"{MAX_ATTEMPTS} are allowed. Look for the reason in the workers' logs, then launch it again."
            )
        with Lease(workspace, study, worker_id, stop) as lease:
            run_study(workspace, lease)
        state = StudyState.COMPLETED
    except StudyCancelled:
        state = StudyState.CANCELLED
    except StudyPaused:
        state = StudyState.PAUSED
    except LeaseLost:
        logger.warning("lease lost; another worker has the study", extra=extra)
        return
    except WorkerStopping:
        _hand_back(workspace, study, worker_id)
        return
    except (DatabaseUnavailable, TrackingError) as outage:
        logger.exception("out of reach", extra=extra)
        if study.attempt < MAX_ATTEMPTS:
            _hand_back(workspace, study, worker_id)
            stop.wait(OUTAGE_SECONDS)
            return
        error = str(outage)
    except (EngineError, StorageError, TuningError) as known:
        logger.warning("study failed: %s", known, extra=extra)
        error = str(known)
    except Exception as unknown:
        incident = uuid.uuid4().hex[:8]
        logger.exception("study failed, incident %s", incident, extra=extra)
        error = f"{type(unknown).__name__}: {unknown} (incident {incident}; the worker's log has the details)"
    _finish(workspace, study, worker_id, state, error)


def _hand_back(workspace: Workspace, study: Study, worker_id: str) -> None:
    """Free the study at once; where even that fails, its lease runs out."""
    try:
        with workspace.session() as session:
            studies.release(session, study_id=study.id, worker_id=worker_id, attempt=study.attempt, now=now())
    except StorageError:
        logger.exception("study not handed back; its lease will run out", extra={"study": study.id})


def _finish(workspace: Workspace, study: Study, worker_id: str, state: StudyState, error: str | None) -> None:
    try:
        with workspace.session() as session:
            finished = studies.finish(
                session,
                study_id=study.id,
                worker_id=worker_id,
                attempt=study.attempt,
                state=state,
                error=error,
                now=now(),
            )
    except (LeaseLost, DatabaseUnavailable):
        logger.exception("the end of a study could not be recorded", extra={"study": study.id})
        return
    if state in (StudyState.FAILED, StudyState.CANCELLED):
        close_study(workspace, Tracking(workspace.settings), finished)
