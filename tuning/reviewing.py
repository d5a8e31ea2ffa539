"""A person's word on a picture becomes a correction that waits, and then a label of the dataset's next version."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from engine.masks import Mask, encode_mask
from storage import datasets, edits, reviews
from storage.entries import Entry, Layout
from storage.errors import BadEdit
from storage.listing import SourceFile
from storage.records import Edit, Label, Model, Review, Study, now
from storage.studies import get_study
from storage.workspace import Workspace
from tuning import corrections
from tuning.commands import launch_study
from tuning.errors import BadPicture
from tuning.ingest import IngestReport, ingest_layout
from tuning.spec import StudySpec
from tuning.versions import save_edits

Shape = Sequence[tuple[float, float]]  # corners x, y in the picture's pixels


class ReviewedPicture(Protocol):
    """A picture that a person may say something of; of a dataset (an `ImageRecord`) or uploaded to be scored."""

    @property
    def digest(self) -> str:
        """Key of its blob."""
        ...

    @property
    def pixel_digest(self) -> str:
        """What tells its pixels from others."""
        ...

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def defect_type(self) -> str | None:
        """What it has by now."""
        ...


@dataclass(frozen=True, kw_only=True)
class Undone:
    """A word that was taken back."""

    review: Review
    kept: (
        str | None
    )  # why the correction that waits stays as it is, in a sentence; None where it was undone too


def mark(
    workspace: Workspace,
    name: str,
    picture: ReviewedPicture,
    label: Label,
    *,
    defect_type: str | None = None,
    mask: Mask | None = None,
    model: Model | None = None,
    uploaded: bool = False,
    who: str,
) -> Review:
    """Take down that the part on a picture is fine, or has a defect; the correction waits to be saved.

    Args:
        name: of the dataset.
        defect_type: None or empty leaves the one that the picture has.
        mask: (H, W) of the picture, True on the defect; None leaves the one that it has.
        model: whose heatmap the person looks at.
        uploaded: the picture is not the dataset's; its label waits until `add_marked`.
    Raises:
        DatasetNotFound: there is no such dataset.
        PictureNotFound: its latest version lacks the picture.
        BadEdit: a mask or a type for a picture that is said to be fine.
        BadPicture: the mask marks nothing.
    """
    kind = " ".join((defect_type or "").split()) or None
    if label is Label.NORMAL and (kind or mask is not None):
        raise BadEdit(
            f"Picture '{picture.name}' is said to be fine and is given {'a mask' if mask is not None else 'a type'}; "
            "only a defect has one. Take it away, or say that it is a defect."
        )
    edit = Edit(pixel_digest=picture.pixel_digest, label=label)
    if label is Label.ANOMALOUS:
        edit = replace(
            edit, defect_type=kind or picture.defect_type, mask_digest=_kept(workspace, picture, mask)
        )
    with workspace.session() as session:
        datasets.lock_dataset(session, datasets.get_dataset(session, name).id)
        if uploaded:
            known = reviews.list_reviews(session, name).get(picture.pixel_digest)
            before = known.after if known is not None and known.version_id is None else None
            after: Edit | None = edit
        else:
            before = _waiting(edits.list_edits(session, name), picture.pixel_digest)
            if before is not None and before.defect_type and not kind and label is Label.ANOMALOUS:
                edit = replace(edit, defect_type=before.defect_type)
            corrections.put_in(session, name, [edit], who=who)
            after = _waiting(edits.list_edits(session, name), picture.pixel_digest)
        return reviews.add_review(
            session,
            name,
            pixel_digest=picture.pixel_digest,
            label=label,
            model_id=None if model is None else model.id,
            before=before,
            after=after,
            who=who,
            now=now(),
        )


def undo(workspace: Workspace, name: str) -> Undone:
    """Take the last word back that no version holds yet, and its correction with it.

    Raises:
        DatasetNotFound: there is no such dataset.
        BadEdit: nothing is there to be undone.
    """
    with workspace.session() as session:
        datasets.lock_dataset(session, datasets.get_dataset(session, name).id)
        last = reviews.last_review(session, name)
        if last is None:
            raise BadEdit(
                f"No mark of dataset '{name}' can be undone: those that were saved are part of a version. Mark the "
                "picture anew."
            )
        reviews.forget_review(session, last.id)
        waits = _waiting(edits.list_edits(session, name), last.pixel_digest)
        in_dataset = datasets.find_images(
            session, datasets.latest_version(session, name).id, [last.pixel_digest]
        )
        if not in_dataset:  # an uploaded picture: its label was only in the mark
            return Undone(review=last, kept=None)
        if waits != last.after:
            kept = "The correction of this picture was changed since by another hand, and stays as it is."
            return Undone(review=last, kept=kept)
        edits.discard_edits(session, name, [last.pixel_digest])
        if last.before is not None:
            edits.put_edits(session, name, [last.before], who=last.who, now=now())
        return Undone(review=last, kept=None)


def drawn_mask(shapes: Sequence[Shape], height: int, width: int) -> Mask:
    """The pixels inside any of some polygons.

    Returns:
        (height, width) bool.
    """
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for shape in shapes:
        if len(shape) >= 3:
            # A pixel's middle lies half a pixel from its corner.
            draw.polygon([(x - 0.5, y - 0.5) for x, y in shape], fill=1)
    return np.asarray(canvas, dtype=np.bool_)


def follow_up(workspace: Workspace, model: Model, *, who: str, after: int | None = None) -> Study:
    """Save what waits as the dataset's next version, and launch a study of it like the one that made a model.

    Without anything that waits, the study is of the latest version.

    Args:
        after: number of the version that the person looked at.
    Raises:
        VersionChanged, BadEdit, BadDataset: see `tuning.versions.save_edits`; nothing is launched then.
        DatasetTooSmall, BadSpec: see `tuning.commands.launch_study`; the version is saved.
    """
    name = model.dataset_name
    with workspace.session() as session:
        former = get_study(session, model.study_id)
        waiting = bool(edits.list_edits(session, name))
    if waiting:
        save_edits(workspace, name, who=who, after=after)
    with workspace.session() as session:
        number = datasets.latest_version(session, name).number
    return launch_study(
        workspace,
        name,
        StudySpec.from_json(former.spec),
        name=f"follow-up of {former.name} on version {number}",
    )


def add_marked(
    workspace: Workspace, name: str, pictures: Sequence[ReviewedPicture], *, source: str, who: str
) -> IngestReport:
    """Add the marked ones among uploaded pictures to the dataset, with their labels, types and masks.

    Args:
        pictures: their bytes lie in the store.
        source: where they came from, for people.
    Raises:
        BadEdit: none of them is marked.
        BadDataset: too few normal pictures would be there.
    """
    with workspace.session() as session:
        said = reviews.list_reviews(session, name)
    entries = []
    for picture in pictures:
        review = said.get(picture.pixel_digest)
        if review is None or review.version_id is not None or review.after is None:
            continue
        mask = review.after.mask_digest
        entries.append(
            Entry(
                path=workspace.blobs.path(picture.digest),
                name=picture.name,
                split=None,
                label=review.label,
                defect_type=review.after.defect_type,
                masks=(SourceFile(path=workspace.blobs.path(mask), name=f"mask of {picture.name}"),)
                if mask
                else (),
                group="marked",
            )
        )
    if not entries:
        raise BadEdit(
            f"None of the {len(pictures)} pictures is marked. Mark some as fine or as a defect, then add "
            "them."
        )
    layout = Layout(kind="folders", name=name, entries=tuple(entries), notes=())
    report = ingest_layout(workspace, layout, name, source=source, add=True, who=who)
    with workspace.session() as session:
        reviews.settle_reviews(
            session,
            report.version.dataset_id,
            report.version.id,
            {picture.pixel_digest for picture in pictures},
        )
    return report


def _kept(workspace: Workspace, picture: ReviewedPicture, mask: Mask | None) -> str | None:
    if mask is None:
        return None
    if not mask.any():
        raise BadPicture(
            f"The mask drawn on picture '{picture.name}' marks no pixel; it must mark the defect. Draw it again, or "
            "mark the picture without one."
        )
    return workspace.blobs.put(encode_mask(mask))


def _waiting(waiting: Sequence[Edit], pixel_digest: str) -> Edit | None:
    return next((edit for edit in waiting if edit.pixel_digest == pixel_digest), None)
