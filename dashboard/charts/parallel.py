"""Every completed trial as a line through all that was searched."""

import math
from collections.abc import Sequence
from typing import Any

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
    searched,
    setting,
)


def parallel(trials: Sequence[TrialPoint], objective: str) -> go.Figure:
    """An axis per setting that differs and one for the value, which also colours the lines."""
    names = searched(trials)
    done = [trial for trial in completed(trials) if all(name in trial.params for name in names)]
    values = [trial.value or 0.0 for trial in done]
    dimensions = [_dimension(name, [trial.params[name] for trial in done]) for name in names]
    dimensions.append({"label": objective, "values": values})
    figure = go.Figure(layout=layout(height=340, margin={"l": 70, "r": 50, "t": 50, "b": 30}))
    figure.add_parcoords(
        dimensions=dimensions,
        line={"color": values, "colorscale": [[0, theme.LINE], [1, theme.PRIMARY]]},
        labelfont={"color": theme.INK},
        tickfont={"color": theme.MUTED},
    )
    return figure


def _dimension(name: str, values: Sequence[Any]) -> dict[str, Any]:
    if is_log(values):
        logs = [math.log10(value) for value in values]
        ticks = [math.log10(min(values)) + step * (max(logs) - min(logs)) / 4 for step in range(5)]
        return {
            "label": setting(name),
            "values": logs,
            "tickvals": ticks,
            "ticktext": [f"{10**tick:.3g}" for tick in ticks],
        }
    if is_number(values):
        return {"label": setting(name), "values": list(values)}
    order = categories(values)
    return {
        "label": setting(name),
        "values": [order.index(category(value)) for value in values],
        "tickvals": list(range(len(order))),
        "ticktext": order,
    }
