"""What a look at pictures tells: values that can be worked out by hand, copies that are found, others that are not."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from engine.inspection import BRIGHT, DARK, SIGNATURE_SIDE, Measures, measure, near_duplicates, outliers

Picture = npt.NDArray[np.uint8]
Pair = tuple[int, int]


def grey(values: npt.NDArray[np.generic]) -> Picture:
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def flat(value: int, height: int = 96, width: int = 128) -> Picture:
    return grey(np.full((height, width), value))


def product(seed: int, side: int = 256) -> Picture:
    """One part of a product: the same shape and light in all, texture and noise of its own."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    shape = 90 + 60 * ((rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (side / 3) ** 2) + rows / 8
    coarse = Image.fromarray(draw.normal(0, 12, (side // 8, side // 8)).astype(np.float32))
    texture = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    return grey(np.clip(shape + texture + draw.normal(0, 6, (side, side)), 0, 255))


def resaved(picture: Picture, quality: int = 75) -> Picture:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(picture: Picture, side: int) -> Picture:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


def brighter(picture: Picture) -> Picture:
    return np.clip(picture.astype(np.float32) * 1.15 + 8, 0, 255).astype(np.uint8)


def signatures(*pictures: Picture) -> Picture:
    sides = (SIGNATURE_SIDE, SIGNATURE_SIDE)
    return np.stack(
        [np.frombuffer(measure(picture).signature, np.uint8).reshape(sides) for picture in pictures]
    )


def pairs(*pictures: Picture) -> set[Pair]:
    return {(first, second) for first, second, _ in near_duplicates(signatures(*pictures))}


@pytest.mark.parametrize(
    ("value", "dark", "bright"),
    [(0, 1, 0), (DARK, 1, 0), (DARK + 1, 0, 0), (BRIGHT - 1, 0, 0), (BRIGHT, 0, 1)],
)
def test_constant_picture_has_its_brightness_and_nothing_else(value: int, dark: float, bright: float) -> None:
    found = measure(flat(value))
    assert found == Measures(
        brightness=pytest.approx(value / 255),
        contrast=pytest.approx(0, abs=1e-6),
        dark_share=dark,
        bright_share=bright,
        sharpness=0,
        signature=bytes([value]) * SIGNATURE_SIDE**2,
    )


def test_gradient_is_bright_by_half_and_has_the_contrast_of_even_shares() -> None:
    found = measure(grey(np.tile(np.arange(256), (64, 1))))
    assert found.brightness == pytest.approx(0.5)
    assert found.contrast == pytest.approx(np.arange(256).std() / 255)
    assert (found.dark_share, found.bright_share) == (3 / 256, 3 / 256)
    assert found.sharpness == 0  # a straight slope has no curvature


def test_sharpness_of_noise_is_that_of_its_laplacian() -> None:
    noise = np.random.default_rng(0).normal(128, 10, (300, 400)).round()
    # Of independent values of variance v, the Laplacian's variance is (4² + 4·1²) v.
    assert measure(grey(noise)).sharpness == pytest.approx(20 * noise.var(), rel=0.02)


def test_blur_lowers_sharpness_and_leaves_brightness() -> None:
    sharp = product(0)
    blurred = np.asarray(Image.fromarray(sharp).reduce(4).resize((256, 256), Image.Resampling.BICUBIC))
    before, after = measure(sharp), measure(blurred)
    assert after.sharpness < before.sharpness / 20
    assert after.brightness == pytest.approx(before.brightness, abs=0.01)


def test_half_black_half_white_has_the_largest_contrast() -> None:
    values = np.zeros((64, 64))
    values[:, 32:] = 255
    found = measure(grey(values))
    assert (found.brightness, found.contrast) == (pytest.approx(0.5), pytest.approx(0.5))
    assert (found.dark_share, found.bright_share) == (0.5, 0.5)


@pytest.mark.parametrize("shape", [(32, 32), (33, 1900), (1025, 40), (32, 6000)])
def test_any_shape_gives_finite_measures_and_a_whole_signature(shape: tuple[int, int]) -> None:
    found = measure(grey(np.random.default_rng(0).integers(0, 256, shape)))
    assert np.isfinite([found.brightness, found.contrast, found.sharpness]).all()
    assert len(found.signature) == SIGNATURE_SIDE**2


def test_outliers_of_nothing_and_of_one_value() -> None:
    assert outliers(np.zeros(0)).tolist() == []
    assert outliers(np.array([3.5])).tolist() == [0.0]
    assert outliers(np.array([3.5, 3.5])).tolist() == [0.0, 0.0]


def test_value_off_more_than_half_the_same_is_infinitely_far() -> None:
    assert outliers(np.array([5.0, 5.0, 5.0, 5.1, -7.0])).tolist() == [0.0, 0.0, 0.0, np.inf, -np.inf]


def test_outliers_are_standard_deviations_of_normal_values_whatever_lies_far_out() -> None:
    values = np.random.default_rng(0).normal(10, 2, 10_001)
    values[:100] = 1000
    found = outliers(values)
    assert found[100:] == pytest.approx((values[100:] - 10) / 2, abs=0.2)
    assert (found[:100] > 400).all()


def test_same_photograph_saved_anew_resized_or_brighter_is_found_among_others() -> None:
    original = product(100)
    others = [product(seed) for seed in range(12)]
    for copy in (
        original,
        resaved(original),
        resaved(original, 40),
        resized(original, 180),
        brighter(original),
    ):
        assert pairs(original, *others, copy) == {(0, 13)}


def test_two_pictures_alone_are_compared_too() -> None:
    original = product(100)
    assert pairs(original, resaved(original)) == {(0, 1)}
    assert pairs(original) == set()
    assert near_duplicates(np.zeros((0, SIGNATURE_SIDE, SIGNATURE_SIDE), np.uint8)) == []


@pytest.mark.parametrize("count", [2, 7, 8, 30])
def test_different_parts_of_one_product_are_not_copies(count: int) -> None:
    assert pairs(*[product(seed) for seed in range(count)]) == set()


@pytest.mark.parametrize("count", [2, 7, 8, 20])
def test_flat_pictures_are_not_copies_of_each_other(count: int) -> None:
    assert pairs(*[flat(100 + number % 3) for number in range(count)]) == set()


def test_likeness_is_told_and_every_copy_once_with_the_first_it_is_like() -> None:
    original = product(100)
    found = near_duplicates(signatures(original, original, *[product(seed) for seed in range(8)], original))
    assert {(first, second) for first, second, _ in found} == {(0, 1), (0, 10)}
    assert all(likeness == pytest.approx(1, abs=1e-4) for _, _, likeness in found)


def test_copies_are_found_across_blocks() -> None:
    draw = np.random.default_rng(0)
    many = draw.integers(0, 256, (1100, SIGNATURE_SIDE, SIGNATURE_SIDE), dtype=np.uint8)
    many[1090], many[600] = many[3], many[599]
    assert {(first, second) for first, second, _ in near_duplicates(many)} == {(3, 1090), (599, 600)}


def test_a_burst_of_one_photograph_is_told_once_for_each_copy() -> None:
    draw = np.random.default_rng(0)
    bursts = draw.integers(0, 256, (3, SIGNATURE_SIDE, SIGNATURE_SIDE), dtype=np.uint8)
    found = near_duplicates(np.repeat(bursts, 400, axis=0))
    assert len(found) == 3 * 399
    assert {first for first, _, _ in found} == {0, 400, 800}
