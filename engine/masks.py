"""Ground-truth masks: whatever a labelling tool wrote becomes one boolean per pixel of its picture."""

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from engine.errors import BadImage
from engine.picture_files import open_picture

Mask = npt.NDArray[np.bool_]

MAX_THRESHOLD = 65_534  # with a higher one, not even the highest value of 16 bits would be a defect
MOST_VALUES = 8  # that a MaskRead lists; a mask with more is a drawing with soft edges, or no mask


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskRead:
    """A mask as it was read, and what tells whether it was read right."""

    mask: Mask  # (H, W), upright; True is a defect
    values: tuple[int, ...]  # the lowest distinct values in the file, at most MOST_VALUES
    binary: bool  # the file holds nothing between "normal" and "defect": 0 beside one of 1, 255 and 65535


def read_mask(data: bytes, name: str, *, white_is_background: bool = False, threshold: int = 0) -> MaskRead:
    """Read a ground-truth mask.

    Every pixel has a value: grey is taken as it is, of colours the largest channel, weakened by
    transparency. Where white is the background the value is the distance from white instead, after
    transparency is laid on white, so that any other colour is a defect.

    Args:
        white_is_background: for masks drawn in colour, or in black, on white or on nothing.
        threshold: values above it are defects; on the file's own scale, 0…255 or 0…65535.
    Raises:
        BadImage: as `engine.picture_files.open_picture`.
    """
    values = _values(open_picture(data, name, floats=True), name, white_is_background)
    present = np.zeros(65_536, np.bool_)
    for row in values:  # a row at a time, for indexing wants eight bytes per pixel
        present[row] = True
    found = np.flatnonzero(present).tolist()
    return MaskRead(
        mask=values > threshold,
        values=tuple(found[:MOST_VALUES]),
        binary=any(set(found) <= {0, defect} for defect in (1, 255, 65_535)),
    )


def decode_mask(data: bytes, name: str) -> Mask:
    """Decode a ground-truth mask; any visible value above 0 in any channel is a defect.

    Returns:
        (H, W) bool, upright.
    Raises:
        BadImage: as `engine.picture_files.open_picture`.
    """
    return read_mask(data, name).mask


def encode_mask(mask: Mask) -> bytes:
    """Give a mask as a PNG of one bit per pixel, white where the defect is.

    The same mask gives the same bytes, as long as Pillow and its zlib stay the same.

    Args:
        mask: (H, W) bool.
    """
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mask, np.bool_)).save(file, "PNG")
    return file.getvalue()


def fit_mask(mask: Mask, height: int, width: int, name: str, image_name: str) -> Mask:
    """Bring a mask to the size of its picture, if it has the picture's shape.

    Enlarging repeats the nearest pixel; shrinking keeps a defect however thin it is.

    Args:
        mask: (H, W) bool.
        height, width: of the picture, pixels.
        name, image_name: how messages call the mask and its picture.
    Returns:
        (height, width) bool.
    Raises:
        BadImage: the sides of mask and picture differ in proportion.
    """
    if mask.shape == (height, width):
        return mask
    if mask.shape[0] * width != mask.shape[1] * height:
        turned = " It may be turned by 90°." if mask.shape == (width, height) else ""
        raise BadImage(
            f"Mask {name!r} is {mask.shape[1]}×{mask.shape[0]} px, its picture {image_name!r} {width}×{height} "
            f"px; both must have the same shape.{turned} Export the mask at the picture's size."
        )
    if height > mask.shape[0]:
        # Half pixels decide, so that an enlarged mask lies where the small one did.
        rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
        columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
        enlarged: Mask = mask[rows[:, None], columns]
        return enlarged
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    shrunk: Mask = np.logical_or.reduceat(np.logical_or.reduceat(mask, rows, axis=0), columns, axis=1)
    return shrunk


def merge_masks(masks: Iterable[Mask]) -> Mask:
    """Join the masks of one picture, one per defect, to one that covers them all.

    Args:
        masks: at least one; (H, W) bool each, all of one size (see `fit_mask`). Only one is held at a time.
    Raises:
        BadImage: there is none, or their sizes differ.
    """
    merged: Mask | None = None
    for mask in masks:
        if merged is None:
            merged = mask.copy()
        elif mask.shape == merged.shape:
            merged |= mask
        else:
            named = ", ".join(f"{width}×{height}" for height, width in sorted((merged.shape, mask.shape)))
            raise BadImage(
                f"The masks of one picture differ in size ({named} px). Bring them to the picture's size."
            )
    if merged is None:
        raise BadImage("No masks were given; at least 1 is needed. Leave the picture without a mask instead.")
    return merged


def _values(image: Image.Image, name: str, white_is_background: bool) -> npt.NDArray[np.uint16 | np.uint8]:
    """(H, W) values; what is above 0 differs from the background."""
    if image.mode == "F":
        floats = np.asarray(image)
        if not (
            np.isfinite(floats) & (floats == np.floor(floats)) & (floats >= 0) & (floats <= 65_535)
        ).all():
            raise BadImage(
                f"Mask {name!r} holds floating-point numbers that are no whole numbers from 0 to 65,535. Save it "
                "with 8 bits."
            )
        return _from_white(floats.astype(np.uint16), white_is_background)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_white(np.asarray(image).astype(np.uint16), white_is_background)
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return _from_white(np.asarray(image.convert("L")), white_is_background)
    colours = np.asarray(image.convert("RGBA"))
    strength = 255 - colours[..., :3].min(axis=-1) if white_is_background else colours[..., :3].max(axis=-1)
    # Rounded up: whatever is visible at all is above 0.
    visible: npt.NDArray[np.uint16] = (strength.astype(np.uint16) * colours[..., 3] + np.uint16(254)) // 255
    return visible


def _from_white(
    values: npt.NDArray[np.uint16] | npt.NDArray[np.uint8], white_is_background: bool
) -> npt.NDArray[np.uint16 | np.uint8]:
    if not white_is_background:
        return values
    return np.iinfo(values.dtype).max - values
