"""The value over two searched settings at once."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]

from dashboard import theme
from dashboard.charts.common import (
    TrialPoint,
    categories,
    category,
    completed,
    is_log,
    is_number,
    layout,
    setting,
)

LEAST = 4  # completed trials; fewer make no surface


def contour(trials: Sequence[TrialPoint], first: str, second: str, objective: str) -> go.Figure:
    """The value between the completed trials, filled in, and the trials themselves on it.

    Args:
        first, second: settings along and up.
    """
    done = [trial for trial in completed(trials) if first in trial.params and second in trial.params]
    figure = go.Figure(layout=layout(height=360))
    across, up = (_places([trial.params[name] for trial in done]) for name in (first, second))
    if len(done) >= LEAST:
        columns, rows = sorted(set(across)), sorted(set(up))
        best: dict[tuple[float, float], float] = {}
        for x, y, trial in zip(across, up, done, strict=True):
            best[x, y] = max(best.get((x, y), 0.0), trial.value or 0.0)
        figure.add_contour(
            x=columns,
            y=rows,
            z=[[best.get((x, y)) for x in columns] for y in rows],
            connectgaps=True,
            colorscale=[[0, theme.MIST], [1, theme.PRIMARY]],
            colorbar={"title": objective, "thickness": 12, "tickformat": ".2f"},
            contours={"showlines": False},
            line={"smoothing": 1.0},
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=across,
        y=up,
        mode="markers",
        marker={"color": theme.PAPER, "size": 8, "line": {"width": 1.5, "color": theme.INK}},
        text=[f"trial {trial.number + 1}<br>{trial.label}<br>{trial.value:.3f}" for trial in done],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(**_axis(first, [trial.params[first] for trial in done]))
    figure.update_yaxes(**_axis(second, [trial.params[second] for trial in done]))
    return figure


def _places(values: Sequence[object]) -> list[float]:
    """Numbers as they are, choices by their place among all: a surface needs a line to lie on."""
    if is_number(values):
        return [float(str(value)) for value in values]
    order = categories(values)
    return [float(order.index(category(value))) for value in values]


def _axis(name: str, values: Sequence[object]) -> dict[str, object]:
    axis: dict[str, object] = {"title": setting(name)}
    if not values or is_number(values):
        return axis | {"type": "log" if values and is_log(values) else "linear"}
    ticks = categories(values)
    return axis | {"tickvals": list(range(len(ticks))), "ticktext": ticks}
