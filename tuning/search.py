"""Optuna as this product uses it: one Optuna study per study, asked and told, with the paper's settings tried first."""

import contextlib
import sqlite3
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


def ask(search: optuna.Study, spec: StudySpec) -> optuna.Trial:
    return search.ask(distributions(spec))


def left(trials: list[FrozenTrial], spec: StudySpec) -> int:
    running = sum(trial.state is TrialState.RUNNING for trial in trials)
    return max(0, (spec.trials or MAX_TRIALS) - counted(trials) - running)


def note_result(trial: optuna.Trial, _spec: StudySpec, result: Any) -> None:
    trial.set_user_attr("figures", result.figures.to_json())
    trial.set_user_attr("calibration", result.calibration.to_json())


def why_no_best(trials: list[FrozenTrial], _spec: StudySpec) -> str:
    errors = [trial.user_attrs["error"] for trial in trials if "error" in trial.user_attrs]
    last = f" The last error: {errors[-1]}" if errors else ""
    return f"None of the {len(trials)} trials completed, so there is no model to choose.{last}"


def open_search(
    url: str,
    study_id: int,
    spec: StudySpec,
    *,
    begin: bool = True,  # noqa: ARG001
    stream: int = 0,  # noqa: ARG001
) -> optuna.Study:
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
