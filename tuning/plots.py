"""Plots of a study as PNG files, for its run in MLflow; the dashboard draws its own, which can be asked back."""

import io
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tuning.insight import Importance
from tuning.queries import TrialRecord

INK, BLUE, GREY = "#1b2430", "#2b4a8f", "#b5c0d0"
DPI = 120


def study_plots(
    trials: Sequence[TrialRecord], important: Importance | None, objective: str
) -> dict[str, bytes]:
    """PNG files by name: `history`, `curves`, `slices`, `timeline`, and `importance` and `latency` where known.

    Args:
        objective: name of what was maximised, for the axes.
    """
    drawn = {
        "history": _drawn(lambda axes: draw_history(axes, trials, objective)),
        "curves": _drawn(lambda axes: draw_curves(axes, trials, objective)),
        "timeline": _drawn(lambda axes: _timeline(axes, trials)),
    }
    names = sorted({name for trial in trials for name in trial.params})
    if names:
        drawn["slices"] = _slices(trials, names, objective)
    if important is not None:
        drawn["importance"] = _drawn(lambda axes: _importance(axes, important))
    if any(trial.latency_ms is not None and trial.value is not None for trial in trials):
        drawn["latency"] = _drawn(lambda axes: _latency(axes, trials, objective))
    return drawn


def _drawn(draw: Callable[[Axes], None]) -> bytes:
    figure = Figure(figsize=(7, 4), layout="constrained")
    draw(figure.subplots())
    return _png(figure)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return out.getvalue()


def draw_history(axes: Axes, trials: Sequence[TrialRecord], objective: str) -> None:
    """The value of every completed trial, and the best so far of those that keep all limits."""
    done = [(trial.number + 1, trial.value) for trial in trials if trial.value is not None]
    axes.plot(*zip(*done, strict=True) if done else ([], []), "o", color=GREY, label="trial")
    numbers: list[int] = []
    best: list[float] = []
    for trial in trials:
        if trial.value is not None and trial.within_limits:
            numbers.append(trial.number + 1)
            best.append(max([*best[-1:], trial.value]))
    axes.step(numbers, best, where="post", color=BLUE, label="best so far")
    axes.set(xlabel="trial", ylabel=objective)
    axes.legend()


def draw_curves(axes: Axes, trials: Sequence[TrialRecord], objective: str) -> None:
    """The objective by epoch of every trial, that of the best which keeps all limits in front."""
    values = {
        trial.number: trial.value for trial in trials if trial.value is not None and trial.within_limits
    }
    best = max(values, key=lambda number: values[number], default=None)
    for trial in trials:
        epochs = sorted(trial.intermediate)
        style = ":" if trial.state == "pruned" else "-"
        front = trial.number == best
        axes.plot(
            epochs,
            [trial.intermediate[epoch] for epoch in epochs],
            style,
            color=BLUE if front else GREY,
            zorder=3 if front else 2,
            label=f"trial {trial.number + 1}, the best" if front else None,
        )
    axes.set(xlabel="epoch", ylabel=objective)
    if best is not None:
        axes.legend()


def _timeline(axes: Axes, trials: Sequence[TrialRecord]) -> None:
    ran = [trial for trial in trials if trial.started_at and trial.duration_seconds is not None]
    first = min((trial.started_at.timestamp() for trial in ran if trial.started_at), default=0.0)
    for trial in ran:
        if trial.started_at is not None:
            axes.barh(
                trial.worker or "worker not told",
                trial.duration_seconds or 0.0,
                left=trial.started_at.timestamp() - first,
                color=BLUE if trial.state == "completed" else GREY,
                edgecolor="white",
            )
    axes.set(xlabel="seconds since the first trial began")


def _slices(trials: Sequence[TrialRecord], names: Sequence[str], objective: str) -> bytes:
    figure = Figure(figsize=(3.2 * len(names), 3.2), layout="constrained")
    grid = figure.subplots(1, len(names), sharey=True, squeeze=False)
    for axes, name in zip(grid[0], names, strict=True):
        points = [(trial.params[name], trial.value) for trial in trials if name in trial.params]
        shown = [(setting, value) for setting, value in points if value is not None]
        numeric = all(isinstance(setting, float) for setting, _ in shown)
        axes.plot(
            [setting if numeric else str(setting) for setting, _ in shown],
            [value for _, value in shown],
            "o",
            color=BLUE,
        )
        if numeric and shown and min(setting for setting, _ in shown) > 0:
            axes.set_xscale("log")
        axes.set(xlabel=name.replace("_", " "))
    grid[0][0].set(ylabel=objective)
    return _png(figure)


def _importance(axes: Axes, important: Importance) -> None:
    names = list(important.shares)[::-1]
    axes.barh(
        [name.replace("_", " ") for name in names], [important.shares[name] for name in names], color=BLUE
    )
    axes.set(xlabel=f"share of importance ({important.method}, {important.trials} completed trials)")


def _latency(axes: Axes, trials: Sequence[TrialRecord], objective: str) -> None:
    known = [
        (trial.latency_ms, trial.value, trial.number + 1)
        for trial in trials
        if trial.latency_ms is not None and trial.value is not None
    ]
    axes.plot([latency for latency, _, _ in known], [value for _, value, _ in known], "o", color=BLUE)
    for latency, value, number in known:
        axes.annotate(str(number), (latency, value), color=INK, fontsize=7)
    axes.set(xlabel="latency of a picture, ms", ylabel=objective)
