"""Optuna as this product uses it: one Optuna study per study, asked and told, with the paper's settings tried first."""

import contextlib
import sqlite3
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from storage.errors import DatabaseUnavailable
from tuning import trial_times
from tuning.budget import best, counted, left, own, untried, why_no_best
from tuning.spec import MAX_TRIALS, Pruner, Range, Sampler, StudySpec, Values
from tuning.wishes import (
    BY_HAND,
    ERROR,
    FROM_STUDY,
    FROM_TRIAL,
    KNOWN,
    ORIGIN,
    PAPER,
    PAPERS,
    RETRY_OF,
    first_wish,
    second_wish,
    taken_over,
)

if TYPE_CHECKING:
    from tuning.trial import Findings

__all__ = ["ERROR", "PAPER", "RETRY_OF", "best", "counted", "left", "why_no_best"]

RETRIES = 2  # times a trial is tried again whose worker died under it
WARMUP_EPOCHS = 3  # no trial is pruned before
LATENCY = "latency"  # the constraint of a latency limit: milliseconds above it


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


def open_search(
    url: str, study_id: int, spec: StudySpec, *, begin: bool = True, stream: int = 0
) -> optuna.Study:
    """The Optuna study of a study, made when it is new; can be opened again after any crash.

    Args:
        begin: take over the trials of the study that this one follows and enqueue the paper's settings, where that has
            not happened: for the one worker that holds the study's lease.
        stream: tells workers apart that sample for one study at once; equal streams would propose alike.
    """
    search = optuna.create_study(
        storage=open_storage(url),
        study_name=study_name(study_id),
        direction="maximize",
        load_if_exists=True,
        pruner=make_pruner(spec),
    )
    trials = search.get_trials(deepcopy=False)
    # A sampler seeded alike after a restart would propose the same configurations again.
    search.sampler = make_sampler(spec, seed=(spec.seed + len(trials) + 7919 * stream) % 2**31)
    if begin:
        _begin(url, search, spec)
    return search


def make_sampler(spec: StudySpec, *, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler that a specification names. A grid's points are enqueued by `ask`; what they leave is random."""
    startup = min(10, max(4, (spec.trials or MAX_TRIALS) // 3))
    match spec.sampler:
        case Sampler.TPE:
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
        case Sampler.GP:
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        case Sampler.CMAES:
            # It samples ranges only; choices are learned by TPE, one by one.
            choices = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
            return optuna.samplers.CmaEsSampler(
                seed=seed, independent_sampler=choices, warn_independent_sampling=False
            )
        case Sampler.RANDOM | Sampler.GRID:
            return optuna.samplers.RandomSampler(seed=seed)


def make_pruner(spec: StudySpec) -> optuna.pruners.BasePruner:
    """The pruner that a specification names; it counts in epochs."""
    match spec.pruner:
        case Pruner.MEDIAN:
            return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=WARMUP_EPOCHS)
        case Pruner.HYPERBAND:
            return optuna.pruners.HyperbandPruner(
                min_resource=min(WARMUP_EPOCHS, spec.epochs), max_resource=spec.epochs, reduction_factor=3
            )
        case Pruner.NONE:
            return optuna.pruners.NopPruner()


def _begin(url: str, search: optuna.Study, spec: StudySpec) -> None:
    if spec.follows is not None:
        _take_over(url, search, spec, spec.follows)
    begun = any(trial.user_attrs.get(ORIGIN) != BY_HAND for trial in own(search.get_trials(deepcopy=False)))
    if not begun and spec.sampler is not Sampler.GRID:
        wish, whole = first_wish(spec)
        search.enqueue_trial(wish, user_attrs={ORIGIN: PAPERS} if whole else {})


def _take_over(url: str, search: optuna.Study, spec: StudySpec, study_id: int) -> None:
    """Add the completed trials of another study that lie in this one's space, each once, as knowledge."""
    try:
        other = optuna.load_study(storage=open_storage(url), study_name=study_name(study_id))
    except KeyError:  # it never began
        return
    here = {_first_home(trial, 0) for trial in search.get_trials(deepcopy=False)}
    for trial in other.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        home = _first_home(trial, study_id)
        params = taken_over(trial, spec)
        excess = _latency_excess(spec, trial.user_attrs.get("latency_ms"))
        if home in here or params is None or excess is None:
            continue
        marks = {FROM_STUDY: home[0], FROM_TRIAL: home[1]}
        search.add_trial(
            optuna.trial.create_trial(
                value=trial.value,
                params=params,
                distributions=distributions(spec),
                user_attrs={**trial.user_attrs, **marks},
                intermediate_values=trial.intermediate_values,
                constraints=excess,
            )
        )


def _first_home(trial: FrozenTrial, study_id: int) -> tuple[int, int]:
    """The study that ran a trial, and its number there."""
    attrs = trial.user_attrs
    return attrs.get(FROM_STUDY, study_id), attrs.get(FROM_TRIAL, trial.number)


def begin(search: optuna.Study, spec: StudySpec) -> optuna.Trial:
    """Begin the next trial: one that is enqueued, a grid's next point, known good settings that were not tried yet, or
    one that has no configuration yet.

    Quick, for no sampler is asked. Where several workers search at once, `tuning.budget.left` and this belong under one
    lock.
    """
    if spec.sampler is Sampler.GRID:
        trials = search.get_trials(deepcopy=False)
        points = untried(trials, spec)
        if points and not any(trial.state is TrialState.WAITING for trial in trials):
            search.enqueue_trial(points[0])
    elif (wish := second_wish(spec)) is not None:
        trials = own(search.get_trials(deepcopy=False))
        if not any(trial.state is TrialState.WAITING or _is_known(trial) for trial in trials):
            search.enqueue_trial(wish, user_attrs={ORIGIN: KNOWN})
    return search.ask()


def _is_known(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get(ORIGIN) == KNOWN


def propose(trial: optuna.Trial, spec: StudySpec) -> None:
    """Complete the configuration of a trial that has begun: the sampler chooses what is not enqueued.

    That may take seconds. Can be called again where it did not come to its end.
    """
    for name, values in spec.space.items():
        if not isinstance(values, Range):
            trial.suggest_categorical(name, list(values))
        elif values.integer:
            trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
        else:
            trial.suggest_float(name, values.low, values.high, log=values.log)
    trial_times.note_beginning(trial)


def ask(search: optuna.Study, spec: StudySpec) -> optuna.Trial:
    """Begin the next trial with its whole configuration, where nobody else works on the study."""
    trial = begin(search, spec)
    propose(trial, spec)
    return trial


def note_result(trial: optuna.Trial, spec: StudySpec, result: "Findings") -> None:
    """Write what a completed trial found beside its parameters, before its value is told."""
    trial.set_user_attr("figures", result.figures.to_json())
    trial.set_user_attr("calibration", result.calibration.to_json())
    trial.set_user_attr("values", list(result.values))
    trial.set_user_attr("spread", result.spread)
    trial.set_user_attr("latency_ms", result.latency_ms)
    for name, excess in (_latency_excess(spec, result.latency_ms) or {}).items():
        trial.set_constraint(name, excess)


def _latency_excess(spec: StudySpec, latency_ms: float | None) -> dict[str, float] | None:
    """By how much the limit is missed, if there is one; None where nobody knows."""
    if spec.latency_ms is None:
        return {}
    return None if latency_ms is None else {LATENCY: latency_ms - spec.latency_ms}


def enqueue(url: str, study_id: int, spec: StudySpec, wish: Mapping[str, Any]) -> None:
    """Let a study try a configuration before it proposes more of its own, whether or not it runs."""
    search = open_search(url, study_id, spec, begin=False)
    search.enqueue_trial(dict(wish), user_attrs={ORIGIN: BY_HAND})


def trials_of(url: str, study_id: int) -> list[FrozenTrial]:
    """The trials of a study in the order they were made; empty before it began.

    Raises:
        DatabaseUnavailable: they can't be read.
    """
    try:
        storage = open_storage(url)
        return storage.get_all_trials(storage.get_study_id_from_name(study_name(study_id)), deepcopy=False)
    except KeyError:
        return []
    except StorageInternalError as error:
        raise out_of_reach(error) from error


def out_of_reach(error: StorageInternalError) -> DatabaseUnavailable:
    """What Optuna's complaint about its database means for people."""
    return DatabaseUnavailable(
        f"Optuna's database can not be read: {error}. Check SIMPLENET_OPTUNA_URL and that the database is in reach."
    )
