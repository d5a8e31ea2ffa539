"""The value against each searched setting alone."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]
from plotly.subplots import make_subplots  # type: ignore[import-untyped]

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


def slices(trials: Sequence[TrialPoint], objective: str) -> go.Figure:
    """A panel per setting that differs: a point per completed trial, later ones darker."""
    names, done = searched(trials), completed(trials)
    figure = make_subplots(rows=1, cols=max(1, len(names)), shared_yaxes=True, horizontal_spacing=0.02)
    figure.update_layout(layout(height=280))
    for column, name in enumerate(names, start=1):
        known = [trial for trial in done if name in trial.params]
        values = [trial.params[name] for trial in known]
        numeric = is_number(values)
        figure.add_scatter(
            x=values if numeric else [category(value) for value in values],
            y=[trial.value for trial in known],
            mode="markers",
            marker={
                "color": [trial.number for trial in known],
                "colorscale": [[0, theme.LINE], [1, theme.PRIMARY]],
                "size": 8,
                "line": {"width": 1, "color": theme.PRIMARY},
            },
            text=[f"trial {trial.number + 1}" for trial in known],
            hovertemplate=f"%{{text}}<br>{setting(name)} %{{x}}<br>%{{y:.3f}}<extra></extra>",
            showlegend=False,
            row=1,
            col=column,
        )
        axis = {"title": setting(name), "gridcolor": "#e9edf2"}
        if numeric:
            axis["type"] = "log" if is_log(values) else "linear"
        else:
            axis |= {"type": "category", "categoryorder": "array", "categoryarray": categories(values)}
        figure.update_xaxes(**axis, row=1, col=column)
    figure.update_yaxes(gridcolor="#e9edf2", tickformat=".2f")
    figure.update_yaxes(title=objective, row=1, col=1)
    return figure
