"""Where an anomaly map lies above a level: connected regions with area and position, and their outlines."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from contourpy import LineType, contour_generator
from scipy import ndimage

Map = npt.NDArray[np.float32]

_WITH_DIAGONALS = np.ones((3, 3), dtype=int)


@dataclass(frozen=True, kw_only=True)
class Region:
    """Connected pixels above a level; pixels touch at sides and corners."""

    area: int  # pixels
    share: float  # of the whole map, 0 to 1
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom lie just outside
    centroid: tuple[float, float]  # x, y in pixels, 0.5 being the middle of the first
    peak: float  # highest value in it


def regions(anomaly_map: Map, level: float) -> list[Region]:
    """Find the regions of a map that lie above a level, the largest first.

    Args:
        anomaly_map: (H, W).
    """
    labels, count = ndimage.label(anomaly_map > level, structure=_WITH_DIAGONALS)
    if count == 0:
        return []
    numbers = np.arange(1, count + 1)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    peaks = ndimage.maximum(anomaly_map, labels, numbers)
    found = []
    for number, (rows, columns) in zip(numbers, ndimage.find_objects(labels), strict=True):
        y, x = np.nonzero(labels[rows, columns] == number)
        found.append(
            Region(
                area=int(areas[number - 1]),
                share=float(areas[number - 1] / anomaly_map.size),
                box=(columns.start, rows.start, columns.stop, rows.stop),
                centroid=(float(x.mean() + columns.start + 0.5), float(y.mean() + rows.start + 0.5)),
                peak=float(peaks[number - 1]),
            )
        )
    return sorted(found, key=lambda region: (-region.area, region.box))


def outlines(
    values: npt.NDArray[np.float32], level: float, height: int, width: int
) -> list[npt.NDArray[np.float64]]:
    """Trace where a map crosses a level, as closed lines in the pixels of its picture.

    Args:
        values: (h, w), of the picture or a smaller copy of it.
        level: of the lines.
        height, width: of the picture, pixels.
    Returns:
        Lines of (n, 2) points x, y, the last being the first; holes have lines of their own.
    """
    h, w = values.shape
    # A rim below the level closes the lines at the border.
    rim = np.pad(values.astype(np.float64), 1, constant_values=min(float(values.min()), level) - 1)
    lines = contour_generator(z=rim, line_type=LineType.Separate).lines(level)
    scale = np.array([width / w, height / h])
    limits = np.array([width, height], dtype=np.float64)
    return [np.clip((np.asarray(line) - 0.5) * scale, 0, limits) for line in lines]
