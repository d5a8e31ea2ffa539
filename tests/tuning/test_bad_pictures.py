"""Every kind of bad picture among good ones: the good ones go in, each bad one is named with its rule and remedy."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tuning.ingest import ingest_folder

SIDE = 64
GOOD = 12


def test_every_bad_picture_is_named_with_its_reason_and_the_others_go_in(workspace, make_folder):
    folder = make_folder(train=GOOD, flat=True)
    for name, (make, _) in BAD.items():
        (folder / name).write_bytes(make())
    report = ingest_folder(workspace, folder, "parts")
    assert report.version.count() == GOOD
    told = {one.name: one.reason for one in report.skipped}
    assert told.keys() == BAD.keys()
    for name, (_, words) in BAD.items():
        assert words in told[name], told[name]


@pytest.mark.parametrize("pages", [("L",), ("L", "L"), ("RGB", "L", "1")])
def test_each_page_of_a_tiff_is_a_picture(workspace, make_folder, pages: tuple[str, ...]):
    folder = make_folder(train=GOOD, flat=True)
    shown = [_noise(number).convert(mode) for number, mode in enumerate(pages)]
    shown[0].save(folder / "pages.tif", save_all=True, append_images=shown[1:])
    report = ingest_folder(workspace, folder, "parts")
    assert report.skipped == ()
    assert report.version.count() == GOOD + len(pages)


def test_formats_of_cameras_and_microscopes_are_taken(workspace, make_folder):
    folder = make_folder(train=GOOD, flat=True)
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on its side
    rgb = [_noise(number) for number in range(7)]
    rgb[0].save(folder / "a.jpg", exif=turned)
    rgb[1].save(folder / "b.bmp")
    rgb[2].save(folder / "c.tiff")
    rgb[3].save(folder / "d.webp", lossless=True)
    rgb[4].convert("CMYK").save(folder / "e.jpg")
    rgb[5].convert("RGBA").save(folder / "f.png")
    Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)).save(folder / "g.png")
    rgb[6].convert("L").save(folder / "h.PNG")
    report = ingest_folder(workspace, folder, "parts")
    assert report.skipped == ()
    assert report.version.count() == GOOD + 8


def _noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), np.uint8))


def _saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _animated(kind: str) -> bytes:
    return _saved(_noise(100), kind, save_all=True, append_images=[_noise(101)])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(side: int) -> bytes:
    """A whole black PNG of side × side pixels, a bit each: small, for it says the same again and again."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packer = zlib.compressobj()
    row = bytes(1 + (side + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _with_much_text() -> bytes:
    told = PngImagePlugin.PngInfo()
    told.add_text("Comment", "x" * 5_000_000, zip=True)
    return _saved(_noise(102), pnginfo=told)


def _floats(value: float) -> bytes:
    pixels = np.zeros((SIDE, SIDE), np.float32)
    pixels[3, 4] = value
    return _saved(Image.fromarray(pixels), "TIFF")


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "text.png": (lambda: b"I am no picture", "it holds text. Leave it out"),
    "drawing.png": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "it is an SVG drawing"),
    "drawing.svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "a drawing without pixels"),
    "nothing.png": (lambda: b"", "is empty (0 bytes). Copy it anew"),
    "cut.png": (lambda: _saved(_noise(103))[:5000], "the file is damaged. Save it anew"),
    "dot.png": (lambda: _saved(Image.new("L", (1, 1))), "is 1×1 px; the shorter side must be at least 32 px"),
    "bomb.png": (
        lambda: _png(20_000),
        "400,000,000 pixels; at most 64,000,000 pixels are read. Cut or shrink",
    ),
    "vast.png": (lambda: _png(60_000), "3,600,000,000 pixels; at most 64,000,000 pixels are read"),
    "talks.png": (_with_much_text, "unpacks to more than 1 MB"),
    "film.png": (lambda: _animated("PNG"), "has 2 frames; a picture is one. Export the frames"),
    "film.webp": (lambda: _animated("WEBP"), "has 2 frames; a picture is one. Export the frames"),
    "film.gif": (lambda: _animated("GIF"), "It is a GIF, of few colours and often animated"),
    "nan.tif": (lambda: _floats(np.nan), "1 of them not finite (NaN or Inf). Save it with 8 or 16"),
    "inf.tif": (lambda: _floats(np.inf), "1 of them not finite (NaN or Inf). Save it with 8 or 16"),
}
