"""Defects planted in normal pictures, to validate on where no labelled defects exist.

Three kinds, one per picture: a blotch of structured noise, a patch of the same picture pasted elsewhere, a
scratch. None is made the way training makes its anomalies (Gaussian noise on features), so a model is not
examined with its own exercises.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from engine.errors import BadImage, ShapeMismatch
from engine.images import MIN_SIDE, RGB

PLANTING = "planted-1"  # name of what `plant_defect` draws; to be changed whenever it draws something else
VISIBLE_LEVELS = 8  # of 255; a pixel counts as changed when one of its channels changed by so much
MIN_PIXELS = 4  # smallest defect
MAX_AREA = 0.09  # largest defect, as a share of the picture

_MIN_BOX_SIDE = 6  # pixels
_SMALLEST_SIDE, _LARGEST_SIDE = (
    0.08,
    MAX_AREA**0.5,
)  # of the box that holds the defect, of the picture's sides
_MIN_BOX_SHARE = 0.02  # of the box must be visible; a fainter attempt is drawn again
_ATTEMPTS = 4  # at the same kind, before the next kind's turn

Floats = npt.NDArray[np.float64]
Box = tuple[slice, slice]
# From the picture and the box to (what the box is to look like, how much of that shows per pixel).
Recipe = Callable[[RGB, Box, np.random.Generator], tuple[Floats, Floats]]


def plant_defect(image: RGB, *, seed: int) -> tuple[RGB, npt.NDArray[np.bool_]]:
    """Plant one defect in a picture; which kind, where and how strong follows from the seed alone.

    Args:
        image: (H, W, 3) uint8, both sides at least 32 px; it is left as it is. A flat picture will do.
        seed: 0 or more.
    Returns:
        The picture with the defect, (H, W, 3) uint8, and its mask, (H, W) bool: True exactly where the picture
        changed, and there one channel at least by 8 of 255 levels. The mask has at least 4 pixels and at most
        9 % of the picture's.
    Raises:
        ShapeMismatch: not an (H, W, 3) uint8 array.
        BadImage: a side is shorter than 32 px.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ShapeMismatch(
            f"A defect is to be planted in an array of shape {image.shape} and type {image.dtype}; it must be "
            "(H, W, 3) uint8. Decode pictures with engine.images.decode."
        )
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise BadImage(
            f"The picture to plant a defect in is {width}×{height} px; the shorter side must be at least "
            f"{MIN_SIDE} px. Leave it out."
        )
    rng = np.random.default_rng(seed)
    recipes: tuple[Recipe, ...] = (_noise, _paste, _scratch)
    first = int(rng.integers(len(recipes)))
    for attempt in range(_ATTEMPTS * len(recipes)):
        recipe = recipes[(first + attempt // _ATTEMPTS) % len(recipes)]
        box = _choose_box(height, width, rng)
        planted, mask = _blend(image, box, *recipe(image, box, rng))
        if mask.sum() >= max(MIN_PIXELS, _MIN_BOX_SHARE * mask[box].size):
            return planted, mask
    # Every kind can stay invisible on some picture, however often one tries; this one shows on all.
    box = _choose_box(height, width, rng)
    return _blend(image, box, *_stark(image, box, rng))


def _choose_box(height: int, width: int, rng: np.random.Generator) -> Box:
    share = np.exp(rng.uniform(np.log(_SMALLEST_SIDE), np.log(_LARGEST_SIDE)))
    stretch = np.exp(rng.uniform(-0.5, 0.5))
    slices = []
    for side, part in ((height, share * stretch), (width, share / stretch)):
        length = max(_MIN_BOX_SIDE, int(side * min(part, _LARGEST_SIDE)))
        start = int(rng.integers(side - length + 1))
        slices.append(slice(start, start + length))
    return slices[0], slices[1]


def _blend(image: RGB, box: Box, target: Floats, opacity: Floats) -> tuple[RGB, npt.NDArray[np.bool_]]:
    """Lay `target` over the box and keep only the pixels whose change can be seen."""
    before = image[box].astype(np.float64)
    after = np.clip(np.rint(before + opacity[..., None] * (target - before)), 0, 255)
    seen = np.abs(after - before).max(axis=2) >= VISIBLE_LEVELS
    planted, mask = image.copy(), np.zeros(image.shape[:2], dtype=np.bool_)
    planted[box] = np.where(seen[..., None], after, before).astype(np.uint8)
    mask[box] = seen
    return planted, mask


def _noise(image: RGB, box: Box, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A blotch with a ragged outline and a texture of its own."""
    before = image[box].astype(np.float64)
    mean = before.mean(axis=(0, 1))
    texture = _structured_noise(before.shape[:2], rng)
    smoothing = rng.uniform(0, 0.8)
    contrast = _visible_contrast(image, mean, rng.uniform(18, 75), rng)
    shift = (0.7 + 0.6 * texture)[..., None] * contrast
    return before + smoothing * (mean - before) + shift, _blotch(before.shape[:2], rng)


def _paste(image: RGB, box: Box, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A part of the picture where it does not belong: turned, mirrored, a little brighter or darker."""
    rows, columns = (side.stop - side.start for side in box)
    turns = int(rng.integers(4))
    if turns % 2 == 1 and (rows > image.shape[1] or columns > image.shape[0]):
        turns -= 1
    taken_rows, taken_columns = (columns, rows) if turns % 2 == 1 else (rows, columns)
    top = int(rng.integers(image.shape[0] - taken_rows + 1))
    left = int(rng.integers(image.shape[1] - taken_columns + 1))
    patch = np.rot90(image[top : top + taken_rows, left : left + taken_columns].astype(np.float64), turns)
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    return patch * rng.uniform(0.75, 1.3) + rng.uniform(-15, 15), _rounded(rows, columns, rng)


def _scratch(image: RGB, box: Box, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A thin bent line from one side of the box to another, brighter or darker than its surroundings."""
    before = image[box].astype(np.float64)
    rows, columns = before.shape[:2]
    # A quadratic Bézier curve in steps short enough to look smooth.
    ends = rng.uniform([[0.02, 0.0], [0.2, 0.2], [0.02, 0.85]], [[0.98, 0.15], [0.8, 0.8], [0.98, 1.0]])
    if rng.random() < 0.5:
        ends = ends[:, ::-1]
    t = np.linspace(0, 1, 17)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    distance = _distance_to_line(rows, columns, curve * (rows - 1, columns - 1))
    half_width = max(0.6, min(image.shape[:2]) / 256 * rng.uniform(0.4, 1.2))
    opacity = rng.uniform(0.5, 1.0) * np.clip(half_width + 0.5 - distance, 0, 1)
    contrast = _visible_contrast(image, before.mean(axis=(0, 1)), rng.uniform(30, 110), rng)
    return before + contrast, opacity


def _stark(image: RGB, box: Box, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A blotch that moves every channel by 64 levels, towards the end of the scale that is farther away."""
    before = image[box].astype(np.float64)
    opacity = (_blotch(before.shape[:2], rng) > 0).astype(np.float64)
    return before + np.where(before < 128, 64.0, -64.0), opacity


def _visible_contrast(image: RGB, mean: Floats, levels: float, rng: np.random.Generator) -> Floats:
    """(3,) levels to add: brighter or darker where there is room for it, tinged unless the picture is grey."""
    sign = 1.0 if rng.random() < 0.5 else -1.0
    if not 0 <= mean.mean() + sign * levels <= 255:
        sign = -sign
    tinge = rng.uniform(0.6, 1.2, size=3)
    thin = image[::4, ::4]
    is_grey = bool((thin == thin[..., :1]).all())
    return sign * levels * (np.ones(3) if is_grey else tinge)


def _structured_noise(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Smooth noise of several octaves, like Perlin's: (h, w), mean 0, within −1 and 1."""
    total = np.zeros(shape)
    octave = int(rng.integers(0, 2))
    for weight in (1.0, 0.5, 0.25):
        cells = 2 ** (octave + 1) + 1
        grid = rng.uniform(-1, 1, size=(cells, cells)).astype(np.float32)
        resized = Image.fromarray(grid).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        total += weight * np.asarray(resized, dtype=np.float64)
        octave += 1
    total -= total.mean()
    return np.asarray(total / max(float(np.abs(total).max()), 1e-9))


def _from_middle(rows: int, columns: int) -> tuple[Floats, Floats]:
    y = (np.arange(rows) + 0.5) / rows * 2 - 1
    x = (np.arange(columns) + 0.5) / columns * 2 - 1
    return y[:, None], x[None, :]


def _blotch(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Opacity of a ragged shape, 0 at the box's border: the highest part of noise that falls off outwards."""
    y, x = _from_middle(*shape)
    hill = _structured_noise(shape, rng) * 0.8 + 1 - 1.6 * (x**2 + y**2)
    level = float(np.quantile(hill, rng.uniform(0.5, 0.85)))
    return np.clip((hill - level) / 0.25, 0, 1)


def _rounded(rows: int, columns: int, rng: np.random.Generator) -> Floats:
    """Opacity of a shape between an ellipse and a rectangle with a soft edge."""
    y, x = _from_middle(rows, columns)
    power = rng.uniform(2, 8)
    reach = np.abs(x) ** power + np.abs(y) ** power
    return np.clip((1 - reach) / 0.25, 0, 1)


def _distance_to_line(rows: int, columns: int, points: Floats) -> Floats:
    """(rows, columns) distance of every pixel to a line through (row, column) points, pixels."""
    y, x = np.arange(rows, dtype=np.float64)[:, None], np.arange(columns, dtype=np.float64)[None, :]
    nearest = np.full((rows, columns), np.inf)
    for (y0, x0), (y1, x1) in itertools.pairwise(points):
        dy, dx = y1 - y0, x1 - x0
        along = np.clip(((y - y0) * dy + (x - x0) * dx) / max(dy * dy + dx * dx, 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.hypot(y - y0 - along * dy, x - x0 - along * dx))
    return nearest
