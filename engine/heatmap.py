"""Heatmaps: anomaly maps as pictures, on one absolute scale.

The scale comes from the model's calibration, never from the picture or the set shown: a colour means the same on
every page, in every file that `simplenet heatmaps` writes, and for every picture of a model. From the level of a
typical normal pixel up to the threshold the colours are blues that rise out of full transparency; at the threshold
they turn to orange, and far above it to pale yellow. Lightness rises all the way, so the order survives any colour
blindness and a black-and-white print; blue against orange is the pair that all common kinds tell apart.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.errors import ShapeMismatch

THRESHOLD_POSITION = 0.5  # where on the colour bar the threshold sits, for every model
VISIBLE_FROM = 0.2  # normal pixels scatter below it; tinting all of them would hide the picture for nothing
TRUTH_RGB = (230, 0, 126)  # theme.TRUTH

BLUE_ORANGE, VIOLET_YELLOW, GREYS = "blue and orange", "violet and yellow", "greys"
# Position on the bar, red, green, blue. Two stops share the threshold's position: the change of colour there is sharp.
# Each rises in lightness all the way, and leaps at the threshold in a pair of hues that all kinds of colour blindness
# tell apart; the last one needs no hue at all.
_STOPS = {
    BLUE_ORANGE: (
        (0.00, 16, 18, 62),
        (0.25, 28, 62, 130),
        (THRESHOLD_POSITION, 84, 138, 190),
        (THRESHOLD_POSITION, 238, 128, 26),
        (0.75, 250, 190, 66),
        (1.00, 255, 248, 205),
    ),
    VIOLET_YELLOW: (
        (0.00, 28, 8, 56),
        (0.25, 72, 30, 122),
        (THRESHOLD_POSITION, 132, 84, 176),
        (THRESHOLD_POSITION, 214, 182, 0),
        (0.75, 244, 220, 92),
        (1.00, 255, 252, 214),
    ),
    GREYS: (
        (0.00, 8, 8, 8),
        (0.25, 44, 44, 44),
        (THRESHOLD_POSITION, 92, 92, 92),
        (THRESHOLD_POSITION, 186, 186, 186),
        (0.75, 224, 224, 224),
        (1.00, 255, 255, 255),
    ),
}
PALETTES = tuple(_STOPS)  # the first is used wherever nobody chooses

Pixels = NDArray[np.uint8]
Map = NDArray[np.float32]


class Scale(Protocol):
    """What of a model's calibration fixes the colours; `engine.calibration.Calibration` is one."""

    @property
    def map_low(self) -> float:
        """Level of a typical normal pixel: the dark end, fully transparent in an overlay."""
        ...

    @property
    def map_threshold(self) -> float:
        """Level at which the colour turns to orange: as far as normal pictures reach."""
        ...

    @property
    def map_high(self) -> float:
        """Level of the bright end; everything above looks the same."""
        ...


def positions(anomaly_map: Map, scale: Scale) -> NDArray[np.float64]:
    """Where each pixel lies on the colour bar.

    Args:
        anomaly_map: (H, W), on the scale of raw scores.
        scale: the model's calibration.
    Returns:
        (H, W), 0..1; `THRESHOLD_POSITION` exactly at the threshold.
    """
    levels = [scale.map_low, scale.map_threshold, scale.map_high]
    return np.interp(anomaly_map, levels, [0.0, THRESHOLD_POSITION, 1.0])


def colours(places: NDArray[np.float64], palette: str = BLUE_ORANGE) -> Pixels:
    """Colours of places on the bar: (…,) in 0..1 → (…, 3) RGB; a place at the threshold is of the upper half already.

    Args:
        palette: one of PALETTES.
    """
    below = places < THRESHOLD_POSITION
    of_palette = np.array(_STOPS[palette], dtype=np.float64)
    halves = []
    for half in (of_palette[:3], of_palette[3:]):
        halves.append(
            np.stack([np.interp(places, half[:, 0], half[:, channel]) for channel in (1, 2, 3)], axis=-1)
        )
    mixed = np.where(below[..., None], halves[0], halves[1])
    return np.rint(mixed).astype(np.uint8)


def stops(palette: str) -> list[list[float]]:
    """Position, red, green and blue of a palette's stops, for whoever draws the same colours elsewhere."""
    return [list(stop) for stop in _STOPS[palette]]


def coverage(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of the picture below a colour hides: 0 up to `VISIBLE_FROM`, 1 from the threshold on, smooth between."""
    rising = np.clip((places - VISIBLE_FROM) / (THRESHOLD_POSITION - VISIBLE_FROM), 0.0, 1.0)
    return rising * rising * (3 - 2 * rising)


def overlay(
    image: Pixels, anomaly_map: Map, calibration: Scale, opacity: float, palette: str = BLUE_ORANGE
) -> Image.Image:
    """Lay the heatmap over its picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        anomaly_map: (H, W), in the picture's own pixels.
        calibration: the model's scale.
        opacity: 0 shows the picture alone, 1 hides it wherever the map reaches the threshold.
        palette: one of PALETTES.
    Returns:
        RGB picture of W × H pixels.
    Raises:
        ShapeMismatch: the map is not of the picture's size.
    """
    _same_size(image, anomaly_map, "anomaly map")
    places = positions(anomaly_map, calibration)
    alpha = (float(np.clip(opacity, 0.0, 1.0)) * coverage(places))[..., None]
    blended = image * (1 - alpha) + colours(places, palette) * alpha
    return Image.fromarray(np.rint(blended).astype(np.uint8))


def veil(drawn: Image.Image, seen: tuple[slice, slice]) -> Image.Image:
    """Grey out what lies outside the rows and columns that the model sees; the picture itself where it sees all."""
    pixels = np.asarray(drawn)
    veiled = np.rint(0.25 * pixels + 0.75 * 200).astype(np.uint8)
    veiled[seen] = pixels[seen]
    return Image.fromarray(veiled)


def outline(image: Pixels, mask: NDArray[np.bool_], thickness: int | None = None) -> Image.Image:
    """Draw the outline of the ground truth on its picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W), True on the defect.
        thickness: of the line in pixels, outside the defect; None takes 1/120 of the shorter side.
    Returns:
        RGB picture of W × H pixels; the picture itself where the mask is empty.
    Raises:
        ShapeMismatch: the mask is not of the picture's size.
    """
    _same_size(image, mask, "ground-truth mask")
    width = thickness if thickness is not None else max(1, round(min(image.shape[:2]) / 120))
    # The line lies outside, so that it never hides the defect that it shows.
    line = _grown(mask, width) & ~mask
    drawn = image.copy()
    drawn[line] = TRUTH_RGB
    return Image.fromarray(drawn)


def colour_bar(length: int = 256, thickness: int = 12) -> Image.Image:
    """The legend's bar, dark end left: RGB picture of `length` × `thickness` pixels."""
    row = colours(np.linspace(0.0, 1.0, length))
    return Image.fromarray(np.repeat(row[None], thickness, axis=0))


def _grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    grown = mask.copy()
    for _ in range(pixels):
        padded = np.pad(grown, 1)
        height, width = mask.shape
        windows = [padded[y : y + height, x : x + width] for y, x in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))]
        grown = np.logical_or.reduce(windows)
    return grown


def _same_size(image: Pixels, other: NDArray[np.generic], what: str) -> None:
    if image.shape[:2] != other.shape:
        raise ShapeMismatch(
            f"The picture is {image.shape[0]}×{image.shape[1]} px and its {what} {'×'.join(map(str, other.shape))}; "
            "they must be of one size. Ingest the folder again, or delete the cached maps if the picture was replaced."
        )
