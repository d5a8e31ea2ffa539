"""How far a study may still go, and which of its trials is the best: read from its trials alone, so any worker can."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from storage.records import now as present
from tuning import trial_times
from tuning.spec import MAX_TRIALS, Sampler, StudySpec
from tuning.wishes import BY_HAND, FROM_STUDY, ORIGIN, configuration, given_up, grid

_TRIED = (TrialState.COMPLETE, TrialState.PRUNED)


def own(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that the study ran or will run itself, without those taken over from another study."""
    return [trial for trial in trials if FROM_STUDY not in trial.user_attrs]


def counted(trials: Iterable[FrozenTrial]) -> int:
    """How many trials of the budget are used up: all of its own that ended but those given up unfinished."""
    return sum(trial.state.is_finished() and not given_up(trial) for trial in own(trials))


def best(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """The study's own completed trial of the highest value that keeps all limits; the earliest of equals."""
    return max(
        (trial for trial in own(trials) if _completed(trial) and feasible(trial)),
        key=lambda trial: (trial.value, -trial.number),
        default=None,
    )


def feasible(trial: FrozenTrial) -> bool:
    """Whether a trial keeps all limits that were set."""
    return all(excess <= 0 for excess in trial.constraints.values())


def left(trials: Sequence[FrozenTrial], spec: StudySpec, now: datetime | None = None) -> int:
    """How many more trials may begin now; those that run are taken off, for most of them will count.

    What a person asked for by hand may always begin, whichever limit is reached.

    Exact under parallelism where nobody else begins a trial between this and `tuning.search.ask`. Zero while others
    run does not mean that the study is over: one of them may be lost, and its configuration is tried again.

    Args:
        now: the present moment; None: by this machine's clock.
    """
    asked = asked_for(trials)
    if ended_by(trials, spec, now) is not None:
        return asked
    running = sum(trial.state is TrialState.RUNNING for trial in own(trials))
    most = max(0, (spec.trials or MAX_TRIALS) - counted(trials) - running)
    if spec.sampler is Sampler.GRID:
        most = min(most, _of_grid(trials, spec))
    return max(most, asked)


def asked_for(trials: Iterable[FrozenTrial]) -> int:
    """How many configurations that a person asked for by hand wait to be tried."""
    return sum(
        trial.state is TrialState.WAITING and trial.user_attrs.get(ORIGIN) == BY_HAND for trial in trials
    )


def ended_by(trials: Sequence[FrozenTrial], spec: StudySpec, now: datetime | None = None) -> str | None:
    """Which limit the study has reached, for people; None while it may go on. One trial is always tried."""
    tried = counted(trials)
    if tried == 0:
        return None
    if tried >= (spec.trials or MAX_TRIALS):
        return f"all {tried} trials were tried"
    if spec.minutes is not None and seconds_searched(trials, now) >= 60 * spec.minutes:
        return f"{spec.minutes:g} minutes of search are over"
    if spec.patience is not None and (streak := fruitless(trials, spec.tolerance)) >= spec.patience:
        return f"{streak} trials in a row brought nothing better by more than {spec.tolerance:g}"
    if spec.sampler is Sampler.GRID and not _of_grid(trials, spec) and not _running(trials):
        return f"all {spec.grid_size} configurations of the grid were tried"
    return None


def fruitless(trials: Iterable[FrozenTrial], tolerance: float) -> int:
    """How many trials in a row, to the latest, completed or were pruned without a new best.

    Args:
        tolerance: a new best is better than the one before by more than this.
    """
    tried = [
        (ended, trial.number, trial)
        for trial in own(trials)
        if trial.state in _TRIED and (ended := trial_times.ended(trial)) is not None
    ]
    streak, reached = 0, float("-inf")
    for _, _, trial in sorted(tried):
        streak += 1
        if _completed(trial) and feasible(trial) and float(trial.value or 0.0) > reached + tolerance:
            streak, reached = 0, float(trial.value or 0.0)
    return streak


def seconds_searched(trials: Iterable[FrozenTrial], now: datetime | None = None) -> float:
    """Seconds in which at least one trial ran; what was given up unfinished is left out."""
    now = now or present()
    spans = sorted(
        (began, trial_times.ended(trial) or now)
        for trial in own(trials)
        if not given_up(trial) and (began := trial_times.began(trial)) is not None
    )
    seconds, until = 0.0, datetime.min.replace(tzinfo=UTC)
    for start, end in spans:
        seconds += max(0.0, (end - max(start, until)).total_seconds())
        until = max(until, end)
    return seconds


def reported(trials: Sequence[FrozenTrial], spec: StudySpec, now: datetime | None = None) -> dict[str, Any]:
    """How far the search is, for the progress that a worker shows of its study when a trial begins or ends."""
    now = now or present()
    ended, found = counted(trials), best(trials)
    return {
        "trial": ended + 1,
        "ended": ended,
        "under_way": _under_way(trials, now),
        "searched": seconds_searched(trials, now),
        "fruitless": fruitless(trials, spec.tolerance),
        "elapsed": 0.0,  # seconds in the trial since; told with its epochs
        "best": found.value if found else None,
    }


def so_far(trials: Sequence[FrozenTrial], spec: StudySpec, now: datetime | None = None) -> dict[str, Any]:
    """The same where no next trial begins."""
    return {name: value for name, value in reported(trials, spec, now).items() if name != "trial"}


def _under_way(trials: Sequence[FrozenTrial], now: datetime) -> float:
    """How many trials' worth of work those hold that run now, by the mean time of those that ended."""
    ended = [trial for trial in own(trials) if trial.state.is_finished() and not given_up(trial)]
    mean = sum(seconds_searched([trial], now) for trial in ended) / len(ended) if ended else 0.0
    if mean <= 0:
        return 0.0
    running = [trial for trial in own(trials) if trial.state is TrialState.RUNNING]
    return sum(min(1.0, seconds_searched([trial], now) / mean) for trial in running)


def why_no_best(trials: Sequence[FrozenTrial], spec: StudySpec) -> str:
    """Why no trial can win, and what to do."""
    completed = [trial for trial in own(trials) if _completed(trial)]
    if completed and spec.latency_ms is not None:
        times = [trial.user_attrs["latency_ms"] for trial in completed if "latency_ms" in trial.user_attrs]
        fastest = f" the fastest takes {min(times):.1f} ms." if times else ""
        return (
            f"None of the {len(completed)} completed trials keeps the latency limit of {spec.latency_ms:g} ms;"
            f"{fastest} Raise the limit, make the pictures smaller, or search higher layers and a smaller backbone."
        )
    errors = [trial.user_attrs["error"] for trial in trials if "error" in trial.user_attrs]
    last = f" The last error: {errors[-1]}" if errors else ""
    return (
        f"None of the {len(own(trials))} trials completed, so there is no model to choose.{last} "
        "Mend that and start again."
    )


def _completed(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.COMPLETE and trial.value is not None


def _running(trials: Iterable[FrozenTrial]) -> bool:
    return any(trial.state is TrialState.RUNNING for trial in own(trials))


def _of_grid(trials: Sequence[FrozenTrial], spec: StudySpec) -> int:
    """How many trials a search of a grid may still begin: those that wait, and the points nobody has tried."""
    waiting = sum(trial.state is TrialState.WAITING for trial in trials)
    return waiting + len(untried(trials, spec))


def untried(trials: Iterable[FrozenTrial], spec: StudySpec) -> list[dict[str, object]]:
    """The configurations of the grid that no trial has or had, in the order in which they are tried."""
    names = list(spec.space)
    had = {
        tuple(known[name] for name in names)
        for trial in trials
        if not given_up(trial) and set(known := configuration(trial)) >= set(names)
    }
    return [point for point in grid(spec) if tuple(point[name] for name in names) not in had]
