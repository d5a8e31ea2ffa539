"""Where pictures lie on the canvas, and whether maps find the way back."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.geometry import MIRRORS, RESIZES, Placement, in_view, mirrored, on_canvas, place, seen
from engine.scoring import anomaly_maps

SIDES = st.integers(32, 700)


def test_crop_is_the_papers_shorter_side_to_329_and_middle_288() -> None:
    image = np.random.default_rng(0).integers(0, 255, (400, 600, 3), dtype=np.uint8)
    resized = Image.fromarray(image).resize((494, 329), Image.Resampling.BILINEAR)
    wanted = np.asarray(resized)[20:308, 103:391]
    placed = place((400, 600), (288, 288), "crop")
    assert (placed.height, placed.width) == (329, 494)
    assert -placed.top in (20, 21)
    difference = np.abs(on_canvas(image, (288, 288), "crop").astype(int) - wanted)
    assert difference.max() <= 1  # the canvas' part alone is resized: single grey levels round the other way
    assert (difference > 0).mean() < 0.01


def test_letterbox_keeps_proportions_and_puts_bars_beside() -> None:
    image = np.full((50, 200, 3), 200, np.uint8)
    laid = on_canvas(image, (64, 64), "letterbox")
    assert place((50, 200), (64, 64), "letterbox") == Placement(top=24, left=0, height=16, width=64)
    assert (laid[24:40] == 200).all()
    assert (laid[:24] == 127).all()
    assert (laid[40:] == 127).all()


@given(picture=st.tuples(SIDES, SIDES), canvas=st.tuples(SIDES, SIDES), resize=st.sampled_from(list(RESIZES)))
def test_whole_canvas_is_filled_and_what_is_seen_lies_in_the_picture(
    picture: tuple[int, int], canvas: tuple[int, int], resize: str
) -> None:
    laid = on_canvas(np.full((*picture, 3), 9, np.uint8), canvas, resize)
    assert laid.shape == (*canvas, 3)
    rows, columns = seen(picture, canvas, resize)
    assert 0 <= rows.start < rows.stop <= picture[0]
    assert 0 <= columns.start < columns.stop <= picture[1]
    whole = (slice(0, picture[0]), slice(0, picture[1]))
    assert ((rows, columns) == whole) == (resize != "crop")
    if resize != "letterbox":
        assert (laid == 9).all()


@pytest.mark.parametrize("resize", list(RESIZES))
@pytest.mark.parametrize("picture", [(128, 128), (128, 192), (300, 160)])
def test_planted_square_raises_the_map_at_the_square(resize: str, picture: tuple[int, int]) -> None:
    """The canvas itself stands for patch scores of one pixel each."""
    top, left = picture[0] // 2 - 30, picture[1] // 2 - 10
    image = np.zeros((*picture, 3), np.uint8)
    image[top : top + 24, left : left + 24] = 255
    laid = on_canvas(image, (64, 64), resize)
    scores = torch.from_numpy((laid[..., 0] == 255).astype(np.float32))[None]
    found = anomaly_maps(scores, 64, 64, 0.0, picture_size=picture, resize=resize)[0].numpy()
    assert found.shape == picture
    rows, columns = np.nonzero(found > 0.5)
    centre = (rows.mean(), columns.mean())
    assert centre == pytest.approx((top + 11.5, left + 11.5), abs=1.5)


def test_what_a_crop_cuts_away_gets_the_lowest_value_of_its_map() -> None:
    scores = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    picture, canvas = (100, 160), (64, 64)
    found = anomaly_maps(scores, *canvas, 2.0, picture_size=picture, resize="crop")[0]
    rows, columns = seen(picture, canvas, "crop")
    outside = torch.ones(picture, dtype=torch.bool)
    outside[rows, columns] = False
    assert outside.float().mean() > 0.3
    assert (found[outside] == found.min()).all()
    assert found[~outside].max() > found.min()


def test_crop_of_a_long_strip_resizes_no_more_than_it_keeps() -> None:
    """Enlarging the whole strip first would take 1 GB."""
    strip = np.zeros((32, 40_000, 3), np.uint8)
    tracemalloc.start()
    assert on_canvas(strip, (256, 256), "crop").shape == (256, 256, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


def test_pixels_that_a_crop_never_sees_are_cut_from_what_is_judged() -> None:
    values = np.arange(100 * 160).reshape(100, 160)
    cut_values = in_view(values, (64, 64), "crop")
    assert cut_values.shape == (
        88,
        87,
    )  # 7/8 of the shorter side; along the longer the canvas lies half a pixel off
    assert cut_values[44, 43] == values[49, 79]
    np.testing.assert_array_equal(in_view(values, (64, 64), "letterbox"), values)


@pytest.mark.parametrize("mirror", list(MIRRORS))
def test_pictures_are_turned_over_along_with_their_masks(mirror: str) -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    mask = picture[..., 0] > 10
    ways = MIRRORS[mirror]
    assert len({mirrored(picture, way).tobytes() for way in ("", *ways)}) == 1 + len(ways)
    for way in ways:
        turned = mirrored(picture, way)
        assert (mirrored(mask, way) == (turned[..., 0] > 10)).all()
        assert (mirrored(turned, way) == picture).all()
        wanted = picture[::-1] if way == "v" else picture[:, ::-1] if way == "h" else picture[::-1, ::-1]
        assert (turned == wanted).all()
