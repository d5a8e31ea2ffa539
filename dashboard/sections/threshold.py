"""Where the model cuts: what a threshold does, four ways to choose one, and all that were chosen before."""

import math
from functools import partial

import pandas as pd
import streamlit as st

from dashboard import cached, charts, incidents, maps, threshold_charts, wording
from dashboard.components.gallery import Tile, gallery
from dashboard.scored import Show
from dashboard.session import WHO, workspace
from dashboard.threshold_charts import Curve
from dashboard.wording import number, plain, plural
from engine.errors import EngineError
from storage import operating_points
from storage.records import DatasetVersion, Model, OperatingPoint, Role
from tuning import operating_points as choosing
from tuning.errors import TuningError
from tuning.operating_points import Changed, Evidence, Outcomes, Proposal, Scores

HAND, RATE, COSTS, F1 = "by hand", "false-reject rate", "costs", "F1"
STEPS = 400  # of the slider
TILES = 12  # pictures of each mistake
EVERY = "all types"  # of the page's filter
PICKED = "mistake picked"  # in the session: the page has to follow
UNTAGGED = "operating point not shown in MLflow"  # in the session, to be told by the page that is drawn next


def preview() -> float | None:
    """The threshold that the address asks to try out."""
    try:
        value = float(st.query_params.get("at", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def previewed(value: float, point: OperatingPoint) -> None:
    """Say that what is shown follows a threshold that is saved nowhere."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(
            f"Trying out the threshold {number(value)}: decisions on this page follow it, and nothing else does. Saved "
            f"is {number(point.threshold)}.",
            icon=":material/science:",
            width="stretch",
        )
        if st.button("Back to the saved one", icon=":material/undo:"):
            st.query_params.pop("at", None)
            st.rerun()


def sentence(point: OperatingPoint) -> str:
    """'threshold 0.512: at most 5 % false rejects, by 20 calibration pictures'."""
    how = wording.threshold_source(point.source.value, point.parameters)
    return f"threshold {number(point.threshold)}: {how}"


def show(model: Model, point: OperatingPoint, latest: DatasetVersion, tried: float | None) -> None:
    """Draw the panel; what it needs is read when somebody opens it."""
    if untagged := st.session_state.pop(UNTAGGED, None):
        st.warning(
            f"The operating point is saved and decides. MLflow does not show it: {plain(untagged)}",
            icon=":material/sync_problem:",
        )
    # Always the same words, or the panel would close when another threshold is saved.
    panel = st.expander(
        "Threshold: what it does, and how to choose another one",
        icon=":material/tune:",
        key="threshold",
        on_change="rerun",
    )
    if not panel.open:
        return
    with panel:
        st.markdown(f"Saved is the {plain(sentence(point))}.")
        st.caption(
            "Choices are made on validation and calibration pictures. Test pictures only show what would follow: a "
            "threshold chosen by them would make their figures worthless."
        )
        st.fragment(_panel)(model, point, latest, tried)
        _history(model)


@incidents.guarded
def _panel(model: Model, point: OperatingPoint, latest: DatasetVersion, tried: float | None) -> None:
    found = cached.evidence(model, model.id, latest.id)
    left, right = st.columns([5, 7], gap="large")
    with left:
        proposal = _choose(model, found, point.threshold if tried is None else tried)
        defect_rate = _defect_rate(model, proposal)
    threshold = point.threshold if proposal is None else proposal.threshold
    with right:
        _consequences(found, threshold, defect_rate)
    _curves(found, threshold)
    _mistakes(model, found.validation, threshold)
    if proposal is not None:
        _save(model, found, proposal, point)


def _choose(model: Model, found: Evidence, start: float) -> Proposal | None:
    """Ask how the threshold is to be chosen; None where it can't be chosen so, which is then said."""
    way = st.segmented_control("Choose it", [HAND, RATE, COSTS, F1], default=HAND, key="way", required=True)
    try:
        if way == HAND:
            return _by_hand(model, found, start)
        if way == RATE:
            rate = st.number_input(
                "Reject at most so many percent of normal parts",
                min_value=0.01,
                max_value=99.0,
                value=5.0,
                step=0.5,
                key="wanted rate",
                help="Guaranteed for parts like the calibration pictures (conformal prediction), in the mean over "
                "calibrations.",
            )
            proposal = choosing.by_false_reject_rate(found, rate / 100)
        elif way == COSTS:
            proposal = _by_costs(found)
        else:
            proposal = choosing.by_f1(found)
    except (EngineError, TuningError) as error:
        incidents.refused(error)
        return None
    st.markdown(f"**{number(proposal.threshold)}**: {plain(proposal.about)}.")
    return proposal


def _by_hand(model: Model, found: Evidence, start: float) -> Proposal:
    values = [*found.calibration, *found.validation.scores.tolist(), *found.test.scores.tolist()]
    low, high = min(values), max(values)
    margin = max((high - low) / 50, 1e-6)
    low, high = low - margin, high + margin
    chosen = st.slider(
        "Threshold",
        low,
        high,
        min(max(start, low), high),
        step=(high - low) / STEPS,
        format="%.3f",
        key=f"cut of {model.id}",
    )
    # The slider rounds to its steps; until somebody moves it, it means what it was given.
    unmoved = abs(chosen - start) <= (high - low) / STEPS
    return choosing.by_value(start if unmoved else float(chosen))


def _by_costs(found: Evidence) -> Proposal:
    first, second, third = st.columns(3)
    escape = first.number_input("An escape costs", min_value=0.0, value=50.0, key="escape cost")
    false_reject = second.number_input("A false reject", min_value=0.0, value=1.0, key="false reject cost")
    rate = third.number_input(
        "Defects, %", min_value=0.0, max_value=100.0, value=1.0, step=0.1, key="defects in production"
    )
    return choosing.by_costs(found, escape=escape, false_reject=false_reject, defect_rate=rate / 100)


def _defect_rate(model: Model, proposal: Proposal | None) -> float:
    if proposal is not None and "defect_rate" in proposal.parameters:
        return float(proposal.parameters["defect_rate"])
    percent = st.number_input(
        "Of 1,000 parts, so many percent have a defect",
        min_value=0.0,
        max_value=100.0,
        value=1.0,
        step=0.1,
        key=f"defect rate of {model.id}",
        help="In production, not among the pictures: it turns shares of pictures into parts.",
    )
    return percent / 100


def _consequences(found: Evidence, threshold: float, defect_rate: float) -> None:
    for role, scores in ((Role.VALIDATION, found.validation), (Role.TEST, found.test)):
        if not scores.pictures:
            continue
        counted = choosing.outcomes(scores, threshold)
        escapes, false_rejects = counted.per_1000(defect_rate)
        planted = " · synthetic defects" if counted.synthetic else ""
        only = " (shown only)" if role is Role.TEST else ""
        st.markdown(
            f"**On {role.value}{only}**{planted} · of 1,000 parts {number(escapes, 1)} escape, "
            f"{number(false_rejects, 1)} are falsely rejected"
        )
        _matrix(role, counted, threshold)


def _matrix(role: Role, counted: Outcomes, threshold: float) -> None:
    """The four outcomes as buttons: each shows its pictures in the grid above."""
    passed, caught = counted.normal - counted.false_rejects, counted.anomalous - counted.escapes
    cells = [
        (f"✓ {passed:,} normal accepted", Show.PASSED, passed),
        (f"✕ {plural(counted.false_rejects, 'false reject')}", Show.FALSE_REJECTS, counted.false_rejects),
        (f"✓ {plural(counted.escapes, 'escape')}", Show.ESCAPES, counted.escapes),
        (f"✕ {caught:,} defects rejected", Show.CAUGHT, caught),
    ]
    for pair in (cells[:2], cells[2:]):
        for column, (label, show, count) in zip(st.columns(2), pair, strict=True):
            clicked = column.button(
                label,
                key=f"{role.value} {show.value}",
                width="stretch",
                disabled=not count,
                help="Show these pictures above, at this threshold.",
                on_click=_show_in_grid,
                args=[role, show, threshold],
            )
            if clicked:  # it only ran the panel
                st.rerun(scope="app")


def _show_in_grid(role: Role, show: Show, threshold: float, picked: str | None = None) -> None:
    """Let the page show these pictures; its own widgets hold what they show."""
    st.session_state.update({"of": role.value, "show": show.value, "defect": EVERY})
    st.query_params["at"] = repr(threshold)
    if picked is None:
        st.query_params.pop("image", None)
    else:
        st.query_params["image"] = picked


def _curves(found: Evidence, threshold: float) -> None:
    roc, precision_recall = [], []
    for name, scores in (("validation", found.validation), ("test, shown only", found.test)):
        anomalous = scores.anomalous
        if not anomalous.any() or anomalous.all():
            continue
        curve, counted = choosing.curves(scores), choosing.outcomes(scores, threshold)
        caught = counted.anomalous - counted.escapes
        rejected = caught + counted.false_rejects
        recall = caught / counted.anomalous
        by = name == "validation"
        at = (counted.false_rejects / counted.normal, recall)
        roc.append(Curve(name=name, x=curve.false_reject_rate, y=curve.caught_rate, marked=at, chosen_by=by))
        right = caught / rejected if rejected else 1.0
        precision_recall.append(
            Curve(name=name, x=curve.caught_rate, y=curve.precision, marked=(recall, right), chosen_by=by)
        )
    if not roc:
        return
    left, right_column = st.columns(2)
    left.plotly_chart(threshold_charts.roc(roc), config=charts.MODE_BAR, key="roc")
    right_column.plotly_chart(
        threshold_charts.precision_recall(precision_recall), config=charts.MODE_BAR, key="pr"
    )


def _mistakes(model: Model, scores: Scores, threshold: float) -> None:
    """Escapes and false rejects of validation as pictures, the nearest to the threshold first."""
    rejected = scores.scores > threshold
    for show, title, wrong in (
        (Show.ESCAPES, "Escapes", ~rejected & scores.anomalous),
        (Show.FALSE_REJECTS, "False rejects", rejected & ~scores.anomalous),
    ):
        found = [
            (picture.image, float(score))
            for picture, score, is_wrong in zip(scores.pictures, scores.scores, wrong, strict=True)
            if is_wrong and not picture.planted
        ]
        if not found:
            continue
        found.sort(key=lambda pair: abs(pair[1] - threshold))
        st.markdown(f"**{title} on validation** ({len(found)})")
        gallery(
            [
                Tile(
                    id=str(image.id),
                    source=maps.address(workspace().settings, "tile.jpg", model, image),
                    title=image.name,
                    caption=(image.defect_type or image.label.value).replace("_", " "),
                    detail=number(score, 2),
                )
                for image, score in found[:TILES]
            ],
            key=f"mistakes {show.value}",
            on_pick=partial(_picked, show, threshold),
            tile_width=92,
        )
    if st.session_state.pop(PICKED, False):  # it only ran the panel
        st.rerun(scope="app")


def _picked(show: Show, threshold: float, picture: str) -> None:
    _show_in_grid(Role.VALIDATION, show, threshold, picture)
    st.session_state[PICKED] = True


def _save(model: Model, found: Evidence, proposal: Proposal, point: OperatingPoint) -> None:
    if proposal.threshold == point.threshold:
        st.caption("That is the saved threshold.")
        return
    with st.form("save the operating point", border=False):
        why = st.text_input("Reason, for the record", key="why threshold")
        if st.form_submit_button(f"Decide with {number(proposal.threshold)} from now on", type="primary"):
            with incidents.shown():
                changed = choosing.set_point(workspace(), model, proposal, found=found, who=WHO, why=why)
                _done(changed)


def _done(changed: Changed) -> None:
    if changed.untagged:
        st.session_state[UNTAGGED] = changed.untagged
    st.query_params.pop("at", None)
    st.rerun(scope="app")


def _history(model: Model) -> None:
    with workspace().session() as session:
        points = operating_points.history(session, model)
    st.markdown("**History**")
    rows = [
        {
            "": "now" if place == 0 else "",
            "threshold": number(point.threshold, 4),
            "how": wording.threshold_source(point.source.value, point.parameters),
            "when": wording.moment(point.created_at),
            "who": point.who,
            "why": point.why,
            "validation": _told(point, "validation"),
            "test": _told(point, "test"),
        }
        for place, point in enumerate(points)
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True)
    with st.container(horizontal=True):
        for point in points[1:6]:
            if st.button(
                f"Back to {number(point.threshold, 4)}",
                key=f"back to {point.id}",
                icon=":material/undo:",
                help=f"{wording.moment(point.created_at)}: {plain(point.why)}",
            ):
                with incidents.shown():
                    _done(choosing.restore_point(workspace(), model, point.id, who=WHO))


def _told(point: OperatingPoint, role: str) -> str:
    figures = point.figures.get(role)
    if not figures:
        return "–"
    return (
        f"{figures['false_rejects']} of {figures['normal']} falsely rejected, "
        f"{figures['escapes']} of {figures['anomalous']} escape"
    )
