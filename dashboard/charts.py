"""Plotly figures from plain data. Nothing here reads a database or draws a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go  # type: ignore[import-untyped]

from dashboard import theme, wording

CLEAR = "rgba(0,0,0,0)"
MANY = 1500  # points; more are drawn by WebGL
CURVES = 60  # lines of one chart; more hide each other
MODE_BAR = {"displayModeBar": False}  # passed to st.plotly_chart as `config`


@dataclass(frozen=True, kw_only=True)
class TrialPoint:
    """A trial as the charts see it."""

    number: int  # from 0, as Optuna counts
    state: str  # running, completed, pruned, failed
    value: float | None  # the objective on validation pictures
    label: str = ""  # its configuration, for the tooltip
    curve: Mapping[int, float] = field(default_factory=dict)  # epoch → objective


@dataclass(frozen=True, kw_only=True)
class ScorePoint:
    """A scored picture as the charts see it."""

    name: str
    score: float
    decision: str  # accept, reject
    anomalous: bool


def objective_history(trials: Sequence[TrialPoint], objective: str) -> go.Figure:
    """Value of each completed trial, and the best so far as a step line.

    Args:
        trials: in any order.
        objective: its name, for the axis.
    """
    done = sorted((trial for trial in trials if trial.value is not None), key=lambda trial: trial.number)
    finished = [trial for trial in done if trial.state == "completed"]
    figure = go.Figure(layout=_layout(height=260))
    best: list[float] = []
    for trial in finished:
        best.append(max([*best[-1:], trial.value or 0.0]))
    figure.add_scatter(
        x=[trial.number + 1 for trial in finished],
        y=best,
        mode="lines",
        name="best so far",
        line={"color": theme.PRIMARY, "width": 2, "shape": "hv"},
        hoverinfo="skip",
    )
    for state, symbol in (("completed", "circle"), ("pruned", "circle-open"), ("running", "diamond-open")):
        of_state = [trial for trial in done if trial.state == state]
        if not of_state:
            continue
        figure.add_scatter(
            x=[trial.number + 1 for trial in of_state],
            y=[trial.value for trial in of_state],
            mode="markers",
            name=state,
            marker={
                "color": theme.STATE_COLOURS[state],
                "symbol": symbol,
                "size": 9,
                "line": {"width": 1.5, "color": theme.STATE_COLOURS[state]},
            },
            text=[trial.label for trial in of_state],
            hovertemplate="trial %{x}<br>%{y:.3f}<br>%{text}<extra></extra>",
        )
    last = max((trial.number for trial in done), default=0) + 1
    figure.update_xaxes(title="trial", dtick=1 if last <= 24 else None, range=[0.5, last + 0.5])
    figure.update_yaxes(title=objective, tickformat=".2f")
    return figure


def epoch_curves(trials: Sequence[TrialPoint], objective: str, highlighted: int | None = None) -> go.Figure:
    """The objective after each epoch, a line per trial (the last 60); one of them, usually the best, in front."""
    figure = go.Figure(layout=_layout(height=260))
    curves = sorted((trial for trial in trials if trial.curve), key=lambda trial: trial.number)
    ordered = [trial for trial in curves if trial.number != highlighted][-CURVES:]
    ordered += [trial for trial in curves if trial.number == highlighted]
    for trial in ordered:
        epochs = sorted(trial.curve)
        front = trial.number == highlighted
        colour = theme.PRIMARY if front else "#b5c0d0"
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


def score_strip(points: Sequence[ScorePoint], threshold: float, selected: str | None = None) -> go.Figure:
    """All scores on two lines, normal and anomalous, with the threshold between accept and reject.

    Args:
        points: the scored pictures.
        threshold: a score above it is rejected.
        selected: name of the picture to mark, or None.
    """
    figure = go.Figure(layout=_layout(height=180, margin={"l": 78, "r": 12, "t": 24, "b": 60}))
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


def _layout(*, height: int, margin: Mapping[str, int] | None = None) -> go.Layout:
    axis = {"gridcolor": "#e9edf2", "zeroline": False, "linecolor": theme.LINE, "ticks": ""}
    return go.Layout(
        height=height,
        margin=dict(margin or {"l": 56, "r": 12, "t": 28, "b": 44}),
        paper_bgcolor=theme.PAPER,
        plot_bgcolor=theme.PAPER,
        font={"color": theme.MUTED, "size": 12},
        xaxis=axis,
        yaxis=axis,
        hoverlabel={"bgcolor": theme.PAPER, "font": {"color": theme.INK}},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )
