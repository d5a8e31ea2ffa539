"""The objective after every epoch."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]

from dashboard import theme
from dashboard.charts.common import FAINT, TrialPoint, layout

CURVES = 60  # lines of one chart; more hide each other
MARKED_EPOCHS = 12  # from as many on, points would hide the line


def epoch_curves(trials: Sequence[TrialPoint], objective: str, highlighted: int | None = None) -> go.Figure:
    """The objective after each epoch, a line per trial (the last 60); one of them, usually the best, in front."""
    figure = go.Figure(layout=layout(height=260))
    curves = sorted((trial for trial in trials if trial.curve), key=lambda trial: trial.number)
    behind = [trial for trial in curves if trial.number != highlighted][-CURVES:]
    # A trace for all lines of one look: a browser takes many times as long for a trace per line.
    for dash, pruned in (("solid", False), ("dot", True)):
        _draw(
            figure,
            [trial for trial in behind if (trial.state == "pruned") is pruned],
            name="pruned trials" if pruned else "other trials",
            line={"color": FAINT, "width": 1.2, "dash": dash},
            showlegend=False,
        )
    for trial in curves:
        if trial.number == highlighted:
            line = {"color": theme.PRIMARY, "width": 2.5}
            _draw(figure, [trial], name=f"trial {trial.number + 1}", line=line, showlegend=True)
    last = max((epoch for trial in trials for epoch in trial.curve), default=1)
    figure.update_xaxes(title="epoch", dtick=1 if last <= 24 else None, range=[0.5, last + 0.5])
    figure.update_yaxes(title=objective, tickformat=".2f")
    return figure


def _draw(figure: go.Figure, trials: Sequence[TrialPoint], **look: object) -> None:
    """One trace of several lines, with a gap between two."""
    if not trials:
        return
    x: list[int | None] = []
    y: list[float | None] = []
    about: list[str] = []
    for trial in trials:
        epochs = sorted(trial.curve)
        x += [*epochs, None]
        y += [*(trial.curve[epoch] for epoch in epochs), None]
        about += [f"trial {trial.number + 1}, {trial.state}"] * (len(epochs) + 1)
    marked = max(len(trial.curve) for trial in trials) < MARKED_EPOCHS
    figure.add_scatter(
        x=x,
        y=y,
        text=about,
        mode="lines+markers" if marked else "lines",
        marker={"size": 5},
        connectgaps=False,
        hovertemplate="%{text}<br>epoch %{x}: %{y:.3f}<extra></extra>",
        **look,
    )
