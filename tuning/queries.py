"""What pages and the command line show of studies: Optuna's trials, links into MLflow, and whether anything can run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from storage import studies, workers
from storage.errors import DatabaseUnavailable
from storage.records import Study, Worker, now
from storage.settings import Settings
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning import trial_times
from tuning.budget import best, feasible, own
from tuning.insight import Importance, Method, importance
from tuning.search import open_storage, study_name
from tuning.wishes import ERROR, KNOWN, LOST, ORIGIN, PAPERS, given_up

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
    known_good: bool  # settings that are known to be good with its kind of noise, tried second
    calibration: Mapping[str, Any]  # threshold and absolute scale; empty before completion
    worker: str | None  # id of the worker that ran it
    device: str | None  # what it ran on
    latency_ms: float | None  # measured, of one picture; None where nobody measured
    within_limits: bool  # or there are none: it can win


def study_trials(workspace: Workspace, study: Study) -> list[TrialRecord]:
    """The trials of a study in the order they were made; empty before its worker has begun.

    Raises:
        DatabaseUnavailable: Optuna's database can't be read.
    """
    return [_record(trial) for trial in _own_trials(workspace, study)]


def best_trial(workspace: Workspace, study: Study) -> TrialRecord | None:
    """The study's own trial of the highest value that keeps all limits; None where there is none yet.

    Raises:
        DatabaseUnavailable: Optuna's database can't be read.
    """
    found = best(_own_trials(workspace, study))
    return None if found is None else _record(found)


def best_so_far(workspace: Workspace, study: Study) -> dict[int, float]:
    """By each own trial, counted from 1, the highest value to it that keeps all limits.

    Raises:
        DatabaseUnavailable: Optuna's database can't be read.
    """
    trials = _own_trials(workspace, study)
    found = {trial.number + 1: best(trials[: place + 1]) for place, trial in enumerate(trials)}
    return {number: float(one.value or 0.0) for number, one in found.items() if one is not None}


def _own_trials(workspace: Workspace, study: Study) -> list[FrozenTrial]:
    search = opened(workspace, study.id)
    if search is None:
        return []
    with _readable():
        return own(search.get_trials(deepcopy=False))


def study_importance(
    workspace: Workspace, study: Study, method: Method = Method.PED_ANOVA
) -> Importance | None:
    """What mattered in a study; None where too few trials completed.

    Raises:
        DatabaseUnavailable: Optuna's database can't be read.
    """
    search = opened(workspace, study.id)
    if search is None:
        return None
    with _readable():
        return importance(search, method)


def records(search: optuna.Study) -> list[TrialRecord]:
    """The trials of an Optuna study but for those that it was given from another one, as people see them."""
    return [_record(trial) for trial in own(search.get_trials(deepcopy=False))]


def opened(workspace: Workspace, study_id: int) -> optuna.Study | None:
    """The Optuna study of a study, kept open: it remembers trials that have ended. None before its worker has begun."""
    with _readable():
        try:
            return _opened(workspace.settings.optuna_url, study_id)
        except KeyError:
            return None


@lru_cache(maxsize=64)
def _opened(url: str, study_id: int) -> optuna.Study:
    return optuna.load_study(study_name=study_name(study_id), storage=open_storage(url))


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except StorageInternalError as error:
        raise DatabaseUnavailable(
            f"Optuna's database can not be read: {error}. Check SIMPLENET_OPTUNA_URL and that the database is in reach."
        ) from error


def run_url(workspace: Workspace, run_id: str) -> str:
    """Address of a run in the MLflow UI, which finds the experiment itself."""
    return f"{workspace.settings.mlflow_url}/#/runs/{run_id}"


def experiment_url(workspace: Workspace, dataset_name: str) -> str:
    """Address of all runs of a dataset in the MLflow UI."""
    experiment = Tracking(workspace.settings).experiment(dataset_name)
    return f"{workspace.settings.mlflow_url}/#/experiments/{experiment}/runs"


def comparison_url(workspace: Workspace, dataset_name: str, run_ids: Sequence[str]) -> str:
    """Address of several runs side by side in the MLflow UI."""
    experiment = Tracking(workspace.settings).experiment(dataset_name)
    runs, experiments = (
        quote(json.dumps(ids, separators=(",", ":"))) for ids in (list(run_ids), [experiment])
    )
    return f"{workspace.settings.mlflow_url}/#/compare-runs?runs={runs}&experiments={experiments}"


def model_url(workspace: Workspace, dataset_name: str, version: int) -> str:
    """Address of a registered model version in the MLflow UI."""
    return f"{workspace.settings.mlflow_url}/#/models/{dataset_name}/versions/{version}"


def live_workers(workspace: Workspace) -> list[Worker]:
    """Workers that were heard of within the last half minute."""
    with workspace.session() as session:
        moment = studies.common_clock(session, now())
        return workers.list_workers(session, alive_since=moment - timedelta(seconds=ALIVE_SECONDS))


def common_now(workspace: Workspace) -> datetime:
    """The present moment by the clock that heartbeats are told by, whichever machine asks."""
    with workspace.session() as session:
        return studies.common_clock(session, now())


def shares_studies(settings: Settings) -> bool:
    """Whether several workers may run trials of one study: where both databases are PostgreSQL.

    SQLite locks a whole database for every write, and Optuna would give one enqueued trial to two workers there.
    """
    return not any(url.startswith("sqlite") for url in (settings.database_url, settings.optuna_url))


def worker_alive(workspace: Workspace) -> bool:
    """Whether any worker would take a queued study."""
    return bool(live_workers(workspace))


def _record(trial: FrozenTrial) -> TrialRecord:
    attrs = trial.user_attrs
    return TrialRecord(
        number=trial.number,
        state=INTERRUPTED if given_up(trial) else _STATES[trial.state],
        value=trial.value if trial.state is TrialState.COMPLETE else None,
        params=dict(trial.params),
        intermediate=dict(trial.intermediate_values),
        figures=attrs.get("figures", {}),
        config=attrs.get("config", {}),
        started_at=trial_times.began(trial),
        duration_seconds=trial_times.seconds(trial),
        run_id=attrs.get("run_id"),
        error=attrs.get(ERROR, attrs.get(LOST)) if trial.state is TrialState.FAIL else None,
        from_paper=attrs.get(ORIGIN) == PAPERS,
        known_good=attrs.get(ORIGIN) == KNOWN,
        calibration=attrs.get("calibration", {}),
        worker=attrs.get("worker"),
        device=attrs.get("device"),
        latency_ms=attrs.get("latency_ms"),
        within_limits=feasible(trial),
    )
