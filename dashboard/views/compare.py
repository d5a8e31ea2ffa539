"""Compare: two to six trials, studies and models of a dataset side by side."""

from collections.abc import Sequence
from html import escape

import pandas as pd
import streamlit as st

from dashboard import cached, charts, comparison, incidents, wording
from dashboard.components import choosing, legend, look
from dashboard.sections.trials import is_repeated, repeat
from dashboard.session import workspace
from dashboard.thumbnails import data_url, shrunk
from dashboard.views import DATASETS, MODELS, STUDIES
from engine import heatmap
from engine.config import SimpleNetConfig
from engine.geometry import seen
from storage import datasets, models, studies
from storage.errors import StorageError
from storage.records import Study
from tuning import compare, queries
from tuning.compare import Disagreement, Subject

OF = "of"  # parameter of the address: what is compared, '3.7,3.9,v2'
BEST_OF_STUDY = 5  # trials of each study that the box offers
STUDIES_OFFERED = 10  # the latest
ROWS = 6  # pictures at once
SIDE = 320  # pixels of a heatmap's longer side
OPACITY = 0.6


def show() -> None:
    """Draw the page."""
    with workspace().session() as session:
        names = [dataset.name for dataset in datasets.list_datasets(session)]
    if not names:
        choosing.none_yet("Nothing to compare yet", "Trials come with a dataset and its first study.")
        st.page_link(DATASETS, label="Datasets", icon=":material/photo_library:")
        return
    with look.top("Compare"):
        name = choosing.dataset(names, clears=[OF, "page"])
    keys = _choose(name)
    if len(keys) < compare.LEAST:
        choosing.none_yet(
            "Nothing chosen yet",
            f"Choose {compare.LEAST} to {compare.MOST} trials, studies or models above, or trials in a study's table.",
        )
        st.page_link(STUDIES, label="Studies", icon=":material/tune:")
        return
    compared = compare.subjects(workspace(), name, keys)
    _heads(compared)
    _tables(compared)
    _curves(compared)
    _pictures(compared)


def _choose(name: str) -> list[str]:
    """A box with models, and the best trials of the latest studies; the address holds the choice."""
    keys = compare.read_keys(st.query_params.get(OF, ""))
    offered = _offered(name)
    options = list(dict.fromkeys([*keys, *offered]))
    box = f"compare of {name}: {','.join(keys)}"  # a key per choice: a link must not meet the former one

    def changed() -> None:
        st.query_params[OF] = ",".join(st.session_state[box])
        st.query_params.pop("page", None)

    chosen: list[str] = st.multiselect(
        "Side by side",
        options,
        default=keys,
        format_func=lambda key: offered.get(key, _title(key)),
        max_selections=compare.MOST,
        key=box,
        on_change=changed,
        placeholder="Choose trials, studies and models",
    )
    return chosen


def _offered(name: str) -> dict[str, str]:
    """Keys and words of what can be compared."""
    with workspace().session() as session:
        known = models.list_models(session, name)
        latest = sorted(studies.list_studies(session, dataset=name), key=lambda study: -study.id)
    found = {
        f"v{model.version}": f"Model version {model.version} ({model.state.value})"
        for model in sorted(known, key=lambda model: -model.version)
    }
    trials = {study.id: _best_trials(study) for study in latest[:STUDIES_OFFERED]}
    found |= {
        f"s{study.id}": f"{study.name}, its best trial"
        for study in latest[:STUDIES_OFFERED]
        if queries.best_trial(workspace(), study) is not None
    }
    for own in trials.values():
        found |= own
    return found


def _best_trials(study: Study) -> dict[str, str]:
    done = [trial for trial in queries.study_trials(workspace(), study) if trial.state == "completed"]
    best = sorted(done, key=lambda trial: (-(trial.value or 0.0), trial.number))[:BEST_OF_STUDY]
    return {
        f"{study.id}.{trial.number + 1}": f"{study.name}, trial {trial.number + 1}: {wording.number(trial.value)}"
        for trial in best
    }


def _title(key: str) -> str:
    study, _, trial = key.partition(".")
    if trial:
        return f"Study {study}, trial {trial}"
    return (
        f"Study {key[1:]}, its best trial"
        if key.startswith("s")
        else f"Model version {key.removeprefix('v')}"
    )


def _heads(compared: Sequence[Subject]) -> None:
    """What stands side by side, each with the way to it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        try:
            url = compare.mlflow_url(workspace(), compared)
            st.link_button("The same in MLflow", url, icon=":material/open_in_new:")
        except StorageError as error:
            st.caption(f"No link to MLflow: {wording.plain(str(error))}")
        if len({subject.version.id for subject in compared}) > 1:
            st.caption(
                ":material/info: Their dataset versions differ, so their figures are of different pictures; the "
                "pictures below are those that are for validation in all of them."
            )
        if len({subject.objective for subject in compared}) > 1:
            st.caption(
                ":material/info: Their studies maximised different objectives; compare the figures, not the values."
            )
    for column, subject, colour in zip(st.columns(len(compared)), compared, charts.COLOURS, strict=False):
        with column.container(border=True):
            look.line(f'<span style="color:{colour}">●</span>', f"<b>{escape(subject.title)}</b>")
            value = wording.number(subject.value)
            st.html(
                f'<div><span class="sn-big">{value}</span> '
                f'<span class="sn-muted">{escape(wording.figure_name(subject.objective))}</span></div>'
                f'<div class="sn-muted">{escape(wording.configuration(subject.config))}</div>'
            )
            _ways(subject)


def _ways(subject: Subject) -> None:
    of_dataset = {"dataset": subject.version.dataset_name}
    if subject.model is None:
        st.page_link(
            STUDIES,
            label="Study",
            icon=":material/tune:",
            query_params={
                **of_dataset,
                "study": str(subject.study.id),
                "trials": str(subject.trial_number + 1),
            },
        )
    else:
        st.page_link(MODELS, label="Model", icon=":material/workspace_premium:", query_params=of_dataset)
    note = compare.weights_note(workspace(), subject)
    if note is not None:
        st.caption(f":material/info: {wording.plain(note)}")
    elif not compare.has_weights(workspace(), subject):
        st.caption(
            ":material/info: No weights are kept of this trial, so it has no heatmaps. Train it again to make them."
        )
        waiting = is_repeated(subject.run_id)
        st.fragment(_repeat, run_every=1.0 if waiting else None)(subject.run_id, subject.title, waiting)


@incidents.guarded
def _repeat(run_id: str, title: str, waiting: bool) -> None:
    if waiting and not is_repeated(run_id):
        st.rerun()  # the heatmaps are there now, or the reason why not
    repeat(run_id, title)


def _tables(compared: Sequence[Subject]) -> None:
    titles = _titles(compared)
    rows = comparison.setting_rows(compare.differences(compared))
    left, right = st.columns([2, 3], gap="large")
    with left:
        st.subheader("What differs")
        if rows:
            _table("setting", titles, rows)
        else:
            st.caption("Nothing: all were trained with the same settings on the same pictures.")
    with right:
        st.subheader("Figures")
        _table("figure", titles, comparison.figure_rows(compared))
        kinds = comparison.defect_type_rows(compared)
        if kinds:
            st.markdown(
                "**By defect type**", help="Image AUROC against all normal validation pictures, and escapes."
            )
            _table("defect type", titles, kinds)


def _table(first: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    st.dataframe(pd.DataFrame(rows, columns=[first, *titles]), hide_index=True)


def _titles(compared: Sequence[Subject]) -> list[str]:
    return [subject.title for subject in compared]


def _curves(compared: Sequence[Subject]) -> None:
    same = {subject.objective for subject in compared}
    name = wording.figure_name(same.pop()) if len(same) == 1 else "objective"
    if any(subject.best_so_far for subject in compared):
        st.subheader("Best so far, by trial")
        searched = [subject.best_so_far for subject in compared]
        drawn = charts.curves_beside(_titles(compared), searched, name, by="trial")
        st.plotly_chart(drawn, config=charts.MODE_BAR, key="searched")
    if not any(subject.curve for subject in compared):
        return
    st.subheader("By epoch")
    drawn = charts.curves_beside(_titles(compared), [subject.curve for subject in compared], name)
    st.plotly_chart(drawn, config=charts.MODE_BAR, key="beside")


def _pictures(compared: Sequence[Subject]) -> None:
    st.subheader("Where they disagree")
    shown = compare.pictures(workspace(), compared)
    known = [_scores(subject.run_id, subject.key, subject) for subject in compared]
    found = compare.disagreements(compared, known, shown)
    if not found:
        st.caption(
            "There is no picture that all of them have a score of: their versions share no validation picture, or a "
            "run was made by an older version of this program."
        )
        return
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    left.write(
        f"{comparison.decision_line(found)} Below, those first, then by how differently the models place them among "
        "all validation pictures. Each heatmap has its model's own absolute scale."
    )
    with right:
        legend.show()
    pages = -(-len(found) // ROWS)
    page = st.pagination(pages, key="page", bind="query-params") if pages > 1 else 1
    for one in found[(page - 1) * ROWS : page * ROWS]:
        _row(compared, one)


def _row(compared: Sequence[Subject], one: Disagreement) -> None:
    image = one.picture.image
    with st.container(border=True):
        look.line(
            f"<b>{escape(comparison.picture_name(one))}</b>",
            f'<span class="sn-muted">{escape(comparison.truth(one))}</span>',
            *([look.note("decided differently")] if one.split else []),
        )
        columns = st.columns(len(compared) + 1)
        pixels = (
            one.picture.read(workspace().blobs)[0]
            if one.picture.planted
            else cached.shown(image.digest, image.name)
        )
        columns[0].image(pixels, caption="Original", width="stretch", alt=f"{image.name}, original")
        for column, subject, score, decision in zip(
            columns[1:], compared, one.scores, one.decisions, strict=True
        ):
            with column:
                if compare.has_weights(workspace(), subject):
                    url = _overlay((subject.run_id, subject.key, one.picture.key), subject, one)
                    st.image(url, width="stretch")
                else:
                    st.caption("no weights, no heatmap")
                look.line(
                    look.decision(decision),
                    f'<span class="sn-number">{wording.number(score)}</span>'
                    f'<span class="sn-muted"> threshold {wording.number(subject.calibration.threshold)}</span>',
                )
                st.caption(wording.plain(subject.title))


@st.cache_data(max_entries=64, show_spinner="Reading the scores …")
def _scores(run_id: str, key: str, _subject: Subject) -> dict[str, float]:  # noqa: ARG001 (the cache's key)
    """Scores of all validation pictures of the subject's version; they never change."""
    return compare.scores(workspace(), _subject, compare.pictures(workspace(), [_subject]))


@st.cache_data(max_entries=2000, show_spinner="Drawing heatmaps …")
def _overlay(of: tuple[str, str, str], _subject: Subject, _one: Disagreement) -> str:  # noqa: ARG001 (the key)
    """A heatmap as a data URL; subject and picture name it, and neither ever changes."""
    from tuning.trial_maps import maps  # only here: it loads torch

    ((_, _, anomaly_map),) = maps(workspace(), _subject, [_one.picture])
    pixels = _one.picture.read(workspace().blobs)[0]
    drawn = heatmap.overlay(pixels, anomaly_map, _subject.calibration, OPACITY)
    config = SimpleNetConfig.from_json(_subject.config)
    view = seen((pixels.shape[0], pixels.shape[1]), (config.height, config.width), config.resize)
    return data_url(shrunk(heatmap.veil(drawn, view), SIDE))


if __name__ == "__main__":
    show()
