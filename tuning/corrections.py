"""Corrections of a dataset's pictures, as pages and the command line propose them; `tuning.versions` saves them."""

from collections.abc import Iterable, Sequence

from engine.masks import encode_mask, fit_mask, read_mask
from storage import datasets, edits
from storage.records import Edit, ImageRecord, Label, now
from storage.workspace import Session, Workspace
from tuning.errors import BadPicture, PictureNotFound
from tuning.ingest import as_new
from tuning.versions import edited


def put(workspace: Workspace, name: str, wanted: Sequence[Edit], *, who: str) -> int:
    """Add corrections to those that wait; what leads back to a picture as it is takes its waiting correction away.

    Returns:
        How many pictures wait for something else than before: 0 where everything is so already.
    Raises:
        DatasetNotFound, VersionNotFound: there is no such dataset, or it has no version.
        PictureNotFound: the latest version lacks one of the pictures; nothing is added then.
        BadEdit: a correction contradicts itself or its picture; nothing is added then.
    """
    with workspace.session() as session:
        return put_in(session, name, wanted, who=who)


def put_in(session: Session, name: str, wanted: Sequence[Edit], *, who: str) -> int:
    """As `put`, in a transaction that does more than that."""
    # What leads nowhere is judged by the latest version, so nobody may make another one meanwhile.
    datasets.lock_dataset(session, datasets.get_dataset(session, name).id)
    version = datasets.latest_version(session, name)
    of = {edit.pixel_digest for edit in wanted}
    found = datasets.find_images(session, version.id, of)
    images = {digest: as_new(image) for digest, image in found.items()}
    for edit in wanted:
        if edit.pixel_digest not in images:
            raise PictureNotFound(
                f"Picture {edit.pixel_digest[:12]} is not in version {version.number} of dataset '{name}'; "
                "only pictures of the latest version can be corrected. Look at that version."
            )
    before = {edit for edit in edits.list_edits(session, name) if edit.pixel_digest in of}
    edits.put_edits(session, name, wanted, who=who, now=now())
    after = {edit for edit in edits.list_edits(session, name) if edit.pixel_digest in of}
    idle = {edit for edit in after if edited(images[edit.pixel_digest], edit) == images[edit.pixel_digest]}
    edits.discard_edits(session, name, [edit.pixel_digest for edit in idle])
    return len({edit.pixel_digest for edit in before ^ (after - idle)})


def relabelled(images: Iterable[ImageRecord], label: Label, defect_type: str | None = None) -> list[Edit]:
    """Corrections that give pictures a label, those that have it already included: another one may wait for them.

    Args:
        defect_type: of anomalous pictures, None or empty for an unknown one.
    """
    kind = " ".join((defect_type or "").split()) or None if label is Label.ANOMALOUS else None
    return [Edit(pixel_digest=image.pixel_digest, label=label, defect_type=kind) for image in images]


def masked(workspace: Workspace, image: ImageRecord, data: bytes, name: str, *, threshold: int = 0) -> Edit:
    """A correction that replaces the mask of an anomalous picture.

    Args:
        data: of a picture file; above `threshold` is a defect.
        name: how messages call it.
    Raises:
        BadImage: it is no picture, or its size does not fit.
        BadPicture: it marks nothing.
    """
    read = read_mask(data, name, threshold=threshold)
    mask = fit_mask(read.mask, image.height, image.width, name, image.name)
    if not mask.any():
        raise BadPicture(
            f"Mask '{name}' marks no pixel of picture '{image.name}'; a mask must mark the defect. Draw it again, or "
            "take the mask away instead."
        )
    return Edit(pixel_digest=image.pixel_digest, mask_digest=workspace.blobs.put(encode_mask(mask)))
