"""Ending what a study that failed or was cancelled left open: trials in Optuna, runs in MLflow."""

import logging

from storage import slots
from storage.errors import StorageError
from storage.records import Study, StudyState
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning import retries

logger = logging.getLogger(__name__)


def close_study(workspace: Workspace, tracking: Tracking, study: Study) -> None:
    """End the running trials and runs of a finished study, so that no page shows them as running.

    Of a cancelled one what waits to be tried is ended, too: a failed one may be given more trials and go on.

    The study's own state is recorded already and stays as it is when MLflow is out of reach; that is logged.
    """
    with workspace.session() as session:
        slots.drop_slots(session, study.id)
    cancelled = study.state is StudyState.CANCELLED
    status = "KILLED" if cancelled else "FAILED"
    reason = f"the study was {study.state}"
    runs = retries.give_up(workspace.settings.optuna_url, study.id, reason, waiting=cancelled)
    try:
        if study.parent_run_id is None:
            return
        # Those too that were started by a worker that died before it could say so.
        tags = {"study": str(study.id)}
        for run_id in {
            *runs,
            study.parent_run_id,
            *tracking.tagged_runs(study.dataset_name, tags, status="RUNNING"),
        }:
            tracking.end_run(run_id, status)
    except StorageError:
        logger.exception("runs of a finished study stay open in MLflow", extra={"study": study.id})
