"""A person's word on a picture becomes a correction that waits, and then a label of the dataset's next version."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.masks import Mask, encode_mask
from storage import datasets, edits, reviews
from storage.atomic_files import TEMPORARY_PREFIX
from storage.blobs import BlobStore
from storage.entries import Entry, Layout
from storage.errors import BadEdit
from storage.listing import SourceFile
from storage.records import Edit, Label, Model, Review, Study, now
from storage.room import told_when_full
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
    """The pixels whose middle lies inside any of some polygons, those that cross themselves included.

    Returns:
        (height, width) bool.
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    for shape in shapes:
        mask |= _inside(np.asarray(shape, dtype=np.float64), height, width)
    return mask


def _inside(shape: NDArray[np.float64], height: int, width: int) -> Mask:
    """By the winding number: how often a polygon's edges turn around each pixel's middle, as browsers fill it."""
    turns = np.zeros((height, width + 1), dtype=np.int32)
    for (x0, y0), (x1, y1) in zip(shape, np.roll(shape, -1, axis=0), strict=True):
        low, high = sorted((y0, y1))
        first, last = np.clip(np.ceil(np.array([low, high]) - 0.5), 0, height).astype(int)
        rows = np.arange(first, last)  # empty for a level edge
        if len(rows) == 0:
            continue
        crossed = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        columns = np.clip(np.ceil(crossed - 0.5), 0, width).astype(int)
        np.add.at(turns, (rows, columns), 1 if y1 > y0 else -1)
    found: Mask = turns[:, :width].cumsum(axis=1) != 0
    return found


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
    workspace: Workspace,
    name: str,
    pictures: Sequence[ReviewedPicture],
    *,
    store: BlobStore,
    source: str,
    who: str,
) -> IngestReport:
    """Add the marked ones among uploaded pictures to the dataset, with their labels, types and masks.

    Args:
        store: holds the bytes of the pictures.
        source: where they came from, for people.
    Raises:
        BadEdit: none of them is marked.
        BadDataset: too few normal pictures would be there.
    """
    with workspace.session() as session:
        said = reviews.list_reviews(session, name)
    with (
        told_when_full(workspace.settings.home),
        TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=workspace.settings.staging_folder) as folder,
    ):
        entries = [
            entry
            for picture in pictures
            if (entry := _entry(workspace, picture, store, said.get(picture.pixel_digest), Path(folder)))
            is not None
        ]
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


def _entry(
    workspace: Workspace, picture: ReviewedPicture, store: BlobStore, review: Review | None, folder: Path
) -> Entry | None:
    """A marked picture as it is taken in; None where nothing was said of it that no version holds yet."""
    if review is None or review.version_id is not None or review.after is None:
        return None
    mask = review.after.mask_digest
    return Entry(
        path=_copy(store, picture.digest, folder),
        name=picture.name,
        split=None,
        label=review.label,
        defect_type=review.after.defect_type,
        masks=(SourceFile(path=_copy(workspace.blobs, mask, folder), name=f"mask of {picture.name}"),)
        if mask
        else (),
        group="marked",
    )


def _copy(store: BlobStore, digest: str, folder: Path) -> Path:
    """A file of its own: the store may let its copy go before all are read."""
    file = folder / digest
    file.write_bytes(store.get(digest))
    return file


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
