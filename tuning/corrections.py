"""Corrections of a dataset's pictures, as pages and the command line propose them; `tuning.versions` saves them."""

from collections.abc import Iterable

from engine.masks import encode_mask, fit_mask, read_mask
from storage.records import Edit, ImageRecord, Label
from storage.workspace import Workspace


def relabelled(images: Iterable[ImageRecord], label: Label, defect_type: str | None = None) -> list[Edit]:
    """Corrections that give pictures a label; those that have it already need none.

    Args:
        defect_type: of anomalous pictures, None or empty for an unknown one.
    """
    kind = (defect_type or "").strip() or None if label is Label.ANOMALOUS else None
    return [
        Edit(pixel_digest=image.pixel_digest, label=label, defect_type=kind)
        for image in images
        if (image.label, image.defect_type) != (label, kind)
    ]


def masked(workspace: Workspace, image: ImageRecord, data: bytes, name: str, *, threshold: int = 0) -> Edit:
    """A correction that replaces the mask of an anomalous picture.

    Args:
        data: of a picture file; above `threshold` is a defect.
        name: how messages call it.
    Raises:
        BadImage: it is no picture, or its size does not fit.
    """
    read = read_mask(data, name, threshold=threshold)
    mask = fit_mask(read.mask, image.height, image.width, name, image.name)
    digest = workspace.blobs.put(encode_mask(mask)) if mask.any() else ""
    return Edit(pixel_digest=image.pixel_digest, mask_digest=digest)
