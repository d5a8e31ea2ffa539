"""How a picture is laid on the network's canvas, and the way back from the canvas to the picture's own pixels."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

RESIZES = {
    "squash": "the whole picture, its sides scaled apart",
    "letterbox": "the whole picture in its own proportions, grey bars beside it",
    "crop": "the middle in its own proportions, as the paper does; the margin is cut away and never seen",
}
MIRRORS = {
    "none": (),
    "horizontal": ("h",),
    "vertical": ("v",),
    "both": ("h", "v", "hv"),
}  # by name: the ways in which a training picture is turned over besides itself: left to right, top to bottom
# The paper resizes the shorter side to 329 and takes the middle 288: 8/7 of the canvas, as ImageNet's 256 for 224.
CROP_SCALE = 8 / 7
_T = TypeVar("_T", bound=np.generic)
GREY = 127  # of the bars; near the mean of natural pictures


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the resized picture lies on the canvas, in the canvas' pixels; it may reach beyond it."""

    top: int  # negative: so many rows are cut away
    left: int
    height: int
    width: int


def place(picture: tuple[int, int], canvas: tuple[int, int], resize: str) -> Placement:
    """Find where a picture goes.

    Args:
        picture, canvas: (height, width), pixels.
        resize: one of RESIZES.
    """
    (rows, columns), (height, width) = picture, canvas
    if resize == "squash":
        return Placement(top=0, left=0, height=height, width=width)
    ratios = (height / rows, width / columns)
    scale = min(ratios) if resize == "letterbox" else CROP_SCALE * max(ratios)
    placed_height, placed_width = max(1, round(rows * scale)), max(1, round(columns * scale))
    return Placement(
        top=round((height - placed_height) / 2),
        left=round((width - placed_width) / 2),
        height=placed_height,
        width=placed_width,
    )


def mirrored(picture: npt.NDArray[_T], way: str) -> npt.NDArray[_T]:
    """Turn a picture or mask over.

    Args:
        picture: (H, W, …).
        way: one of the ways in MIRRORS, or "" for the picture as it is.
    """
    rows = slice(None, None, -1) if "v" in way else slice(None)
    columns = slice(None, None, -1) if "h" in way else slice(None)
    return np.ascontiguousarray(picture[rows, columns])


def on_canvas(image: npt.NDArray[np.uint8], canvas: tuple[int, int], resize: str) -> npt.NDArray[np.uint8]:
    """Lay a picture on the canvas (bilinear, antialiased).

    Args:
        image: (H, W, 3) uint8.
    Returns:
        (height, width, 3) uint8.
    """
    placed = place((image.shape[0], image.shape[1]), canvas, resize)
    if resize == "crop":
        return _resized(image, canvas, _canvas_in_picture(image, placed, canvas))
    return cut(_resized(image, (placed.height, placed.width)), placed, canvas, fill=GREY)


def resized_in_order(
    image: npt.NDArray[np.uint8], canvas: tuple[int, int], resize: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Resize a picture as `on_canvas` does, along its rows first, and along its columns first.

    Returns:
        the three results; which of the last two is the first is Pillow's choice.
    """
    placed = place((image.shape[0], image.shape[1]), canvas, resize)
    size = canvas if resize == "crop" else (placed.height, placed.width)
    whole = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
    left, top, right, bottom = _canvas_in_picture(image, placed, canvas) if resize == "crop" else whole
    rows_first = _resized(image, (image.shape[0], size[1]), (left, 0, right, whole[3]))
    columns_first = _resized(image, (size[0], image.shape[1]), (0, top, whole[2], bottom))
    return (
        _resized(image, size, (left, top, right, bottom)),
        _resized(rows_first, size, (0, top, size[1], bottom)),
        _resized(columns_first, size, (left, 0, right, size[0])),
    )


def _canvas_in_picture(
    image: npt.NDArray[np.uint8], placed: Placement, canvas: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the canvas in the picture's pixels: only that part need be resized."""
    down, across = image.shape[0] / placed.height, image.shape[1] / placed.width
    left, top = -placed.left * across, -placed.top * down
    return left, top, left + canvas[1] * across, top + canvas[0] * down


def _resized(
    image: npt.NDArray[np.uint8], size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> npt.NDArray[np.uint8]:
    if box is None and image.shape[:2] == size:
        return image
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def cut(values: npt.NDArray[_T], placed: Placement, canvas: tuple[int, int], *, fill: int) -> npt.NDArray[_T]:
    """Take what lies on the canvas of an array of the placement's size, and fill the rest.

    Args:
        values: (placed.height, placed.width, …).
    Returns:
        (height, width, …).
    """
    if values.shape[:2] == canvas and placed.top == placed.left == 0:
        return values
    laid = np.full((*canvas, *values.shape[2:]), fill, dtype=values.dtype)
    (to_rows, from_rows), (to_columns, from_columns) = (
        _overlap(placed.top, placed.height, canvas[0]),
        _overlap(placed.left, placed.width, canvas[1]),
    )
    laid[to_rows, to_columns] = values[from_rows, from_columns]
    return laid


def seen(picture: tuple[int, int], canvas: tuple[int, int], resize: str) -> tuple[slice, slice]:
    """Give the rows and columns of a picture, in its own pixels, that the canvas holds: all unless it is cropped."""
    placed = place(picture, canvas, resize)
    rows = _seen(placed.top, placed.height, canvas[0], picture[0])
    return rows, _seen(placed.left, placed.width, canvas[1], picture[1])


def in_view(values: npt.NDArray[_T], canvas: tuple[int, int], resize: str) -> npt.NDArray[_T]:
    """Cut what is in a picture's own pixels, (H, W, …), to the part that the canvas holds."""
    return values[seen((values.shape[0], values.shape[1]), canvas, resize)]


def _overlap(start: int, length: int, size: int) -> tuple[slice, slice]:
    """Of one side: which part of the canvas is covered, and by which part of the picture."""
    low, high = max(0, start), min(size, start + length)
    return slice(low, high), slice(low - start, high - start)


def _seen(start: int, length: int, size: int, pixels: int) -> slice:
    _, shown = _overlap(start, length, size)
    # A pixel of the picture is seen when its centre is.
    low = int(np.ceil(shown.start * pixels / length - 0.5))
    high = int(np.floor(shown.stop * pixels / length - 0.5)) + 1
    return slice(max(0, low), min(pixels, high))
