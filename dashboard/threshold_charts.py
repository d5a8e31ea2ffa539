"""Plotly figures of what thresholds do: ROC and precision–recall with the one that is looked at."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go  # type: ignore[import-untyped]

from dashboard import theme

POINTS = 400  # of a curve; more are not seen


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Where thresholds lead to, in order."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    marked: tuple[float, float]  # what the threshold that is looked at leads to
    chosen_by: bool  # whether thresholds are chosen by these pictures; the others are drawn dashed


def roc(curves: Sequence[Curve]) -> go.Figure:
    """Defects rejected over normal parts rejected."""
    return _figure(curves, "share of normal pictures rejected", "share of defects rejected")


def precision_recall(curves: Sequence[Curve]) -> go.Figure:
    """How many rejects are right over how many defects are rejected."""
    return _figure(curves, "share of defects rejected", "share of rejects that are defects")


def _figure(curves: Sequence[Curve], x: str, y: str) -> go.Figure:
    axis = {"gridcolor": "#e9edf2", "zeroline": False, "linecolor": theme.LINE, "range": [-0.02, 1.03]}
    figure = go.Figure(
        layout=go.Layout(
            height=260,
            margin={"l": 52, "r": 8, "t": 24, "b": 44},
            paper_bgcolor=theme.PAPER,
            plot_bgcolor=theme.PAPER,
            font={"color": theme.MUTED, "size": 12},
            xaxis={**axis, "title": x},
            yaxis={**axis, "title": y},
            legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        )
    )
    for curve in curves:
        step = max(1, len(curve.x) // POINTS)
        kept = sorted({*range(0, len(curve.x), step), len(curve.x) - 1})
        colour = theme.PRIMARY if curve.chosen_by else theme.MUTED
        figure.add_scatter(
            x=[curve.x[number] for number in kept],
            y=[curve.y[number] for number in kept],
            mode="lines",
            name=curve.name,
            line={"color": colour, "width": 2, "dash": "solid" if curve.chosen_by else "dot"},
            hovertemplate="%{x:.3f}, %{y:.3f}<extra>" + curve.name + "</extra>",
        )
        figure.add_scatter(
            x=[curve.marked[0]],
            y=[curve.marked[1]],
            mode="markers",
            marker={
                "color": colour,
                "size": 11,
                "symbol": "diamond",
                "line": {"color": theme.INK, "width": 1},
            },
            hovertemplate="here: %{x:.3f}, %{y:.3f}<extra>" + curve.name + "</extra>",
            showlegend=False,
        )
    return figure
