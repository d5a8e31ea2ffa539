"""Optuna as this product uses it: one Optuna study per study, asked and told, with the paper's settings tried first."""

import contextlib
import sqlite3
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from engine.config import SimpleNetConfig
from storage.errors import DatabaseUnavailable
from tuning.spec import MAX_TRIALS, Range, StudySpec, Values

PAPER = {"noise_std": 0.015, "layers": "2+3", "adaptor_depth": 1}
"""The settings of SimpleNet, Liu et al., CVPR 2023, section 4.1: the first configuration that every study tries."""

RETRIES = 2  # times a trial is tried again whose worker died under it
LOST = "lost"  # user attribute of a trial that was given up unfinished: why; it does not count against the budget
ERROR = "error"  # user attribute of a trial that failed: why
RETRY_OF = "retry_of"  # user attribute: number of the lost trial that this one repeats
WARMUP_EPOCHS = 3  # no trial is pruned before


@lru_cache(maxsize=8)
def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Optuna's database, made when it is new. One per process and URL: it holds a connection pool.

    Raises:
        DatabaseUnavailable: it can't be opened.
    """
    try:
        if not url.startswith("sqlite:///"):
            return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        # WAL lets pages read while a worker writes; the mode stays with the file.
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 30}})
    except Exception as error:  # the driver's, SQLAlchemy's or Optuna's own
        raise DatabaseUnavailable(
            f"Optuna's database can not be opened: {type(error).__name__}. Check SIMPLENET_OPTUNA_URL and that the "
            "database is in reach."
        ) from error


def study_name(study_id: int) -> str:
    """Name of the Optuna study that belongs to a study."""
    return f"study-{study_id}"


def distributions(spec: StudySpec) -> dict[str, BaseDistribution]:
    """The search space in Optuna's terms."""
    return {name: _distribution(values) for name, values in spec.space.items()}


def _distribution(values: Values) -> BaseDistribution:
    if not isinstance(values, Range):
        return CategoricalDistribution(list(values))
    if values.integer:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def open_search(url: str, study_id: int, spec: StudySpec) -> optuna.Study:
    """The Optuna study of a study, made with the paper's settings enqueued when it is new.

    What of the paper's settings lies outside the space is left to the sampler.
    """
    search = optuna.create_study(
        storage=open_storage(url),
        study_name=study_name(study_id),
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=WARMUP_EPOCHS),
    )
    # A sampler seeded alike after a restart would propose the same configurations again.
    search.sampler = optuna.samplers.TPESampler(
        seed=spec.seed + len(search.trials),
        n_startup_trials=min(10, max(4, (spec.trials or MAX_TRIALS) // 3)),
    )
    if not search.trials:
        space = distributions(spec)
        first = PAPER | {name: getattr(SimpleNetConfig, name) for name in spec.knobs}
        inside = {key: value for key, value in first.items() if _contains(space[key], value)}
        search.enqueue_trial(inside, user_attrs={"origin": "paper"} if inside == first else {})
    return search


def recover(url: str, search: optuna.Study) -> list[str]:
    """Fail the trials whose worker died under them, and enqueue each again, at most twice; then it counts as failed.

    To be called by the one worker that holds the study's lease, before its first trial.

    Returns:
        The MLflow runs that those trials left open.
    """
    lost = search.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in lost:
        again = _retries(search, trial) < RETRIES
        _lose(url, search, trial.number, LOST if again else ERROR, "the worker died during this trial")
        if again:
            search.enqueue_trial(_configuration(trial), user_attrs={RETRY_OF: trial.number, **_origin(trial)})
    return [trial.user_attrs["run_id"] for trial in lost if "run_id" in trial.user_attrs]


def put_back(url: str, search: optuna.Study, number: int, reason: str) -> None:
    """Give up a running trial by a person's wish, and enqueue its configuration for when the study goes on."""
    trial = search.get_trials(deepcopy=False)[number]
    _lose(url, search, number, LOST, reason)
    search.enqueue_trial(_configuration(trial), user_attrs=dict(_origin(trial)))


def give_up(url: str, study_id: int, reason: str) -> list[str]:
    """Fail whatever is left running of a study that has ended.

    Returns:
        The MLflow runs that those trials left open.
    """
    try:
        search = optuna.load_study(storage=open_storage(url), study_name=study_name(study_id))
    except KeyError:  # it never began
        return []
    left = search.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in left:
        _lose(url, search, trial.number, LOST, reason)
    return [trial.user_attrs["run_id"] for trial in left if "run_id" in trial.user_attrs]


def _lose(url: str, search: optuna.Study, number: int, attribute: str, reason: str) -> None:
    storage = open_storage(url)
    study_id = storage.get_study_id_from_name(search.study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
    storage.set_trial_user_attr(trial_id, attribute, reason)
    search.tell(number, state=TrialState.FAIL)


def counted(trials: list[FrozenTrial]) -> int:
    """How many trials of the budget are used up: all that ended but those given up unfinished."""
    return sum(trial.state.is_finished() and not trial.user_attrs.get(LOST) for trial in trials)


def best(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The completed trial of the highest value; the earliest where several share it."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE and trial.value is not None]
    return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return (
        isinstance(distribution, FloatDistribution | IntDistribution)
        and distribution.low <= value <= distribution.high
    )


def _configuration(trial: FrozenTrial) -> dict[str, Any]:
    """What is known of a trial's parameters, those included that were enqueued for it and that it never asked for."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _origin(trial: FrozenTrial) -> Mapping[str, Any]:
    return {"origin": trial.user_attrs["origin"]} if "origin" in trial.user_attrs else {}


def _retries(search: optuna.Study, trial: FrozenTrial) -> int:
    """How often the configuration of `trial` was already tried again."""
    by_number = {other.number: other for other in search.get_trials(deepcopy=False)}
    count = 0
    while RETRY_OF in trial.user_attrs:
        count += 1
        trial = by_number[trial.user_attrs[RETRY_OF]]
    return count
