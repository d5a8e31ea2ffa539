"""Regions of a map above a level, and their outlines, against counting pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from engine.regions import outlines, regions


def _map(height: int = 40, width: int = 60) -> np.ndarray:
    return np.zeros((height, width), np.float32)


def test_region_tells_area_box_centroid_and_peak() -> None:
    values = _map()
    values[10:14, 20:30] = 1
    values[12, 25] = 3
    (found,) = regions(values, 0.5)
    assert (found.area, found.share) == (40, 40 / 2400)
    assert found.box == (20, 10, 30, 14)
    assert found.centroid == (25, 12)
    assert found.peak == 3


def test_regions_come_by_size_and_corners_connect() -> None:
    values = _map()
    values[0:2, 0:2] = 1
    values[2:4, 2:4] = 1  # touches the first at a corner
    values[20:30, 20:30] = 1
    assert [region.area for region in regions(values, 0.5)] == [100, 8]


def test_level_itself_is_not_above_it() -> None:
    assert regions(_map() + 0.5, 0.5) == []


def test_nothing_above_the_level_has_no_region_and_no_outline() -> None:
    assert regions(_map(), 0.5) == []
    assert outlines(_map(), 0.5, 40, 60) == []


@given(seed=st.integers(0, 1000))
def test_regions_cover_exactly_what_is_above_the_level(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(12, 17)).astype(np.float32)
    found = regions(values, 0.8)
    assert sum(region.area for region in found) == int((values > 0.8).sum())
    assert all(region.peak > 0.8 for region in found)


@pytest.mark.parametrize("scale", [1, 3])
def test_outline_encloses_what_is_above_the_level_in_the_pictures_pixels(scale: int) -> None:
    values = _map()
    values[10:20, 30:60] = 1  # up to the border: the line must be closed there too
    (line,) = outlines(values, 0.5, 40 * scale, 60 * scale)
    assert np.array_equal(line[0], line[-1])
    drawn = Image.new("1", (60 * scale, 40 * scale))
    ImageDraw.Draw(drawn).polygon([tuple(point) for point in line], fill=1)
    wanted = np.kron(values > 0.5, np.ones((scale, scale), bool))
    # The line runs between pixel centres, so it may differ by the rim.
    assert (np.asarray(drawn) != wanted).sum() <= 2 * scale * (10 + 30) * scale


def test_hole_has_an_outline_of_its_own() -> None:
    values = _map()
    values[5:35, 5:35] = 1
    values[15:25, 15:25] = 0
    assert len(outlines(values, 0.5, 40, 60)) == 2
