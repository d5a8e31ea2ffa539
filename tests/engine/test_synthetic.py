"""Planted defects: deterministic, masked to the pixel, bounded, on any picture."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadImage, ShapeMismatch
from engine.images import RGB, decode
from engine.synthetic import MAX_AREA, MIN_PIXELS, VISIBLE_LEVELS, plant_defect

sides = st.integers(32, 200)
seeds = st.integers(0, 2**32)


def make_image(kind: str, height: int, width: int, seed: int) -> RGB:
    rng = np.random.default_rng(seed)
    if kind == "flat":
        return np.full((height, width, 3), rng.integers(256), dtype=np.uint8)
    if kind == "black":
        return np.zeros((height, width, 3), dtype=np.uint8)
    if kind == "white":
        return np.full((height, width, 3), 255, dtype=np.uint8)
    if kind == "checkerboard":
        squares = (np.arange(height)[:, None] + np.arange(width)) % 2 * 255
        return np.repeat(squares[..., None], 3, axis=2).astype(np.uint8)
    if kind == "gradient":
        ramp = np.linspace(0, 255, width)[None, :, None] * np.array([1.0, 0.5, 0.2])
        return np.broadcast_to(ramp, (height, width, 3)).astype(np.uint8)
    return rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8)


kinds = st.sampled_from(["flat", "black", "white", "checkerboard", "gradient", "noise"])


@settings(deadline=None, max_examples=300)
@given(kind=kinds, height=sides, width=sides, seed=seeds)
def test_mask_is_exactly_what_visibly_changed(kind: str, height: int, width: int, seed: int) -> None:
    image = make_image(kind, height, width, seed)
    planted, mask = plant_defect(image, seed=seed)
    assert planted.shape == image.shape
    assert planted.dtype == np.uint8
    assert mask.dtype == np.bool_
    change = np.abs(planted.astype(int) - image.astype(int)).max(axis=2)
    np.testing.assert_array_equal(mask, change > 0)
    assert change[mask].min() >= VISIBLE_LEVELS


@settings(deadline=None, max_examples=300)
@given(kind=kinds, height=sides, width=sides, seed=seeds)
def test_area_is_never_empty_and_never_beyond_the_bound(
    kind: str, height: int, width: int, seed: int
) -> None:
    _, mask = plant_defect(make_image(kind, height, width, seed), seed=seed)
    assert MIN_PIXELS <= mask.sum() <= MAX_AREA * mask.size


@settings(deadline=None, max_examples=60)
@given(kind=kinds, height=sides, width=sides, seed=seeds)
def test_same_seed_plants_the_same_defect_and_leaves_its_input_alone(
    kind: str, height: int, width: int, seed: int
) -> None:
    image = make_image(kind, height, width, seed)
    kept = image.copy()
    first, first_mask = plant_defect(image, seed=seed)
    second, second_mask = plant_defect(image, seed=seed)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first_mask, second_mask)
    np.testing.assert_array_equal(image, kept)


def test_seeds_spread_defects_over_place_size_and_strength() -> None:
    image = make_image("gradient", 128, 160, 0)
    areas, middles, strengths = [], [], []
    for seed in range(60):
        planted, mask = plant_defect(image, seed=seed)
        areas.append(mask.mean())
        middles.append(np.argwhere(mask).mean(axis=0))
        strengths.append(np.abs(planted.astype(int) - image.astype(int))[mask].mean())
    assert max(areas) > 10 * min(areas)
    assert np.std(middles, axis=0).min() > 15
    assert max(strengths) > 3 * min(strengths)


def test_grey_pictures_stay_grey() -> None:
    image = make_image("checkerboard", 64, 64, 0) // 3 + 60
    for seed in range(40):
        planted, _ = plant_defect(image, seed=seed)
        assert (planted == planted[..., :1]).all(), f"seed {seed} coloured a grey picture"


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 2000), (2000, 32), (1500, 1100)])
def test_extreme_sizes_keep_the_bounds(height: int, width: int) -> None:
    image = make_image("noise", height, width, 1)
    for seed in range(25):
        _, mask = plant_defect(image, seed=seed)
        assert MIN_PIXELS <= mask.sum() <= MAX_AREA * mask.size


def test_defects_show_on_real_tiles(magnetic_tile: Path) -> None:
    for number, path in enumerate(sorted((magnetic_tile / "train" / "good").iterdir())[:12]):
        image = decode(path.read_bytes(), path.name)
        planted, mask = plant_defect(image, seed=number)
        inside = np.abs(planted.astype(int) - image.astype(int))[mask]
        assert mask.any()
        assert inside.mean() >= VISIBLE_LEVELS / 3


def test_too_small_a_picture_is_refused() -> None:
    with pytest.raises(BadImage, match=r"40×31 px; the shorter side must be at least 32 px"):
        plant_defect(np.zeros((31, 40, 3), dtype=np.uint8), seed=0)


@pytest.mark.parametrize(
    "image",
    [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64, 3), np.float32)],
)
def test_other_arrays_are_refused(image: RGB) -> None:
    with pytest.raises(ShapeMismatch, match=r"must be \(H, W, 3\) uint8"):
        plant_defect(image, seed=0)
