"""The value against the time that a picture takes, and the trials that no other beats in both."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]

from dashboard import theme
from dashboard.charts.common import TrialPoint, completed, layout


def front(trials: Sequence[TrialPoint]) -> list[TrialPoint]:
    """The completed trials with a latency than which no other is both better and faster; the fastest first."""
    timed = [trial for trial in completed(trials) if trial.latency_ms is not None]
    best: list[TrialPoint] = []
    for trial in sorted(timed, key=lambda trial: (trial.latency_ms or 0.0, -(trial.value or 0.0))):
        if not best or (trial.value or 0.0) > (best[-1].value or 0.0):
            best.append(trial)
    return best


def pareto(trials: Sequence[TrialPoint], objective: str, limit_ms: float | None = None) -> go.Figure:
    """Value over latency; the front as a step line, and the limit where there is one.

    Args:
        limit_ms: longest latency that the study allows, ms.
    """
    timed = [trial for trial in completed(trials) if trial.latency_ms is not None]
    best = front(timed)
    figure = go.Figure(layout=layout(height=320))
    figure.add_scatter(
        x=[trial.latency_ms for trial in best],
        y=[trial.value for trial in best],
        mode="lines",
        line={"color": theme.PRIMARY, "width": 2, "shape": "hv"},
        name="none is better and faster",
        hoverinfo="skip",
    )
    numbers = {trial.number for trial in best}
    figure.add_scatter(
        x=[trial.latency_ms for trial in timed],
        y=[trial.value for trial in timed],
        mode="markers+text",
        text=[str(trial.number + 1) if trial.number in numbers else "" for trial in timed],
        textposition="top center",
        marker={
            "color": [theme.PRIMARY if trial.number in numbers else theme.PAPER for trial in timed],
            "line": {"color": theme.PRIMARY, "width": 1.5},
            "size": 9,
        },
        customdata=[f"trial {trial.number + 1}<br>{trial.label}" for trial in timed],
        hovertemplate="%{customdata}<br>%{x:.3g} ms, %{y:.3f}<extra></extra>",
        showlegend=False,
    )
    if limit_ms is not None:
        figure.add_vline(
            x=limit_ms,
            line={"color": theme.INK, "width": 1.5, "dash": "dash"},
            annotation_text=f"limit {limit_ms:g} ms",
        )
    figure.update_xaxes(title="latency of a picture, ms", rangemode="tozero")
    figure.update_yaxes(title=objective, tickformat=".2f")
    return figure
