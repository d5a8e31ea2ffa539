"""Studies: the list, the form for a new one, and one study live."""

from collections.abc import Sequence
from html import escape

import streamlit as st

from dashboard import following, incidents, wording
from dashboard.components import choosing, look, study_form
from dashboard.sections import watching
from dashboard.session import workspace
from dashboard.views import DATASETS, STUDIES
from storage import datasets, studies
from storage.errors import StorageError, StudyNotFound
from storage.records import Study, StudyState, Wanted, now
from tuning import commands

LIVE_SECONDS = 2.0
PAGE_SIZE = 20


def show() -> None:
    """Draw the page that the address asks for."""
    if "study" in st.query_params:
        _one(st.query_params["study"])
    elif "new" in st.query_params:
        _new()
    else:
        _all()


def _all() -> None:
    with workspace().session() as session:
        names = [dataset.name for dataset in datasets.list_datasets(session)]
        found = sorted(studies.list_studies(session), key=lambda study: study.id, reverse=True)
    if not names:
        choosing.none_yet("No study yet", "A study needs a dataset first.")
        st.page_link(DATASETS, label="Datasets", icon=":material/photo_library:")
        return
    with look.top("Studies"):
        if st.button("New study", type="primary", icon=":material/add:"):
            st.switch_page(STUDIES, query_params={"new": "1"})
    if not found:
        choosing.none_yet(
            "No study yet",
            "A study tries configurations and keeps the one that best tells anomalous from normal pictures.",
        )
        return
    page = 1
    if len(found) > PAGE_SIZE:
        page = st.pagination(-(-len(found) // PAGE_SIZE), key="page", bind="query-params")
    shown = [study.id for study in found[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]]
    live = any(not study.state.finished for study in found)
    st.fragment(_rows, run_every=LIVE_SECONDS if live else None)(shown)


@incidents.guarded
def _rows(shown: Sequence[int]) -> None:
    with workspace().session() as session:
        found = {study.id: study for study in studies.list_studies(session)}
    for study in (found[study_id] for study_id in shown):
        with st.container(border=True):
            name, progress, link = st.columns([4, 5, 1], vertical_alignment="center")
            with name:
                look.line(f"<b>{escape(study.name)}</b>", look.state(study.state.value))
                about = f"{escape(study.dataset_name)} · {wording.ago(study.created_at, now())}"
                look.line(f'<span class="sn-muted">{about}</span>')
            with progress:
                st.progress(following.fraction_done(study), text=wording.plain(following.status_line(study)))
            with link:
                st.page_link(
                    STUDIES,
                    label="Open",
                    query_params={"dataset": study.dataset_name, "study": str(study.id)},
                )


def _new() -> None:
    with workspace().session() as session:
        names = [dataset.name for dataset in datasets.list_datasets(session)]
    if not names:
        choosing.none_yet("A study needs a dataset", "Ingest a folder of pictures, or start with the demo.")
        st.page_link(DATASETS, label="Datasets", icon=":material/photo_library:")
        return
    st.title("New study")
    left, right = st.columns([3, 2], gap="large")
    with left:
        name = choosing.dataset(names, width="stretch")
        with workspace().session() as session:
            version = datasets.latest_version(session, name)
        form = st.container()
    with right:
        study_form.explain(version)
    with form:
        spec = study_form.show(version)
    if spec is not None:
        study = commands.launch_study(workspace(), name, spec)
        st.switch_page(STUDIES, query_params={"dataset": name, "study": str(study.id)})


def _one(study_id: str) -> None:
    study = _study(study_id)
    st.page_link(STUDIES, label="All studies", icon=":material/arrow_back:")
    watching.show(study, steer=_steer)


def _study(study_id: str) -> Study:
    if not study_id.isdecimal():
        raise StudyNotFound(f"'{study_id}' is no number of a study. Open one from the list of studies.")
    with workspace().session() as session:
        return studies.get_study(session, int(study_id))


def _steer(study: Study) -> None:
    """Buttons for what can be asked of the study now."""
    if study.state.finished:
        return

    def ask(wanted: Wanted) -> None:
        # A button's action runs before the page, where nothing would show its error.
        try:
            commands.want(workspace(), study.id, wanted)
        except StorageError as error:
            st.toast(wording.plain(str(error)), icon=":material/error:")

    if study.state is StudyState.PAUSED or study.wanted is Wanted.PAUSE:
        st.button("Resume", icon=":material/play_arrow:", on_click=ask, args=[Wanted.RUN])
    elif study.state is StudyState.RUNNING:
        st.button("Pause", icon=":material/pause:", on_click=ask, args=[Wanted.PAUSE])
    with st.popover("Cancel", icon=":material/close:", disabled=study.wanted is Wanted.CANCEL):
        st.write("The trials so far stay in MLflow; no model comes of this study, and it can not be resumed.")
        st.button("Cancel the study", on_click=ask, args=[Wanted.CANCEL])


if __name__ == "__main__":
    show()
