"""The value of every trial, and the best so far."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]

from dashboard import theme
from dashboard.charts.common import TrialPoint, layout


def objective_history(trials: Sequence[TrialPoint], objective: str) -> go.Figure:
    """Value of each completed trial, and the best so far of those that can win as a step line.

    Args:
        trials: in any order.
        objective: its name, for the axis.
    """
    done = sorted((trial for trial in trials if trial.value is not None), key=lambda trial: trial.number)
    finished = [trial for trial in done if trial.state == "completed" and trial.within_limits]
    figure = go.Figure(layout=layout(height=260))
    best: list[float] = []
    for trial in finished:
        best.append(max([*best[-1:], trial.value or 0.0]))
    figure.add_scatter(
        x=[trial.number + 1 for trial in finished],
        y=best,
        mode="lines",
        name="best so far",
        line={"color": theme.PRIMARY, "width": 2, "shape": "hv"},
        hoverinfo="skip",
    )
    for state, symbol in (("completed", "circle"), ("pruned", "circle-open"), ("running", "diamond-open")):
        of_state = [trial for trial in done if trial.state == state]
        if not of_state:
            continue
        figure.add_scatter(
            x=[trial.number + 1 for trial in of_state],
            y=[trial.value for trial in of_state],
            mode="markers",
            name=state,
            marker={
                "color": theme.STATE_COLOURS[state],
                "symbol": symbol,
                "size": 9,
                "line": {"width": 1.5, "color": theme.STATE_COLOURS[state]},
            },
            text=[trial.label for trial in of_state],
            hovertemplate="trial %{x}<br>%{y:.3f}<br>%{text}<extra></extra>",
        )
    last = max((trial.number for trial in done), default=0) + 1
    figure.update_xaxes(title="trial", dtick=1 if last <= 24 else None, range=[0.5, last + 0.5])
    figure.update_yaxes(title=objective, tickformat=".2f")
    return figure
