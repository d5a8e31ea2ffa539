"""How much each searched setting mattered."""

from collections.abc import Mapping

import plotly.graph_objects as go  # type: ignore[import-untyped]

from dashboard import theme
from dashboard.charts.common import layout, setting


def importance(shares: Mapping[str, float], method: str) -> go.Figure:
    """A bar per setting, the largest on top.

    Args:
        shares: by setting; they sum to 1.
        method: how they were judged, for the axis.
    """
    ordered = sorted(shares.items(), key=lambda item: item[1])
    figure = go.Figure(
        layout=layout(height=100 + 30 * len(ordered), margin={"l": 150, "r": 40, "t": 12, "b": 44})
    )
    figure.add_bar(
        x=[share for _, share in ordered],
        y=[setting(name) for name, _ in ordered],
        orientation="h",
        marker={"color": theme.PRIMARY},
        text=[f"{share:.0%}".replace("%", " %") for _, share in ordered],
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
    )
    figure.update_xaxes(title=f"share of importance, {method}", tickformat=".0%", rangemode="tozero")
    return figure
