"""The versions of a dataset: what each changed, named, compared and exported; the history; and deletion."""

from collections.abc import Sequence

import streamlit as st

from dashboard import cached, incidents
from dashboard.components.gallery import Tile, gallery
from dashboard.sections import corrections
from dashboard.session import WHO, workspace
from dashboard.wording import moment, plural
from storage import datasets, events, models, studies
from storage.errors import StorageError
from storage.records import DatasetVersion, ImageRecord
from tuning import commands
from tuning.export import export_version

TILES = 24  # shown of each kind of difference
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
                "made": one.created_at,
                "by": one.who or "–",
                "pictures": one.count(),
                "change": one.change or f"from {one.source}",
                "studies": used.count(one.id),
                "models": models_of.count(one.id),
            }
            for one in known
        ],
        hide_index=True,
        column_config={"made": st.column_config.DatetimeColumn("made", format="YYYY-MM-DD HH:mm")},
    )
    _one(name, known)
    if len(known) > 1:
        _compare(known)
    with st.expander("History", icon=":material/history:"):
        for event in history:
            st.caption(f"{moment(event.created_at)} · {event.who}: {event.what}")
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
                st.error(str(error), icon=":material/block:")
                return
            cached.version.clear()
            st.rerun()
        if st.button(
            "Prepare the export", icon=":material/folder_zip:", help="A zip in the layout of MVTec AD."
        ):
            st.session_state[f"export {version.id}"] = True
    if st.session_state.get(f"export {version.id}"):
        _export(version)


def _export(version: DatasetVersion) -> None:
    file = workspace().settings.exports_folder / f"{version.dataset_name}-version-{version.number}.zip"
    if not file.exists():
        bar = st.progress(0.0, text="packing …")

        def progress(done: int, total: int, what: str) -> None:
            bar.progress(done / total if total else 0.0, text=f"{done:,} of {total:,} ({what})")

        with incidents.shown():
            export_version(workspace(), version, file, progress=progress)
        bar.empty()
    with file.open("rb") as data:
        st.download_button(
            f"Download {file.name}", data, file_name=file.name, type="primary", icon=":material/download:"
        )


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
        "with another mask": [(new, _kind(new)) for old, new in found.remasked],
        "with another role": [(new, f"{old.role.value} → {new.role.value}") for old, new in found.moved],
    }
    if not any(differences.values()):
        st.info("They hold the same pictures with the same labels, masks and roles.", icon=":material/equal:")
    for what, pairs in differences.items():
        if not pairs:
            continue
        st.markdown(f"**{plural(len(pairs), 'picture')} {what}**")
        gallery(
            [
                Tile(
                    id=str(image.id),
                    source=cached.thumbnail_url(image.digest),
                    title=f"{image.name}: {change}",
                    caption=change,
                )
                for image, change in pairs[:TILES]
            ],
            key=f"difference {what}",
            on_pick=lambda _: None,
            tile_width=118,
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
            st.error(
                f"'{sure}' is not the dataset's name. Type {name} to delete it.", icon=":material/block:"
            )
        elif asked:
            try:
                commands.delete_dataset(workspace(), name, who=WHO)
            except StorageError as error:
                st.error(str(error), icon=":material/block:")
                return
            st.session_state[GONE] = name
            st.rerun()
