"""Corrections become the next version of a dataset, and two versions are compared."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from storage import datasets
from storage.edits import discard_edits, list_edits
from storage.errors import BadEdit
from storage.events import record_event
from storage.records import DatasetVersion, Edit, ImageRecord, Label, NewImage, Role, now
from storage.reviews import settle_reviews
from storage.roles import RoleInput, assign_roles
from storage.workspace import Workspace
from tuning.errors import BadDataset
from tuning.ingest import MIN_NORMAL, as_new, change_sentence


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a waiting correction does to a picture, in words."""

    pixel_digest: str
    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is different between two versions."""

    added: tuple[ImageRecord, ...]
    removed: tuple[ImageRecord, ...]
    relabelled: tuple[tuple[ImageRecord, ImageRecord], ...]  # before and after
    remasked: tuple[tuple[ImageRecord, ImageRecord], ...]
    moved: tuple[tuple[ImageRecord, ImageRecord], ...]  # to another role


def preview_edits(workspace: Workspace, name: str) -> list[Change]:
    """What the waiting corrections of a dataset would change in its latest version; others are of no effect.

    Raises:
        DatasetNotFound: there is no such dataset.
    """
    with workspace.session() as session:
        latest = datasets.latest_version(session, name)
        waiting = list_edits(session, name)
        images = datasets.find_images(session, latest.id, [edit.pixel_digest for edit in waiting])
    changes = [
        preview_edit(images[edit.pixel_digest], edit) for edit in waiting if edit.pixel_digest in images
    ]
    return [change for change in changes if change is not None]


def preview_edit(image: ImageRecord, edit: Edit) -> Change | None:
    """What a correction of this image would change; None where it is of no effect."""
    before = as_new(image)
    try:
        after = edited(before, edit)
    except BadEdit as error:  # it came past `tuning.corrections.put`, or another version came in between
        return _change(before, f"can't be saved: {error}")
    if after == before:
        return None
    return _change(before, "taken out" if after is None else _words(after, before))


def _change(before: NewImage, after: str) -> Change:
    return Change(pixel_digest=before.pixel_digest, name=before.name, before=_words(before), after=after)


def save_edits(workspace: Workspace, name: str, *, who: str, after: int | None = None) -> DatasetVersion:
    """Make the waiting corrections of a dataset its next version.

    No picture moves from test to train. One that was trained on or calibrated with and turns out anomalous goes to
    validation. Corrections of pictures that are no longer there are dropped, and the version's `change` says so.

    Args:
        after: number of the version that the person looked at; None to save on whichever is the latest.
    Returns:
        The new version; the latest one where the corrections change nothing.
    Raises:
        DatasetNotFound: there is no such dataset.
        VersionChanged: the latest version isn't `after`; the corrections still wait.
        BadEdit: nothing waits, or a correction contradicts its picture.
        BadDataset: too few normal pictures would be left.
    """
    with workspace.session() as session:
        # Whoever adds pictures or corrections meanwhile waits for the end, and loses nothing.
        datasets.lock_dataset(session, datasets.get_dataset(session, name).id)
        latest = datasets.latest_version(session, name)
        former = {image.pixel_digest: as_new(image) for image in datasets.list_images(session, latest.id)}
        waiting = list_edits(session, name)
        if not waiting:
            raise BadEdit(f"No correction of dataset '{name}' waits to be saved. Correct a picture first.")
        edits = {edit.pixel_digest: edit for edit in waiting}
        kept = [
            image
            for digest, old in former.items()
            if (image := edited(old, edits[digest]) if digest in edits else old) is not None
        ]
        images = _with_roles(kept, datasets.known_roles(session, name))
        _check_enough(former.values(), images, name)
        change = change_sentence(former, images)
        if gone := len(edits.keys() - former.keys()):
            change += (
                f"; {gone} correction{'' if gone == 1 else 's'} dropped, of pictures that are no longer there"
            )
        version = datasets.create_version(
            session,
            name=name,
            source=latest.source,
            source_split=latest.source_split,
            images=images,
            now=now(),
            after=latest.number if after is None else after,
            change=change,
            who=who,
        )
        discard_edits(session, name)
        settle_reviews(session, version.dataset_id, version.id, former.keys())
        if version.number > latest.number:
            what = f"made version {version.number}: {change}"
            record_event(session, version.dataset_id, what, who=who, now=now())
    return version


def compare(workspace: Workspace, before: DatasetVersion, after: DatasetVersion) -> Comparison:
    """Compare the images of two versions by their pixels."""
    with workspace.session() as session:
        return compare_images(
            datasets.list_images(session, before.id), datasets.list_images(session, after.id)
        )


def compare_images(before: Iterable[ImageRecord], after: Iterable[ImageRecord]) -> Comparison:
    """Compare all images of one version with all of another by their pixels."""
    old = {image.pixel_digest: image for image in before}
    new = {image.pixel_digest: image for image in after}
    both = [(image, new[digest]) for digest, image in old.items() if digest in new]
    return Comparison(
        added=tuple(image for digest, image in new.items() if digest not in old),
        removed=tuple(image for digest, image in old.items() if digest not in new),
        relabelled=tuple(
            pair
            for pair in both
            if (pair[0].label, pair[0].defect_type) != (pair[1].label, pair[1].defect_type)
        ),
        remasked=tuple(pair for pair in both if pair[0].mask_digest != pair[1].mask_digest),
        moved=tuple(pair for pair in both if pair[0].role is not pair[1].role),
    )


def edited(image: NewImage, edit: Edit) -> NewImage | None:
    """The image as corrected, in its old role; None where it is taken out.

    Raises:
        BadEdit: a mask or a defect type for a picture that stays normal.
    """
    if edit.remove:
        return None
    label = edit.label or image.label
    if label is Label.NORMAL:
        if edit.label is None and (edit.mask_digest or edit.defect_type):
            given = f"the defect type '{edit.defect_type}'" if edit.defect_type else "a mask"
            raise BadEdit(
                f"Picture '{image.name}' is labelled normal and is given {given}; only anomalous pictures have one. "
                "Label it anomalous first."
            )
        return replace(image, label=label, defect_type=None, mask_digest=None)
    kind = edit.defect_type if edit.label or edit.defect_type is not None else image.defect_type
    mask = image.mask_digest if edit.mask_digest is None else edit.mask_digest or None
    return replace(image, label=label, defect_type=kind or None, mask_digest=mask)


def _with_roles(images: list[NewImage], known: Mapping[str, Role]) -> list[NewImage]:
    entries = [
        RoleInput(
            pixel_digest=image.pixel_digest, split=None, label=image.label, defect_type=image.defect_type
        )
        for image in images
    ]
    return [
        replace(image, role=role) for image, role in zip(images, assign_roles(entries, known), strict=True)
    ]


def _check_enough(before: Iterable[NewImage], after: Iterable[NewImage], name: str) -> None:
    """Refuse what no study could work on; what was missing before is not the corrections' fault."""
    had, has = (
        Counter(image.role for image in images if image.label is Label.NORMAL) for images in (before, after)
    )
    remedy = "Add pictures of normal parts, or discard some of the corrections."
    trainable = has[Role.TRAIN] + has[Role.CALIBRATION]
    if trainable < min(MIN_NORMAL, had[Role.TRAIN] + had[Role.CALIBRATION]):
        raise BadDataset(
            f"Dataset '{name}' would have {trainable} normal pictures to train on; at least {MIN_NORMAL} are needed. "
            f"{remedy}"
        )
    for role in Role:
        if had[role] and not has[role]:
            raise BadDataset(
                f"Dataset '{name}' would have no normal {role} picture of {had[role]} left; at least 1 is needed. "
                f"{remedy}"
            )


def _words(image: NewImage, before: NewImage | None = None) -> str:
    """'scratch, with mask'; 'with another mask' where the image had one before."""
    mask = "with mask"
    if before is not None and before.mask_digest not in (None, image.mask_digest):
        mask = "with another mask"
    return (image.defect_type or image.label.value) + (f", {mask}" if image.mask_digest else "")
