"""Plotly figures from plain data, a file per kind. Nothing here reads a database or draws a page."""

from dashboard.charts.beside import COLOURS, curves_beside
from dashboard.charts.common import MODE_BAR, TrialPoint, searched
from dashboard.charts.contour import contour
from dashboard.charts.curves import CURVES, epoch_curves
from dashboard.charts.history import objective_history
from dashboard.charts.importance import importance
from dashboard.charts.parallel import parallel
from dashboard.charts.pareto import front, pareto
from dashboard.charts.slices import slices
from dashboard.charts.strip import MANY, ScorePoint, score_strip
from dashboard.charts.timeline import Span, timeline

__all__ = [
    "COLOURS",
    "CURVES",
    "MANY",
    "MODE_BAR",
    "ScorePoint",
    "Span",
    "TrialPoint",
    "contour",
    "curves_beside",
    "epoch_curves",
    "front",
    "importance",
    "objective_history",
    "parallel",
    "pareto",
    "score_strip",
    "searched",
    "slices",
    "timeline",
]
