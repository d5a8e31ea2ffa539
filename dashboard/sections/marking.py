"""What people say of pictures while they look at heatmaps: taken down at once, undone, saved, and studied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard import incidents
from dashboard.components.viewer import Led
from dashboard.scored import Picture, ScoredPicture
from dashboard.sections import corrections
from dashboard.session import WHO, workspace
from dashboard.views import STUDIES
from dashboard.wording import plain, plural
from engine.errors import EngineError
from engine.masks import Mask, fit_mask, read_mask
from storage import edits
from storage.errors import StorageError
from storage.records import DatasetVersion, Label, Model, Review
from storage.workspace import Workspace
from tuning import batches, reviewing
from tuning.batches import Batch
from tuning.errors import TuningError

NOTES = "notes on marks"  # in the session
UPLOAD_MB = 50


@dataclass(kw_only=True)
class Notes:
    """What the page that is drawn next says of what the viewer told."""

    refused: str | None = None  # why something was not done
    kept: str | None = None  # why a correction stays though its mark was undone


def notes() -> Notes:
    """Those of this session."""
    found: Notes = st.session_state.setdefault(NOTES, Notes())
    return found


def handle(
    workspace: Workspace,
    name: str,
    model: Model,
    image: Picture | None,
    event: Mapping[str, Any],
    *,
    batch: Batch | None,
    ids: Mapping[str, str],
    notes: Notes,
) -> Led:
    """Do what the viewer says: mark a picture, or undo.

    Args:
        image: the picture that is marked; None if the page does not know it.
        event: as `dashboard.components.viewer` gives it; it comes from a browser.
        batch: that the picture is of; None for one of the dataset.
        ids: of the pictures in the list, by pixel digest.
        notes: taken down here, to be told by `show`.
    """
    try:
        if event.get("kind") == "undo":
            undone = reviewing.undo(workspace, name)
            notes.kept = undone.kept or notes.kept
            back = ids.get(undone.review.pixel_digest)
            return Led(to=back, away=back is not None)
        if image is None:
            notes.refused = (
                "The picture that was marked is not in the list any more. Choose it again and mark it."
            )
            return Led()
        label = Label(str(event.get("label")))
        reviewing.mark(
            workspace,
            name,
            image,
            label,
            defect_type=str(event.get("type") or "") or None,
            mask=_mask(batches.within(workspace, batch) if batch else workspace, model, image, event),
            model=model,
            uploaded=batch is not None,
            who=WHO,
        )
        if event.get("next") in ids.values():
            return Led(to=str(event["next"]))
    except (StorageError, TuningError, EngineError, ValueError) as error:
        notes.refused = str(error)
    return Led()


def _mask(inside: Workspace, model: Model, image: Picture, event: Mapping[str, Any]) -> Mask | None:
    """What was drawn, or the regions of the heatmap; None where neither was asked for."""
    if event.get("regions"):
        from dashboard.scales import scale_of
        from tuning.predictor import map_of

        marked: Mask = map_of(inside, model, image)[1] > scale_of(model).map_threshold
        return marked
    shapes = [[(float(x), float(y)) for x, y in shape] for shape in event.get("shapes") or ()]
    return reviewing.drawn_mask(shapes, image.height, image.width) if shapes else None


def show(
    name: str,
    latest: DatasetVersion,
    model: Model,
    current: ScoredPicture,
    *,
    batch: Batch | None,
    pictures: Sequence[Picture],
    said: Mapping[str, Review],
) -> None:
    """Draw what waits, and what can be done with it.

    Args:
        batch: that the pictures are of; None where they are the dataset's.
        pictures: all that are looked at, whatever the filter shows.
        said: what people said of pictures, by pixel digest.
    """
    told = notes()
    if told.refused:
        incidents.refused(told.refused)
    if told.kept:
        st.info(told.kept, icon=":material/info:")
    told.refused = told.kept = None  # the same ones are written on from then on
    with st.expander("Upload a mask of its defect", icon=":material/upload_file:"):
        _upload(name, model, current.image, uploaded=batch is not None)
    if batch is not None:
        _add(name, batch, pictures, said)
    corrections.waiting(name, latest)
    with workspace().session() as session:
        waiting = len(edits.list_edits(session, name))
    if waiting or latest.id != model.dataset_version_id:
        _follow_up(model, latest, waiting)


def _upload(name: str, model: Model, image: Picture, *, uploaded: bool) -> None:
    given = st.file_uploader(
        "A picture of the same size, black where the part is as it should be",
        type=["png", "bmp", "tif", "tiff", "jpg", "webp"],
        max_upload_size=UPLOAD_MB,
        key=f"mask of {image.pixel_digest[:16]}",
    )
    kind = st.text_input(
        "Defect type", value=image.defect_type or "", key=f"type of {image.pixel_digest[:16]}", width=220
    )
    if given is None or not st.button("Mark as a defect with this mask", type="primary"):
        return
    with incidents.shown():
        mask = read_mask(given.getvalue(), given.name).mask
        mask = fit_mask(mask, image.height, image.width, given.name, image.name)
        reviewing.mark(
            workspace(),
            name,
            image,
            Label.ANOMALOUS,
            defect_type=kind or None,
            mask=mask,
            model=model,
            uploaded=uploaded,
            who=WHO,
        )
        st.rerun()


def _add(name: str, batch: Batch, pictures: Sequence[Picture], said: Mapping[str, Review]) -> None:
    open_ones = [
        picture
        for picture in pictures
        if (review := said.get(picture.pixel_digest)) is not None and review.version_id is None
    ]
    with st.container(border=True):
        st.caption(
            "These pictures belong to no dataset. Mark them as fine or as a defect, and add the marked ones: they "
            "become pictures of the next version, with their labels, types and masks."
        )
        if st.button(
            f"Add {plural(len(open_ones), 'marked picture')} to {name}",
            type="primary",
            disabled=not open_ones,
            icon=":material/add_photo_alternate:",
        ):
            with incidents.shown():
                report = reviewing.add_marked(
                    workspace(),
                    name,
                    open_ones,
                    store=batches.pictures(batch),
                    source=f"batch {batch.origin}",
                    who=WHO,
                )
                left_out = f" {plural(len(report.skipped), 'picture')} left out." if report.skipped else ""
                st.toast(f"Version {report.version.number} of {name} holds them.{left_out}")
                st.rerun()


def _follow_up(model: Model, latest: DatasetVersion, waiting: int) -> None:
    words = (
        f"Save as version {latest.number + 1} and study it"
        if waiting
        else f"Study version {latest.number}, which is newer than this model"
    )
    if st.button(
        words,
        icon=":material/model_training:",
        help="A study like the one that made this model, on the new version; its champion is compared with this one.",
    ):
        with incidents.shown():
            study = reviewing.follow_up(workspace(), model, who=WHO, after=latest.number)
            st.switch_page(
                STUDIES, query_params={"dataset": plain(model.dataset_name), "study": str(study.id)}
            )
