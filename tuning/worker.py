"""A worker process: claims one study after the other and runs each under its lease."""

import logging
import os
import socket
import threading
import uuid

from engine.devices import resolve_device
from engine.errors import EngineError
from storage import studies
from storage.errors import LeaseLost, StorageError
from storage.records import Study, StudyState, now
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning.errors import StudyCancelled, StudyPaused, TuningError
from tuning.lease import Lease, WorkerStopping
from tuning.study import run_study

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0  # between two looks for a study


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
            study = _claim(workspace, worker_id)
            if study is None and once:
                return
            if study is None:
                stop.wait(IDLE_SECONDS)
            else:
                _run(workspace, study, worker_id, stop)
    finally:
        with workspace.session() as session:
            studies.remove_worker(session, worker_id=worker_id)


def _claim(workspace: Workspace, worker_id: str) -> Study | None:
    """The next study, or None; an unreachable database is waited for, not died of."""
    try:
        with workspace.session() as session:
            studies.beat_worker(session, worker_id=worker_id, study_id=None, now=now())
            return studies.claim(
                session, worker_id=worker_id, now=now(), lease_seconds=workspace.settings.lease_seconds
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
    """Run one claimed study and record how it ended."""
    extra = {"study": study.id, "worker": worker_id}
    logger.info("study claimed", extra=extra)
    error: str | None = None
    try:
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
        with workspace.session() as session:
            studies.release(session, study_id=study.id, worker_id=worker_id, attempt=study.attempt, now=now())
        return
    except (EngineError, StorageError, TuningError) as known:
        logger.warning("study failed: %s", known, extra=extra)
        state, error = StudyState.FAILED, str(known)
    except Exception as unknown:
        incident = uuid.uuid4().hex[:8]
        logger.exception("study failed, incident %s", incident, extra=extra)
        state = StudyState.FAILED
        error = f"{type(unknown).__name__}: {unknown} (incident {incident}; the worker's log has the details)"
    try:
        with workspace.session() as session:
            studies.finish(
                session,
                study_id=study.id,
                worker_id=worker_id,
                attempt=study.attempt,
                state=state,
                error=error,
                now=now(),
            )
    except LeaseLost:
        logger.warning("lease lost before the end could be recorded", extra=extra)
        return
    if state in (StudyState.FAILED, StudyState.CANCELLED):
        _end_runs(workspace, study.id, "FAILED" if state is StudyState.FAILED else "KILLED")


def _end_runs(workspace: Workspace, study_id: int, status: str) -> None:
    """End the study's parent run in MLflow, so that no page shows it as running."""
    with workspace.session() as session:
        run_id = studies.get_study(session, study_id).parent_run_id
    if run_id is not None:
        try:
            Tracking(workspace.settings).end_run(run_id, status)
        except StorageError:
            logger.exception("the run of a finished study stays open in MLflow", extra={"study": study_id})
