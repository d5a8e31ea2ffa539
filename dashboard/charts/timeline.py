"""When every trial ran, and on which worker."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import plotly.graph_objects as go  # type: ignore[import-untyped]

from dashboard import theme, wording
from dashboard.charts.common import layout


@dataclass(frozen=True, kw_only=True)
class Span:
    """One trial on its worker."""

    number: int  # from 0
    state: str
    worker: str  # who ran it and on what, for people
    began: datetime
    seconds: float


def timeline(spans: Sequence[Span]) -> go.Figure:
    """A row per worker, a bar per trial in the colour of its state."""
    workers = list(dict.fromkeys(span.worker for span in sorted(spans, key=lambda span: span.began)))
    figure = go.Figure(
        layout=layout(height=110 + 34 * len(workers), margin={"l": 210, "r": 12, "t": 28, "b": 44})
    )
    for state in dict.fromkeys(span.state for span in spans):
        of_state = [span for span in spans if span.state == state]
        figure.add_bar(
            base=[span.began for span in of_state],
            x=[1000 * span.seconds for span in of_state],  # plotly counts time in milliseconds
            y=[span.worker for span in of_state],
            orientation="h",
            name=state,
            marker={
                "color": theme.STATE_COLOURS.get(state, theme.MUTED),
                "line": {"color": theme.PAPER, "width": 1},
            },
            text=[str(span.number + 1) for span in of_state],
            textposition="inside",
            insidetextanchor="middle",
            customdata=[wording.duration(span.seconds) for span in of_state],
            hovertemplate=f"trial %{{text}}, {state}<br>%{{customdata}}<extra></extra>",
        )
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(type="date", title="time, UTC")
    figure.update_yaxes(categoryorder="array", categoryarray=workers[::-1], automargin=True)
    return figure
