"""All scores of a model on two lines, with the threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go  # type: ignore[import-untyped]

from dashboard import theme, wording
from dashboard.charts.common import CLEAR, layout

MANY = 1500  # points; more are drawn by WebGL


@dataclass(frozen=True, kw_only=True)
class ScorePoint:
    """A scored picture as the charts see it."""

    name: str
    score: float
    decision: str  # accept, reject
    anomalous: bool


def score_strip(points: Sequence[ScorePoint], threshold: float, selected: str | None = None) -> go.Figure:
    """All scores on two lines, normal and anomalous, with the threshold between accept and reject.

    Args:
        points: the scored pictures.
        threshold: a score above it is rejected.
        selected: name of the picture to mark, or None.
    """
    figure = go.Figure(layout=layout(height=180, margin={"l": 78, "r": 12, "t": 24, "b": 60}))
    for decision, symbol in (("accept", "circle"), ("reject", "x-thin")):
        chosen = [point for point in points if point.decision == decision]
        draw = figure.add_scattergl if len(points) > MANY else figure.add_scatter
        draw(
            x=[point.score for point in chosen],
            y=["anomalous" if point.anomalous else "normal" for point in chosen],
            mode="markers",
            name=decision,
            marker={
                "color": theme.DECISION_COLOURS[decision],
                "symbol": symbol,
                "size": 7,
                "opacity": 0.75,
                "line": {
                    "color": theme.DECISION_COLOURS[decision],
                    "width": 1.6 if symbol == "x-thin" else 0,
                },
            },
            text=[point.name for point in chosen],
            hovertemplate="%{text}<br>score %{x:.3f}<extra></extra>",
        )
    for point in points:
        if point.name == selected:
            figure.add_scatter(
                x=[point.score],
                y=["anomalous" if point.anomalous else "normal"],
                mode="markers",
                marker={"color": CLEAR, "size": 17, "line": {"color": theme.INK, "width": 2}},
                hoverinfo="skip",
                showlegend=False,
            )
    figure.add_vline(x=threshold, line={"color": theme.INK, "width": 1.5, "dash": "dash"})
    figure.add_annotation(
        x=threshold,
        y=1,
        yref="paper",
        yanchor="bottom",
        text=f"threshold {wording.number(threshold)}",
        showarrow=False,
        font={"size": 11, "color": theme.INK},
    )
    figure.update_xaxes(title=None)
    figure.update_yaxes(
        categoryorder="array", categoryarray=["anomalous", "normal"], range=[-0.6, 1.6], title=None
    )
    below = {"orientation": "h", "x": 1, "xanchor": "right", "y": -0.4, "yanchor": "top", "bgcolor": CLEAR}
    figure.update_layout(legend=below)
    return figure
