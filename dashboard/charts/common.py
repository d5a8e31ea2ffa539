"""What all charts share: the layout in the colours of the theme, and a trial as charts see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from dashboard import theme, wording

CLEAR = "rgba(0,0,0,0)"
FAINT = "#b5c0d0"  # of what stands behind
MODE_BAR = {"displayModeBar": False}  # passed to st.plotly_chart as `config`


@dataclass(frozen=True, kw_only=True)
class TrialPoint:
    """A trial as the charts see it."""

    number: int  # from 0, as Optuna counts
    state: str  # running, completed, pruned, failed
    value: float | None  # the objective on validation pictures
    label: str = ""  # its configuration, for the tooltip
    curve: Mapping[int, float] = field(default_factory=dict)  # epoch → objective
    params: Mapping[str, Any] = field(default_factory=dict)  # what was searched
    latency_ms: float | None = None  # of one picture; None where nobody measured
    within_limits: bool = True  # or there are none: it can win


def completed(trials: Sequence[TrialPoint]) -> list[TrialPoint]:
    """The completed trials in the order they were made."""
    done = [trial for trial in trials if trial.state == "completed" and trial.value is not None]
    return sorted(done, key=lambda trial: trial.number)


def searched(trials: Sequence[TrialPoint]) -> list[str]:
    """Names of the settings that differ among the completed trials, in a steady order."""
    values: dict[str, set[str]] = {}
    for trial in completed(trials):
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(str(value))
    return sorted((name for name, found in values.items() if len(found) > 1), key=_place)


def setting(name: str) -> str:
    """A searched setting as people call it: 'noise_std' → 'σ'."""
    return {"noise_std": "σ"}.get(name, name.replace("_", " "))


def is_number(values: Sequence[Any]) -> bool:
    """Whether a setting's values lie on a line, and not beside each other: choices of few whole numbers do not."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values) and any(
        isinstance(value, float) for value in values
    )


def is_log(values: Sequence[Any]) -> bool:
    """Whether numbers span so much that only a log scale shows all of them."""
    return is_number(values) and min(values) > 0 and max(values) >= 10 * min(values)


def category(value: Any) -> str:
    """A choice as a tick: True → 'yes', '1,2' → '1+2'."""
    return wording.knob_value(value).replace(",", "+")


def categories(values: Sequence[Any]) -> list[str]:
    """The ticks of an axis of choices: each once, numbers by size."""
    distinct = {category(value): value for value in values}
    numeric = all(isinstance(value, int | float) for value in distinct.values())
    return sorted(distinct, key=lambda name: float(distinct[name]) if numeric else name)


def _place(name: str) -> tuple[int, str]:
    first = ("noise_std", "layers", "adaptor_depth")
    return (first.index(name) if name in first else len(first), name)


def layout(*, height: int, margin: Mapping[str, int] | None = None) -> go.Layout:
    """The layout of a chart of that height, pixels."""
    axis = {"gridcolor": "#e9edf2", "zeroline": False, "linecolor": theme.LINE, "ticks": ""}
    return go.Layout(
        height=height,
        margin=dict(margin or {"l": 56, "r": 12, "t": 28, "b": 44}),
        paper_bgcolor=theme.PAPER,
        plot_bgcolor=theme.PAPER,
        font={"color": theme.MUTED, "size": 12},
        xaxis=axis,
        yaxis=axis,
        hoverlabel={"bgcolor": theme.PAPER, "font": {"color": theme.INK}},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )
