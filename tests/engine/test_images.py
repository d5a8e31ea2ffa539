import io
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.errors import BadImage
from engine.images import MIN_SIDE, decode, decode_mask, pixel_digest, preprocess


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ramp(height: int = 40, width: int = 50) -> np.ndarray:
    values = np.arange(height * width * 3) % 251
    return values.reshape(height, width, 3).astype(np.uint8)


def test_rgb_is_decoded_as_it_is() -> None:
    assert (decode(encoded(Image.fromarray(ramp())), "a.png") == ramp()).all()


def test_threads_that_decode_at_once_leave_the_warnings_of_the_process_as_they_were() -> None:
    data = encoded(Image.fromarray(ramp(400, 500)))
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: decode(data, "a.png"), range(100)))
    assert list(warnings.filters) == before


def test_grey_becomes_three_equal_channels() -> None:
    grey = ramp()[..., 0]
    image = decode(encoded(Image.fromarray(grey)), "a.png")
    assert image.shape == (40, 50, 3)
    assert (image == grey[..., None]).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    deep = np.full((40, 50), 65535, dtype=np.uint16)
    deep[:20] = 257 * 100
    image = decode(encoded(Image.fromarray(deep), kind), "deep")
    assert image.dtype == np.uint8
    assert (image[:20] == 100).all()
    assert (image[20:] == 255).all()


def test_camera_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise
    image = decode(encoded(Image.fromarray(ramp()), exif=exif), "a.png")
    assert (image == np.rot90(ramp(), -1)).all()


def test_transparency_is_laid_on_white() -> None:
    pixels = np.zeros((40, 50, 4), dtype=np.uint8)
    pixels[:20, :, 3] = 255
    image = decode(encoded(Image.fromarray(pixels)), "a.png")
    assert (image[:20] == 0).all()
    assert (image[20:] == 255).all()


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "LA"])
def test_other_modes_become_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image = decode(encoded(Image.fromarray(ramp()).convert(mode), kind), "a")
    assert image.shape == (40, 50, 3)
    assert image.dtype == np.uint8


def test_decoded_image_can_be_written_to() -> None:
    decode(encoded(Image.fromarray(ramp())), "a.png")[0, 0] = 0


def test_text_is_no_picture() -> None:
    with pytest.raises(BadImage, match=r"'notes.txt' \(5 bytes\) is not a picture"):
        decode(b"hello", "notes.txt")


def test_cut_off_file_is_refused() -> None:
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)))
    with pytest.raises(BadImage, match="damaged"):
        decode(whole[: len(whole) // 2], "a.png")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_picture_or_refused(tail: bytes) -> None:
    whole = encoded(Image.fromarray(ramp()))
    for data in (tail, whole[:60] + tail):
        with pytest.raises(BadImage):
            decode(data, "a.png")


def test_tiny_picture_is_refused() -> None:
    with pytest.raises(BadImage, match=f"'a.png' is 60×{MIN_SIDE - 1} px; .* at least {MIN_SIDE} px"):
        decode(encoded(Image.new("RGB", (60, MIN_SIDE - 1))), "a.png")


@pytest.mark.parametrize("side", [8_001, 10_000, 14_000])  # above ours, Pillow's warning, Pillow's error
def test_huge_picture_is_refused_without_decoding(side: int) -> None:
    data = encoded(Image.new("1", (side, side)))
    with pytest.raises(BadImage, match="64,000,000 pixels"):
        decode(data, "a.png")


def test_floating_point_picture_is_refused() -> None:
    with pytest.raises(BadImage, match="floating-point"):
        decode(encoded(Image.fromarray(np.zeros((40, 50), np.float32)), "TIFF"), "a.tif")


def test_mask_takes_any_value_above_zero() -> None:
    values = np.zeros((40, 50), np.uint8)
    values[3, 4] = 1
    values[5, 6] = 255
    mask = decode_mask(encoded(Image.fromarray(values)), "a.png")
    assert mask.dtype == bool
    assert np.argwhere(mask).tolist() == [[3, 4], [5, 6]]


def test_mask_in_colour_ignores_what_is_transparent() -> None:
    values = np.zeros((40, 50, 4), np.uint8)
    values[3, 4] = (0, 200, 0, 255)
    values[5, 6] = (0, 200, 0, 0)
    assert np.argwhere(decode_mask(encoded(Image.fromarray(values)), "a.png")).tolist() == [[3, 4]]


def test_mask_of_sixteen_bits_keeps_small_values() -> None:
    values = np.zeros((40, 50), np.uint16)
    values[3, 4] = 1
    assert decode_mask(encoded(Image.fromarray(values)), "a.png").sum() == 1


def test_real_masks_and_pictures_agree_in_size(magnetic_tile: Path) -> None:
    name = sorted((magnetic_tile / "ground_truth" / "crack").iterdir())[0]
    picture = next((magnetic_tile / "test" / "crack").glob(name.stem.removesuffix("_mask") + ".*"))
    mask = decode_mask(name.read_bytes(), name.name)
    assert mask.shape == decode(picture.read_bytes(), picture.name).shape[:2]
    assert 0 < mask.mean() < 0.1


def test_picture_of_thousands_of_millions_of_pixels_is_refused_with_number_limit_and_remedy() -> None:
    data = bytearray(encoded(Image.fromarray(ramp())))
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height, as the header has them
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(BadImage) as refused:
        decode(bytes(data), "huge.png")
    assert str(refused.value) == (
        "Image 'huge.png' has 3,600,000,000 pixels; at most 64,000,000 pixels are read. Cut or shrink it."
    )


def test_digest_depends_on_pixels_and_shape_alone() -> None:
    image = ramp()
    assert pixel_digest(decode(encoded(Image.fromarray(image), "BMP"), "b")) == pixel_digest(image)
    assert pixel_digest(image.reshape(50, 40, 3)) != pixel_digest(image)
    changed = image.copy()
    changed[0, 0, 0] ^= 1
    assert pixel_digest(changed) != pixel_digest(image)


def test_preprocess_normalises_each_channel() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[...] = (0, 255, 51)
    values = preprocess([image], 32, 48, mean=(0.5, 0.5, 0.1), std=(0.5, 0.25, 0.1))[0]
    assert values.shape == (3, 32, 48)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values[:, 0, 0], torch.tensor([-1.0, 2.0, 1.0]))


def test_preprocess_squashes_with_antialiasing() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[::2] = 255
    values = preprocess([stripes], 64, 64, mean=(0, 0, 0), std=(1, 1, 1))[0]
    assert values[:, 2:-2].sub(0.5).abs().max() < 0.05  # without antialiasing: all black or all white
