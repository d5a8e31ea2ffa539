"""The versions of a dataset: what each changed, named, compared and exported; the history; and deletion."""

from collections.abc import Sequence

import streamlit as st

from dashboard import cached, downloads, incidents
from dashboard.components import look
from dashboard.components.gallery import Tile, gallery
from dashboard.sections import corrections
from dashboard.session import WHO, workspace
from dashboard.wording import moment, plain, plural
from storage import datasets, events, models, studies
from storage.errors import StorageError
from storage.records import DatasetVersion, ImageRecord
from storage.room import size_text
from tuning import commands, exports, jobs
from tuning.jobs import JobState

LIVE_SECONDS = 0.7
TILES = 24  # shown of each kind of difference
REMASKED = "with another mask"  # shown twice, with the outlines of before and after
GONE = "deleted dataset"  # in the session: its name, for the page has nothing else to show any more


def show(name: str, version: DatasetVersion) -> None:
    """Draw the section."""
    corrections.waiting(name, version)
    with workspace().session() as session:
        known = datasets.list_versions(session, name)
        used = [study.dataset_version_id for study in studies.list_studies(session, dataset=name)]
        models_of = [model.dataset_version_id for model in models.list_models(session, name)]
        history = events.list_events(session, name)
    st.dataframe(
        [
            {
                "version": one.number,
                "name": one.title or "",
                "made": moment(one.created_at),
                "by": one.who or "–",
                "pictures": one.count(),
                "change": one.change or f"from {one.source}",
                "studies": used.count(one.id),
                "models": models_of.count(one.id),
            }
            for one in known
        ],
        hide_index=True,
    )
    _one(name, known)
    if len(known) > 1:
        _compare(known)
    with st.expander("History", icon=":material/history:"):
        for event in history:
            st.caption(f"{moment(event.created_at)} · {plain(f'{event.who}: {event.what}')}")
        if not history:
            st.caption("Nothing is recorded yet.")
    _delete(name)


def _one(name: str, known: Sequence[DatasetVersion]) -> None:
    """Name and export a version."""
    numbers = [one.number for one in known]
    with st.container(border=True, horizontal=True, vertical_alignment="bottom"):
        number = st.selectbox("Version", numbers, width=110)
        version = known[numbers.index(number)]
        title = st.text_input("Its name", value=version.title or "", key=f"title {version.id}", width=260)
        if st.button("Rename", disabled=title.strip() == (version.title or "")):
            try:
                commands.rename_version(workspace(), name, version.number, title, who=WHO)
            except StorageError as error:
                incidents.refused(error)
                return
            cached.version.clear()
            st.rerun()
        if st.button(
            "Prepare the export", icon=":material/folder_zip:", help="A zip in the layout of MVTec AD."
        ):
            with incidents.shown():
                exports.start_export(workspace(), version.id)
    _export(version)


def _export(version: DatasetVersion) -> None:
    """The archive of a version on its way, or to be downloaded."""
    settings = workspace().settings
    key = exports.job_key(version.id)
    job = jobs.status(settings, key)
    if job is not None and job.state is JobState.RUNNING:
        _packing(key)
        return
    if job is not None and job.state in (JobState.FAILED, JobState.INTERRUPTED):
        incidents.refused(job.error or "Packing was interrupted. Prepare the export again.")
    file = exports.archive(settings, version)
    if file.exists():
        about = f"{size_text(file.stat().st_size)}, kept for a day"
        look.download(f"Download {file.name}", downloads.archive_address(settings, file), about)


def _packing(key: str) -> None:
    @st.fragment(run_every=LIVE_SECONDS)
    def live() -> None:
        job = jobs.status(workspace().settings, key)
        if job is None or job.state is not JobState.RUNNING:
            st.rerun()
            return
        text = f"{job.done:,} of {job.total:,} pictures packed" if job.total else "Packing …"
        st.progress(min(1.0, job.done / job.total) if job.total else 0.0, text=text)

    with st.container(border=True):
        live()
        st.caption("This goes on when you leave the page.")
        if st.button("Cancel", key="cancel the export", icon=":material/cancel:"):
            jobs.cancel(workspace().settings, key)


def _compare(known: Sequence[DatasetVersion]) -> None:
    st.subheader("Compare")
    numbers = [one.number for one in known]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        before = st.selectbox("From version", numbers, index=1, key="from", bind="query-params", width=130)
        after = st.selectbox("to version", numbers, index=0, key="to", bind="query-params", width=130)
    if before == after:
        st.caption("Choose two different versions.")
        return
    found = cached.comparison(known[numbers.index(before)].id, known[numbers.index(after)].id)
    differences: dict[str, list[tuple[ImageRecord, str]]] = {
        "added": [(image, image.defect_type or image.label.value) for image in found.added],
        "removed": [(image, image.defect_type or image.label.value) for image in found.removed],
        "relabelled": [(new, f"{_kind(old)} → {_kind(new)}") for old, new in found.relabelled],
        REMASKED: [(new, _kind(new)) for old, new in found.remasked],
        "with another role": [(new, f"{old.role.value} → {new.role.value}") for old, new in found.moved],
    }
    former_masks = {new.id: old.mask_digest for old, new in found.remasked}
    if not any(differences.values()):
        st.info("They hold the same pictures with the same labels, masks and roles.", icon=":material/equal:")
    for what, pairs in differences.items():
        if not pairs:
            continue
        st.markdown(f"**{plural(len(pairs), 'picture')} {what}**")
        twice = what == REMASKED
        gallery(
            [
                Tile(
                    id=str(image.id),
                    source=cached.thumbnail_url(image.digest, former_masks[image.id] if twice else None),
                    beside=cached.thumbnail_url(image.digest, image.mask_digest) if twice else None,
                    title=f"{image.name}: {change}",
                    caption=change,
                )
                for image, change in pairs[:TILES]
            ],
            key=f"difference {what}",
            on_pick=lambda _: None,
            tile_width=240 if twice else 118,
        )
        if len(pairs) > TILES:
            st.caption(f"and {len(pairs) - TILES:,} more")


def _kind(image: ImageRecord) -> str:
    return (image.defect_type or image.label.value).replace("_", " ")


def _delete(name: str) -> None:
    with st.expander("Delete the dataset", icon=":material/delete:"):
        st.write(
            "All its versions, studies and models disappear from the pages. Nothing is erased: it can be restored "
            "under “New dataset”. It is refused while a champion serves or a study has not ended."
        )
        with st.form("delete", border=False):
            sure = st.text_input(f"Type {name} to be sure")
            asked = st.form_submit_button("Delete the dataset", icon=":material/delete:")
        if asked and sure.strip() != name:
            incidents.refused(f"'{sure}' is not the dataset's name. Type {name} to delete it.")
        elif asked:
            try:
                commands.delete_dataset(workspace(), name, who=WHO)
            except StorageError as error:
                incidents.refused(error)
                return
            st.session_state[GONE] = name
            st.rerun()
