"""What pages and the command line show of studies: Optuna's trials, links into MLflow, and whether anything can run."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from storage import studies
from storage.records import Study, Worker, now
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning.search import LOST, trials_of

ALIVE_SECONDS = 30.0  # a worker without a heartbeat for so long counts as gone

INTERRUPTED = "interrupted"  # given up unfinished, by a person's wish or with its worker; tried again

_STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "queued",
}


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One configuration that a study tried, as people see it."""

    number: int
    state: str  # queued, running, completed, pruned, failed, interrupted
    value: float | None  # objective on validation after the last epoch
    params: Mapping[str, Any]
    intermediate: Mapping[int, float]  # objective by epoch
    figures: Mapping[str, Any]  # on validation; empty before completion
    config: Mapping[str, Any]
    started_at: datetime | None
    duration_seconds: float | None
    run_id: str | None  # MLflow
    error: str | None
    from_paper: bool  # the paper's settings, enqueued as the first trial


def study_trials(workspace: Workspace, study: Study) -> list[TrialRecord]:
    """The trials of a study in the order they were made; empty before its worker has begun."""
    return [_record(trial) for trial in trials_of(workspace.settings.optuna_url, study.id)]


def run_url(workspace: Workspace, dataset_name: str, run_id: str) -> str:
    """Address of a run in the MLflow UI."""
    experiment = Tracking(workspace.settings).experiment(dataset_name)
    return f"{workspace.settings.mlflow_url}/#/experiments/{experiment}/runs/{run_id}"


def experiment_url(workspace: Workspace, dataset_name: str) -> str:
    """Address of all runs of a dataset in the MLflow UI."""
    experiment = Tracking(workspace.settings).experiment(dataset_name)
    return f"{workspace.settings.mlflow_url}/#/experiments/{experiment}/runs"


def model_url(workspace: Workspace, dataset_name: str, version: int) -> str:
    """Address of a registered model version in the MLflow UI."""
    return f"{workspace.settings.mlflow_url}/#/models/{dataset_name}/versions/{version}"


def live_workers(workspace: Workspace) -> list[Worker]:
    """Workers that were heard of within the last half minute."""
    with workspace.session() as session:
        return studies.list_workers(session, alive_since=now() - timedelta(seconds=ALIVE_SECONDS))


def worker_alive(workspace: Workspace) -> bool:
    """Whether any worker would take a queued study."""
    return bool(live_workers(workspace))


def _record(trial: FrozenTrial) -> TrialRecord:
    attrs = trial.user_attrs
    return TrialRecord(
        number=trial.number,
        state=INTERRUPTED if LOST in attrs else _STATES[trial.state],
        value=trial.value if trial.state is TrialState.COMPLETE else None,
        params=dict(trial.params),
        intermediate=dict(trial.intermediate_values),
        figures=attrs.get("figures", {}),
        config=attrs.get("config", {}),
        # Optuna keeps naive local time.
        started_at=trial.datetime_start.astimezone(UTC) if trial.datetime_start else None,
        duration_seconds=trial.duration.total_seconds() if trial.duration else None,
        run_id=attrs.get("run_id"),
        error=attrs.get("error", attrs.get(LOST)),
        from_paper=attrs.get("origin") == "paper",
    )
