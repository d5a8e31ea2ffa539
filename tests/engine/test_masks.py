"""Masks as labelling tools write them, brought to one boolean per pixel of their picture, or refused."""

import io
from collections.abc import Iterator
from weakref import ref

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.errors import BadImage
from engine.masks import MOST_VALUES, decode_mask, encode_mask, fit_mask, merge_masks, read_mask

Mask = npt.NDArray[np.bool_]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def values(*pixels: int, kind: type = np.uint8) -> npt.NDArray[np.generic]:
    """(40, 50) zeros whose first pixels are these."""
    made = np.zeros((40, 50), kind)
    made[0, : len(pixels)] = pixels
    return made


def drawn(*where: tuple[int, int], shape: tuple[int, int] = (4, 6)) -> Mask:
    mask = np.zeros(shape, np.bool_)
    for row, column in where:
        mask[row, column] = True
    return mask


@pytest.mark.parametrize(
    ("pixels", "binary"),
    [((255,), True), ((1,), True), ((), True), ((1, 255), False), ((128,), False), ((254, 255), False)],
)
def test_values_tell_whether_a_mask_is_one(pixels: tuple[int, ...], binary: bool) -> None:
    read = read_mask(encoded(Image.fromarray(values(*pixels))), "a.png")
    assert (read.values, read.binary) == ((0, *sorted(pixels)), binary)
    assert read.mask.sum() == len(pixels)
    assert read.mask.dtype == np.bool_


def test_only_the_lowest_values_are_listed() -> None:
    read = read_mask(encoded(Image.fromarray(values(*range(49, 0, -1)))), "a.png")
    assert read.values == tuple(range(MOST_VALUES))
    assert not read.binary


def test_threshold_is_on_the_scale_of_the_file() -> None:
    eight = encoded(Image.fromarray(values(1, 127, 128, 255)))
    assert read_mask(eight, "a.png", threshold=127).mask.sum() == 2
    assert read_mask(eight, "a.png", threshold=255).mask.sum() == 0
    sixteen = encoded(Image.fromarray(values(255, 256, 65_535, kind=np.uint16)))
    read = read_mask(sixteen, "a.png", threshold=255)
    assert (read.mask.sum(), read.values) == (2, (0, 255, 256, 65_535))
    assert read_mask(encoded(Image.fromarray(values(65_535, kind=np.uint16))), "a.png").binary


@pytest.mark.parametrize("value", [1.0, 255.0, 65_535.0])
def test_whole_floating_point_numbers_are_taken(value: float) -> None:
    floats = encoded(Image.fromarray(values(kind=np.float32) + values(1, kind=np.float32) * value), "TIFF")
    read = read_mask(floats, "a.tif")
    assert (read.mask.sum(), read.values, read.binary) == (1, (0, int(value)), True)


@pytest.mark.parametrize("value", [0.5, -1.0, 65_536.0, np.nan, np.inf])
def test_other_floating_point_numbers_are_refused(value: float) -> None:
    floats = values(kind=np.float32)
    floats[3, 4] = value
    with pytest.raises(BadImage, match=r"'a\.tif' holds floating-point numbers .* Save it with 8 bits"):
        read_mask(encoded(Image.fromarray(floats), "TIFF"), "a.tif")


def test_any_channel_of_a_colour_counts_and_what_is_invisible_does_not() -> None:
    colours = np.zeros((40, 50, 4), np.uint8)
    colours[..., 3] = 255
    colours[0, 0, 2] = 1  # a trace of blue
    colours[0, 1] = (255, 255, 255, 0)  # white that nobody sees
    colours[0, 2] = (1, 0, 0, 1)  # hardly seen
    mask = decode_mask(encoded(Image.fromarray(colours)), "a.png")
    assert np.argwhere(mask).tolist() == [[0, 0], [0, 2]]


def test_transparent_value_of_a_palette_is_background() -> None:
    image = Image.fromarray(values(1, 2)).convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    mask = decode_mask(encoded(image, transparency=2), "a.png")
    assert np.argwhere(mask).tolist() == [[0, 0]]


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "I;16"])
def test_white_may_be_the_background(mode: str) -> None:
    white = np.full((40, 50), 65_535 if mode == "I;16" else 255, np.uint16 if mode == "I;16" else np.uint8)
    white[3, 4] = 0
    image = Image.fromarray(white) if mode == "I;16" else Image.fromarray(white).convert(mode)
    data = encoded(image)
    assert np.argwhere(read_mask(data, "a.png", white_is_background=True).mask).tolist() == [[3, 4]]
    assert decode_mask(data, "a.png").sum() == 40 * 50 - 1


def test_nothing_behind_the_drawing_is_white_too() -> None:
    colours = np.zeros((40, 50, 4), np.uint8)
    colours[3, 4] = (255, 0, 0, 255)
    read = read_mask(encoded(Image.fromarray(colours)), "a.png", white_is_background=True)
    assert np.argwhere(read.mask).tolist() == [[3, 4]]


def test_mask_is_turned_as_its_camera_said() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise
    mask = decode_mask(encoded(Image.fromarray(values(255)), exif=exif), "a.png")
    assert (mask.shape, np.argwhere(mask).tolist()) == ((50, 40), [[0, 39]])


@pytest.mark.parametrize("data", [b"", b"no picture", encoded(Image.new("L", (40, 40)))[:50]])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadImage, match=r"a\.png"):
        read_mask(data, "a.png")


@given(st.data())
def test_encoded_mask_comes_back_as_it_was(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(32, 70), st.integers(32, 70)))
    mask = np.random.default_rng(data.draw(st.integers(0, 99))).random(shape) < 0.3
    file = encode_mask(mask)
    assert Image.open(io.BytesIO(file)).mode == "1"
    assert (decode_mask(file, "a.png") == mask).all()
    assert encode_mask(mask) == file
    assert encode_mask(np.asfortranarray(mask)) == file


def test_mask_of_the_right_size_is_left_as_it_is() -> None:
    mask = drawn((1, 2))
    assert fit_mask(mask, 4, 6, "m.png", "a.png") is mask


def test_enlarged_mask_repeats_its_pixels() -> None:
    mask = drawn((1, 2), (3, 0))
    assert (fit_mask(mask, 12, 18, "m.png", "a.png") == np.kron(mask, np.ones((3, 3), np.bool_))).all()


def test_mask_enlarged_by_a_fraction_lies_where_it_lay() -> None:
    fitted = fit_mask(drawn((1, 2), shape=(4, 4)), 6, 6, "m.png", "a.png")
    rows, columns = np.nonzero(fitted)
    assert (rows.mean() + 0.5) / 6 == pytest.approx(1.5 / 4, abs=0.1)
    assert (columns.mean() + 0.5) / 6 == pytest.approx(2.5 / 4, abs=0.1)


@pytest.mark.parametrize(("height", "width"), [(20, 30), (14, 21), (2, 3)])
def test_shrinking_loses_no_defect_of_one_pixel(height: int, width: int) -> None:
    for at in ((0, 0), (39, 59), (17, 31)):
        fitted = fit_mask(drawn(at, shape=(40, 60)), height, width, "m.png", "a.png")
        assert (
            np.argwhere(fitted).tolist() == [[(at[0] * height) // 40, (at[1] * width) // 60]]
            or fitted.sum() == 1
        )
        assert fitted.shape == (height, width)


@pytest.mark.parametrize(("height", "width", "turned"), [(8, 13, False), (6, 4, True), (12, 8, False)])
def test_mask_of_another_shape_is_refused(height: int, width: int, turned: bool) -> None:
    with pytest.raises(BadImage) as caught:
        fit_mask(drawn((0, 0)), height, width, "m.png", "a.png")
    told = str(caught.value)
    assert f"Mask 'm.png' is 6×4 px, its picture 'a.png' {width}×{height} px" in told
    assert ("turned by 90°" in told) is turned
    assert told.endswith("Export the mask at the picture's size.")


def test_merged_masks_cover_all_defects() -> None:
    merged = merge_masks([drawn((0, 0)), drawn(), drawn((0, 0), (3, 5)), drawn((2, 2))])
    assert np.argwhere(merged).tolist() == [[0, 0], [2, 2], [3, 5]]


def test_one_mask_is_merged_to_itself_and_not_changed() -> None:
    first, second = drawn((0, 0)), drawn((1, 1))
    assert (merge_masks([first]) == first).all()
    merge_masks([first, second])
    assert first.sum() == second.sum() == 1


def test_masks_are_merged_one_by_one() -> None:
    """A picture may have hundreds of them, each of millions of pixels."""
    given: list[ref[Mask]] = []
    most = 0

    def each() -> Iterator[Mask]:
        nonlocal most
        for number in range(20):
            mask = drawn((number % 4, number % 6))
            given.append(ref(mask))
            most = max(most, sum(one() is not None for one in given))
            yield mask

    assert merge_masks(each()).sum() == 12
    assert most <= 2  # the one that was just drawn, and the one before that the caller still holds


def test_no_masks_and_masks_of_different_size_are_refused() -> None:
    with pytest.raises(BadImage, match=r"at least 1 is needed\. Leave the picture without a mask"):
        merge_masks([])
    with pytest.raises(BadImage, match=r"differ in size \(6×4, 7×4 px\). Bring them to the picture's size"):
        merge_masks([drawn(shape=(4, 7)), drawn(), drawn()])
