"""Heatmaps: one absolute scale, the threshold at one colour, and no picture that hides a failure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from engine.calibration import Calibration
from engine.errors import ShapeMismatch
from engine.heatmap import (
    PALETTES,
    THRESHOLD_POSITION,
    TRUTH_RGB,
    colour_bar,
    colours,
    coverage,
    outline,
    overlay,
    positions,
    veil,
)

SCALE = Calibration(scores=(0.0, 1.0), threshold=1.0, map_low=-1.0, map_high=3.0)


def _picture(height: int = 8, width: int = 6) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _luminance(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    return rgb.astype(float) @ np.array([0.2126, 0.7152, 0.0722])


def test_overlay_of_zero_opacity_is_the_picture() -> None:
    picture = _picture()
    drawn = overlay(picture, np.full((8, 6), 2.5, np.float32), SCALE, 0.0)
    assert np.array_equal(np.asarray(drawn), picture)


def test_overlay_leaves_typical_normal_pixels_alone() -> None:
    picture = _picture()
    drawn = overlay(picture, np.full((8, 6), SCALE.map_low, np.float32), SCALE, 1.0)
    assert np.array_equal(np.asarray(drawn), picture)


def test_overlay_hides_the_picture_from_the_threshold_on() -> None:
    anomaly_map = np.full((8, 6), SCALE.map_threshold, np.float32)
    drawn = np.asarray(overlay(_picture(), anomaly_map, SCALE, 1.0))
    assert (drawn == colours(np.array([THRESHOLD_POSITION]))[0]).all()


def test_overlay_marks_the_planted_square_and_nothing_else() -> None:
    picture = np.full((32, 32, 3), 128, np.uint8)
    anomaly_map = np.full((32, 32), SCALE.map_low, np.float32)
    anomaly_map[4:9, 20:25] = SCALE.map_high
    changed = (np.asarray(overlay(picture, anomaly_map, SCALE, 0.6)) != 128).any(axis=-1)
    assert np.array_equal(changed, anomaly_map > SCALE.map_low)


def test_colour_of_a_level_does_not_depend_on_the_rest_of_the_picture() -> None:
    calm, wild = np.zeros((8, 6), np.float32), np.zeros((8, 6), np.float32)
    wild[4:] = 100.0
    first, second = (np.asarray(overlay(_picture(), values, SCALE, 0.7)) for values in (calm, wild))
    assert np.array_equal(first[:4], second[:4])


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_threshold_sits_at_one_position_for_every_model(low: float, reach: float) -> None:
    scale = Calibration(scores=(0.0,), threshold=0.0, map_low=low, map_high=low + 2 * reach)
    assert positions(np.array([scale.map_threshold]), scale)[0] == pytest.approx(THRESHOLD_POSITION, abs=1e-6)


@pytest.mark.parametrize("palette", PALETTES)
def test_colours_rise_in_lightness_so_that_order_survives_without_hue(palette: str) -> None:
    bar = _luminance(colours(np.linspace(0, 1, 401), palette))
    assert (np.diff(bar) >= -0.3).all()  # rounding to whole colour values
    assert bar[-1] - bar[0] > 180


# Linear RGB as people see it who lack one kind of cone, to 2 digits.
# Source: Machado et al., A physiologically-based model for simulation of colour vision deficiency, IEEE TVCG, 2009.
COLOUR_BLINDNESS = {
    "protanopia": ((0.15, 1.05, -0.20), (0.11, 0.79, 0.10), (0.00, -0.05, 1.05)),
    "deuteranopia": ((0.37, 0.86, -0.23), (0.28, 0.67, 0.05), (-0.01, 0.04, 0.97)),
    "tritanopia": ((1.26, -0.08, -0.18), (-0.08, 0.93, 0.15), (0.00, 0.69, 0.30)),
}


@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
def test_threshold_is_seen_whatever_the_colour_blindness(palette: str, kind: str) -> None:
    places = np.array([THRESHOLD_POSITION - 1e-6, THRESHOLD_POSITION])
    linear = (colours(places, palette) / 255.0) ** 2.2
    below, above = np.clip(linear @ np.array(COLOUR_BLINDNESS[kind]).T, 0, 1) ** (1 / 2.2) * 255
    assert np.linalg.norm(above - below) > 60


def test_colours_turn_from_blue_to_orange_at_the_threshold() -> None:
    below, at = colours(np.array([THRESHOLD_POSITION - 1e-6, THRESHOLD_POSITION])).astype(int)
    assert below[2] > below[0] + 50
    assert at[0] > at[2] + 50


def test_coverage_rises_from_nothing_to_everything_at_the_threshold() -> None:
    covered = coverage(np.linspace(0, 1, 101))
    assert covered[0] == 0
    assert (np.diff(covered) >= 0).all()
    assert covered[50:] == pytest.approx(1.0)


def test_overlay_refuses_a_map_of_another_size() -> None:
    with pytest.raises(ShapeMismatch, match=r"8×6 px and its anomaly map 4×6.*Ingest"):
        overlay(_picture(), np.zeros((4, 6), np.float32), SCALE, 0.5)


def test_outline_surrounds_the_mask_without_covering_it() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[10:20, 10:20] = True
    drawn = np.asarray(outline(picture, mask, thickness=2))
    marked = (drawn == TRUTH_RGB).all(axis=-1)
    assert not marked[mask].any()
    assert marked[9, 15]
    assert marked[8, 15]
    assert not marked[7, 15]


def test_outline_of_an_empty_mask_is_the_picture() -> None:
    assert np.array_equal(np.asarray(outline(_picture(), np.zeros((8, 6), bool))), _picture())


def test_outline_reaches_the_border_of_the_picture() -> None:
    mask = np.zeros((8, 6), bool)
    mask[:3, :3] = True
    assert (np.asarray(outline(_picture(), mask, thickness=1))[3, 0] == TRUTH_RGB).all()


def test_outline_refuses_a_mask_of_another_size() -> None:
    with pytest.raises(ShapeMismatch, match="ground-truth mask"):
        outline(_picture(), np.zeros((8, 7), bool))


def test_colour_bar_has_the_threshold_in_its_middle() -> None:
    bar = np.asarray(colour_bar(400, 2))
    assert bar.shape == (2, 400, 3)
    assert bar[0, 199, 2] > bar[0, 199, 0]
    assert bar[0, 201, 0] > bar[0, 201, 2]


def test_veil_greys_what_the_model_does_not_see_and_nothing_else() -> None:
    picture = _picture(20, 30)
    drawn = np.asarray(veil(Image.fromarray(picture), (slice(2, 18), slice(5, 25))))
    assert np.array_equal(drawn[2:18, 5:25], picture[2:18, 5:25])
    outside = np.ones((20, 30), bool)
    outside[2:18, 5:25] = False
    assert drawn[outside].min() >= 150
    assert np.array_equal(np.asarray(veil(Image.fromarray(picture), (slice(0, 20), slice(0, 30)))), picture)
