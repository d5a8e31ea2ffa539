"""Studies: the list, the form for a new one, and one study live."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape

import streamlit as st

from dashboard import following, incidents, wording
from dashboard.components import choosing, look, study_form
from dashboard.sections import watching
from dashboard.session import workspace
from dashboard.views import DATASETS, STUDIES
from storage import datasets, studies
from storage.errors import StudyNotFound
from storage.records import DatasetVersion, Study, now
from tuning import commands, steering

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
        known = sorted(studies.list_studies(session), key=lambda study: study.id, reverse=True)
    if not names:
        choosing.none_yet("No study yet", "A study needs a dataset first.")
        st.page_link(DATASETS, label="Datasets", icon=":material/photo_library:")
        return
    with look.top("Studies"):
        if st.button("New study", type="primary", icon=":material/add:"):
            st.switch_page(STUDIES, query_params={"new": "1"})
    archived = sum(study.archived_at is not None for study in known)
    everything = archived > 0 and st.toggle(
        f"Show {archived} archived", key="archived", help="Archived studies are left out of lists."
    )
    found = [study for study in known if everything or study.archived_at is None]
    if not known:
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
                if study.priority:
                    about += f" · priority {study.priority}"
                look.line(
                    f'<span class="sn-muted">{about}</span>',
                    look.note("archived") if study.archived_at else "",
                )
            with progress:
                look.progress(following.fraction_done(study), following.status_line(study))
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
        version = _version(name)
        form = st.container()
    with right:
        study_form.explain(version)
    with form:
        other = _study(st.query_params["like"]) if "like" in st.query_params else None
        follows = None if other is None else _about(other, version)
        spec = study_form.show(version, None if other is None else steering.like(other))
    if spec is not None:
        spec = replace(spec, follows=follows)
        study = commands.launch_study(workspace(), name, spec, version_id=version.id)
        st.switch_page(STUDIES, query_params={"dataset": name, "study": str(study.id)})


def _version(name: str) -> DatasetVersion:
    """The version to search on: the latest, unless a person chooses one of those before."""
    with workspace().session() as session:
        latest, versions = datasets.latest_version(session, name), datasets.list_versions(session, name)
    if len(versions) == 1:
        return latest
    return st.selectbox(
        "Version of the dataset",
        versions,
        format_func=lambda one: f"{one.number}{f' · {one.title}' if one.title else ''}",
        key=f"version-of-{name}",
        help="The latest, unless a search is to be repeated on pictures as they were before.",
    )


def _about(other: Study, version: DatasetVersion) -> int | None:
    """Say whose settings the form begins with; answers the study whose trials are taken over, if any."""
    st.caption(f":material/content_copy: Begins with the settings of study “{wording.plain(other.name)}”.")
    if other.dataset_version_id != version.id:
        if other.dataset_name == version.dataset_name:
            st.caption(
                "It searched another version. Choose that to start from its trials, too: on other pictures their "
                "values say nothing."
            )
        return None
    wanted = st.checkbox(
        "Start from its trials",
        key=f"follow-{other.id}",
        help="The search knows their values from the start. Objective, size, epochs and seeds must stay the same; "
        "ranges may be set narrower or wider.",
    )
    return other.id if wanted else None


def _one(study_id: str) -> None:
    study = _study(study_id)
    st.page_link(STUDIES, label="All studies", icon=":material/arrow_back:")
    watching.show(study)


def _study(study_id: str) -> Study:
    if not study_id.isdecimal():
        raise StudyNotFound(f"'{study_id}' is no number of a study. Open one from the list of studies.")
    with workspace().session() as session:
        return studies.get_study(session, int(study_id))


if __name__ == "__main__":
    show()
