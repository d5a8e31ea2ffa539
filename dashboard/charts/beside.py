"""Curves of a few trials or models side by side, each in a colour of its own."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]

from dashboard.charts.common import layout

# Okabe and Ito's palette without yellow, which is too pale for a line: told apart by all kinds of colour blindness.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def curves_beside(
    names: Sequence[str], curves: Sequence[Mapping[int, float]], objective: str, by: str = "epoch"
) -> go.Figure:
    """The objective by epoch or by trial, a line each.

    Args:
        names, curves: of each; at most as many as there are colours.
        by: what the numbers of a curve count.
    """
    figure = go.Figure(layout=layout(height=280))
    for name, curve, colour, dash in zip(names, curves, COLOURS, DASHES, strict=False):
        epochs = sorted(curve)
        figure.add_scatter(
            x=epochs,
            y=[curve[epoch] for epoch in epochs],
            mode="lines+markers",
            name=name,
            line={"color": colour, "width": 2, "dash": dash},
            marker={"size": 5},
            hovertemplate=f"{name}<br>{by} %{{x}}: %{{y:.3f}}<extra></extra>",
        )
    last = max((epoch for curve in curves for epoch in curve), default=1)
    figure.update_xaxes(title=by, dtick=1 if last <= 24 else None, range=[0.5, last + 0.5])
    figure.update_yaxes(title=objective, tickformat=".2f")
    return figure
