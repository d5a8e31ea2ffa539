"""Ending what a study that failed or was cancelled left open: trials in Optuna, runs in MLflow."""

import logging
import shutil

from optuna.exceptions import OptunaError

from storage import slots
from storage.errors import StorageError
from storage.records import Study, StudyState
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning import heads, queries, retries
from tuning.budget import counted
from tuning.objective import Objective

logger = logging.getLogger(__name__)


def close_study(workspace: Workspace, tracking: Tracking, study: Study) -> None:
    """End the running trials and runs of a finished study, so that no page shows them as running; keep its plots.

    Of a cancelled one what waits to be tried is ended, too, and the weights that lie here for a model are deleted (its
    runs keep theirs): a failed one may be given more trials and go on.

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
        _record(workspace, tracking, study, study.parent_run_id)
    except (StorageError, OptunaError):
        logger.exception("runs of a finished study stay open in MLflow", extra={"study": study.id})
    finally:
        if cancelled:
            shutil.rmtree(heads.study_folder(workspace, study.id), ignore_errors=True)


def _record(workspace: Workspace, tracking: Tracking, study: Study, run_id: str) -> None:
    from tuning.recording import record_study  # draws, which the pages that import this need not

    search = queries.opened(workspace, study.id)
    tried = counted(search.get_trials(deepcopy=False)) if search is not None else 0
    if search is not None and tried:
        record_study(tracking, run_id, str(Objective.of(study.spec["objective"])), search)
