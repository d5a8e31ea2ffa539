"""What mattered in a study, folded: slices, two settings at once, all settings, importance, timeline, latency, log.

A section is computed only while it is open; the address holds which are.
"""

from collections.abc import Callable, Sequence

import streamlit as st

from dashboard import charts, incidents, study_trials, wording
from dashboard.charts.common import setting
from dashboard.session import workspace
from storage import studies
from storage.records import Study, now
from tuning import queries
from tuning.insight import LEAST, Method
from tuning.queries import TrialRecord
from tuning.study_log import as_lines, last_entries, writer

METHODS = {
    Method.PED_ANOVA: "PED-ANOVA: what tells the best tenth of the trials from the others.",
    Method.FANOVA: "fANOVA: which share of the spread of all values a setting explains by itself.",
}

Draw = Callable[[Study, Sequence[TrialRecord]], None]


def show(study: Study, *, every: float | None) -> None:
    """Draw the folded sections.

    Args:
        every: seconds between two drawings of an open one; None: it does not move.
    """
    for title, icon, key, draw in SECTIONS:
        box = st.expander(title, icon=icon, key=key, bind="query-params")
        if box.open:
            with box:
                st.fragment(_section, run_every=every)(study.id, draw)


@incidents.guarded
def _section(study_id: int, draw: Draw) -> None:
    with workspace().session() as session:
        study = studies.get_study(session, study_id)
    draw(study, queries.study_trials(workspace(), study))


def _importance(study: Study, trials: Sequence[TrialRecord]) -> None:
    method = Method(
        st.segmented_control(
            "Method",
            [one.value for one in Method],
            default=Method.PED_ANOVA.value,
            key="method",
            bind="query-params",
            required=True,
        )
    )
    ended = sum(trial.state == "completed" for trial in trials)
    found = _shares(study.id, ended, method)
    if found is None:
        st.caption(
            f"Importance needs at least {LEAST} completed trials with different values; {ended} completed so far."
        )
        return
    st.plotly_chart(charts.importance(found, method.value), config=charts.MODE_BAR, key="importance chart")
    st.caption(f"{METHODS[method]} Of {wording.plural(ended, 'completed trial')}; with few it says little.")


@st.cache_data(max_entries=64, show_spinner="Computing …")
def _shares(study_id: int, ended: int, method: Method) -> dict[str, float] | None:  # noqa: ARG001 (part of the key)
    """The share of each setting; as long as no further trial completes, the same."""
    with workspace().session() as session:
        study = studies.get_study(session, study_id)
    found = queries.study_importance(workspace(), study, method)
    return dict(found.shares) if found is not None else None


def _slices(study: Study, trials: Sequence[TrialRecord]) -> None:
    points = study_trials.points(trials)
    if not charts.searched(points):
        _too_few()
        return
    st.plotly_chart(charts.slices(points, _objective(study)), config=charts.MODE_BAR, key="slices chart")
    st.caption("Each point is a completed trial; later ones are darker.")


def _contour(study: Study, trials: Sequence[TrialRecord]) -> None:
    points = study_trials.points(trials)
    names = charts.searched(points)
    if len(names) < 2:
        st.caption("It takes completed trials that differ in two settings.")
        return
    left, right = st.columns(2)
    first = left.selectbox("Across", names, format_func=setting, key="across", bind="query-params")
    others = [name for name in names if name != first]
    second = right.selectbox("Up", others, format_func=setting, key="up", bind="query-params")
    drawn = charts.contour(points, first, second, _objective(study))
    st.plotly_chart(drawn, config=charts.MODE_BAR, key="contour chart")
    st.caption("Between the trials, the white points, values are filled in; far from them that is a guess.")


def _parallel(study: Study, trials: Sequence[TrialRecord]) -> None:
    points = study_trials.points(trials)
    if not charts.searched(points):
        _too_few()
        return
    drawn = charts.parallel(points, _objective(study))
    st.plotly_chart(drawn, config=charts.MODE_BAR, key="parallel chart")
    st.caption(
        "A line is a completed trial, the darker the better. Drag along an axis to keep only what passes there."
    )


def _timeline(_: Study, trials: Sequence[TrialRecord]) -> None:
    spans = study_trials.spans(trials, now())
    if not spans:
        st.caption("No trial has begun yet.")
        return
    st.plotly_chart(charts.timeline(spans), config=charts.MODE_BAR, key="timeline chart")


def _latency(study: Study, trials: Sequence[TrialRecord]) -> None:
    points = [point for point in study_trials.points(trials) if point.latency_ms is not None]
    if not any(point.state == "completed" for point in points):
        st.caption("No latency was measured yet; each completed trial brings its own.")
        return
    drawn = charts.pareto(points, _objective(study), study.spec.get("latency_ms"))
    st.plotly_chart(drawn, config=charts.MODE_BAR, key="latency chart")
    st.caption("Filled points are the trials than which none is both better and faster.")


def _log(study: Study, _: Sequence[TrialRecord]) -> None:
    entries = last_entries(workspace(), study.id)
    if not entries:
        st.caption("No worker has logged anything of this study yet.")
        return
    lines = as_lines(entries)
    st.code("\n".join(lines), language=None, height=360)
    writers = ", ".join(sorted({writer(entry) for entry in entries}))
    st.caption(f"The last {wording.plural(len(lines), 'line')}, times in UTC. Written by {writers}.")


def _objective(study: Study) -> str:
    return wording.objective(study.spec["objective"])


def _too_few() -> None:
    st.caption("Nothing to compare yet: it takes completed trials that differ in a setting.")


SECTIONS: tuple[tuple[str, str, str, Draw], ...] = (
    ("What mattered", ":material/leaderboard:", "importance", _importance),
    ("Each setting", ":material/scatter_plot:", "slices", _slices),
    ("Two settings", ":material/blur_on:", "contour", _contour),
    ("All settings", ":material/line_axis:", "parallel", _parallel),
    ("Accuracy and latency", ":material/speed:", "latency", _latency),
    ("Timeline", ":material/view_timeline:", "timeline", _timeline),
    ("Log", ":material/article:", "log", _log),
)
