"""The objective after every epoch."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]

from dashboard import theme
from dashboard.charts.common import FAINT, TrialPoint, layout

CURVES = 60  # lines of one chart; more hide each other


def epoch_curves(trials: Sequence[TrialPoint], objective: str, highlighted: int | None = None) -> go.Figure:
    """The objective after each epoch, a line per trial (the last 60); one of them, usually the best, in front."""
    figure = go.Figure(layout=layout(height=260))
    curves = sorted((trial for trial in trials if trial.curve), key=lambda trial: trial.number)
    ordered = [trial for trial in curves if trial.number != highlighted][-CURVES:]
    ordered += [trial for trial in curves if trial.number == highlighted]
    for trial in ordered:
        epochs = sorted(trial.curve)
        front = trial.number == highlighted
        colour = theme.PRIMARY if front else FAINT
        figure.add_scatter(
            x=epochs,
            y=[trial.curve[epoch] for epoch in epochs],
            mode="lines+markers" if len(epochs) < 12 else "lines",
            line={
                "color": colour,
                "width": 2.5 if front else 1.2,
                "dash": "dot" if trial.state == "pruned" else "solid",
            },
            marker={"size": 5},
            name=f"trial {trial.number + 1}",
            hovertemplate=f"trial {trial.number + 1}, {trial.state}<br>epoch %{{x}}: %{{y:.3f}}<extra></extra>",
            showlegend=front,
        )
    last = max((epoch for trial in trials for epoch in trial.curve), default=1)
    figure.update_xaxes(title="epoch", dtick=1 if last <= 24 else None, range=[0.5, last + 0.5])
    figure.update_yaxes(title=objective, tickformat=".2f")
    return figure
