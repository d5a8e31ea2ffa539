"""Large pictures are shown small, with every marked place still in sight."""

import numpy as np
import pytest

from dashboard import display
from engine import heatmap


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((6000, 8000), (1536, 2048)),
        ((8000, 600), (2048, 154)),
        ((5000, 2), (2048, 1)),
        ((2048, 2048), (2048, 2048)),
        ((40, 30), (40, 30)),
    ],
)
def test_longer_side_fits_and_the_shape_stays(shape: tuple[int, int], shown: tuple[int, int]) -> None:
    assert display.shrunk(np.zeros((*shape, 3), np.uint8)).shape == (*shown, 3)


def test_small_picture_is_shown_as_it_is() -> None:
    pixels = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    assert display.shrunk(pixels) is pixels


def test_one_marked_pixel_of_a_huge_picture_stays_marked_where_it_is() -> None:
    mask = np.zeros((6000, 8000), bool)
    mask[4503, 6001] = True
    small = display.shrunk_mask(mask, 1536, 2048)
    assert [tuple(place) for place in np.argwhere(small)] == [(1152, 1536)]


def test_outline_of_a_shrunk_picture_runs_around_the_defect() -> None:
    pixels, mask = np.full((3000, 4096, 3), 90, np.uint8), np.zeros((3000, 4096), bool)
    pixels[1000:1400, 2000:2600], mask[1000:1400, 2000:2600] = 200, True
    small = display.shrunk(pixels)
    drawn = np.asarray(heatmap.outline(small, display.shrunk_mask(mask, *small.shape[:2])))
    line = (drawn == heatmap.TRUTH_RGB).all(axis=2)
    rows, columns = np.flatnonzero(line.any(axis=1)), np.flatnonzero(line.any(axis=0))
    width = round(1500 / 120)
    assert (rows[0], rows[-1]) == (500 - width, 700 + width - 1)
    assert (columns[0], columns[-1]) == (1000 - width, 1300 + width - 1)
    assert (drawn[505:695, 1005:1295] > 180).all()  # the defect itself is not hidden


def test_whole_marks_stay_whole() -> None:
    assert display.shrunk_mask(np.ones((333, 1000), bool), 111, 333).all()
    assert not display.shrunk_mask(np.zeros((333, 1000), bool), 111, 333).any()
