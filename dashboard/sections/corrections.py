"""Correcting pictures: nothing changes until the corrections that wait are saved as the next version."""

from collections.abc import Sequence

import streamlit as st

from dashboard import incidents
from dashboard.session import WHO, workspace
from dashboard.wording import plain, plural
from engine.errors import EngineError
from engine.masks import MAX_THRESHOLD, MOST_VALUES, read_mask
from storage import edits
from storage.errors import StorageError
from storage.records import DatasetVersion, Edit, ImageRecord, Label
from tuning import corrections, doctor, versions
from tuning.errors import TuningError

LIST_LENGTH = 100  # of waiting corrections shown
NOT_SAVED = "corrections not saved"  # in the session: why, to be told by the page that is drawn next
MIDDLE = 127  # of 8 bits: what a JPEG blurs around black lies below, what it blurs around white above
JPEG = b"\xff\xd8\xff"


def waiting(name: str, version: DatasetVersion) -> None:
    """Draw what waits to be saved, if anything."""
    with workspace().session() as session:
        known = edits.list_edits(session, name)
    if refusal := st.session_state.pop(NOT_SAVED, None):
        incidents.refused(refusal)
    if not known:
        return
    with st.container(border=True):
        st.markdown(f":material/edit_note: **{plural(len(known), 'correction')} not saved yet.**")
        details = st.expander("What they change", on_change="rerun")
        if details.open:  # not read, and no table drawn, on every page that nobody opens it on
            with details:
                _details(name)
        with st.container(horizontal=True):
            # Its action runs before the page is drawn anew, so it knows the version that the person saw.
            st.button(
                f"Save as version {version.number + 1}",
                type="primary",
                icon=":material/save:",
                on_click=_save,
                args=[name, version.number],
            )
            if st.button("Discard them", icon=":material/undo:"):
                with workspace().session() as session:
                    edits.discard_edits(session, name)
                st.rerun()


def _details(name: str) -> None:
    changes = versions.preview_edits(workspace(), name)
    st.dataframe(
        [{"picture": one.name, "from": one.before, "to": one.after} for one in changes[:LIST_LENGTH]],
        hide_index=True,
    )
    if len(changes) > LIST_LENGTH:
        st.caption(f"and {len(changes) - LIST_LENGTH:,} more")


def one(name: str, image: ImageRecord, types: Sequence[str]) -> None:
    """Draw the form that corrects one picture.

    Args:
        types: the dataset's defect types, to choose from.
    """
    with workspace().session() as session:
        waits = next(
            (edit for edit in edits.list_edits(session, name) if edit.pixel_digest == image.pixel_digest),
            None,
        )
    change = versions.preview_edit(image, waits) if waits is not None else None
    if change is not None:
        st.info(
            f"Waits to be saved: {plain(change.before)} → {plain(change.after)}.", icon=":material/edit_note:"
        )
    with st.expander("Correct it", icon=":material/edit:"):
        label = st.radio(
            "Label",
            list(Label),
            index=list(Label).index(image.label),
            format_func=lambda one: one.value,
            horizontal=True,
            key=f"label {image.id}",
        )
        kind = image.defect_type
        if label is Label.ANOMALOUS:
            kind = st.selectbox(
                "Defect type",
                types,
                index=types.index(kind) if kind in types else None,
                accept_new_options=True,
                placeholder="unknown; choose or type one",
                key=f"type {image.id}",
            )
        given = st.file_uploader(
            "Another mask: a picture of the same size, black where the part is as it should be",
            type=["png", "bmp", "tif", "tiff", "jpg", "webp"],
            max_upload_size=50,
            key=f"mask {image.id}",
            disabled=label is not Label.ANOMALOUS,
        )
        threshold = 0 if given is None else _threshold(given.getvalue(), given.name, image.id)
        no_mask = image.mask_digest is not None and st.checkbox(
            "Take its mask away", key=f"no mask {image.id}"
        )
        with st.container(horizontal=True):
            if st.button("Keep this correction", type="primary", key=f"keep {image.id}"):
                wanted = corrections.relabelled([image], label, kind)
                try:
                    if given is not None:
                        data = given.getvalue()
                        wanted.append(
                            corrections.masked(workspace(), image, data, given.name, threshold=threshold)
                        )
                    elif no_mask:
                        wanted.append(Edit(pixel_digest=image.pixel_digest, mask_digest=""))
                except (EngineError, TuningError) as error:
                    incidents.refused(error)
                    return
                _put(name, wanted)
            if st.button("Take the picture out", icon=":material/delete:", key=f"remove {image.id}"):
                _put(name, [Edit(pixel_digest=image.pixel_digest, remove=True)])


def _threshold(data: bytes, name: str, image_id: int) -> int:
    """Say what a mask marks; where it isn't black and white, ask above which value. Answers that value."""
    try:
        read = read_mask(data, name)
        if read.binary:
            _share(read.mask.mean())
            return 0
        wide = bool(read_mask(data, name, threshold=255).mask.any())
        values = ", ".join(map(str, read.values)) + (" and more" if len(read.values) == MOST_VALUES else "")
        st.warning(
            f"This mask is not only black and white: it holds the values {values}.",
            icon=":material/tonality:",
        )
        threshold = int(
            st.number_input(
                "A value above this is a defect",
                min_value=0,
                max_value=MAX_THRESHOLD if wide else 254,
                value=MIDDLE if data.startswith(JPEG) else 0,
                key=f"threshold {image_id} {name}",
                help="JPEG blurs a mask's edges; half of white is a good value then.",
                width=280,
            )
        )
        _share(read_mask(data, name, threshold=threshold).mask.mean())
    except EngineError as error:
        incidents.refused(error)
        return 0
    return threshold


def _share(marked: float) -> None:
    st.caption(f"The mask marks {100 * marked:.1f} % of the picture.")


def many(name: str, images: Sequence[ImageRecord], chosen: set[str]) -> None:
    """Draw what can be done with all chosen pictures.

    Args:
        images: those that fit the filter.
        chosen: ids; changed here by "choose all" and "choose none".
    """
    with st.container(border=True, horizontal=True, vertical_alignment="bottom"):
        if st.button(f"Choose all {len(images):,}"):
            chosen.update(str(image.id) for image in images)
            st.rerun()
        if st.button("Choose none"):
            chosen.clear()
            st.rerun()
        label = st.selectbox("Label", list(Label), format_func=lambda one: one.value, width=140)
        kind = st.text_input("Defect type", disabled=label is Label.NORMAL, width=160)
        picked = [image for image in images if str(image.id) in chosen]
        if st.button(f"Relabel {len(picked):,}", type="primary", disabled=not picked):
            wanted = corrections.relabelled(picked, label, kind)
            chosen.clear()
            _put(name, wanted)
        if st.button(f"Take {len(picked):,} out", disabled=not picked, icon=":material/delete:"):
            chosen.clear()
            _put(name, [Edit(pixel_digest=image.pixel_digest, remove=True) for image in picked])


def _put(name: str, wanted: Sequence[Edit]) -> None:
    with incidents.shown():
        if corrections.put(workspace(), name, wanted, who=WHO):
            st.rerun()
        st.info("That is how it is already.", icon=":material/info:")


def _save(name: str, after: int) -> None:
    """Save what waits on the version that was shown; whatever is newer is looked at first."""
    try:
        version = versions.save_edits(workspace(), name, who=WHO, after=after)
    except (StorageError, TuningError) as error:
        st.session_state[NOT_SAVED] = str(error)
    else:
        st.query_params.pop("image", None)
        if version.number > after:
            doctor.start_examination(workspace(), version.id)
