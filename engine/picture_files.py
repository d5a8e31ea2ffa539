"""Opens picture files that nobody vouches for: what is no single still picture of a sane size is refused.

A file's header is read first, and what it promises is checked before any pixel is: no file makes us allocate
more than MAX_PIXELS.
"""

import io
import re
import threading
import warnings
from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.errors import BadImage

MIN_SIDE = 32  # pixels; a smaller picture has no position left at stride 32
MAX_PIXELS = 64_000_000  # about 200 MB decoded; larger pictures are cut into parts before they come here
MAX_FILE_BYTES = 512 * 1024**2  # MAX_PIXELS of 64 bits each, uncompressed
MAX_PAGES = 10_000  # of a TIFF; finding a page means walking over all before it

# Pillow's other readers are for drawings (one starts Ghostscript), for games, or guess from too few bytes.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")

_SIXTEEN_BITS = 65_535
_REDUCED_IMAGE = 1  # bit of TIFF's NewSubfileType: a preview of another page
_NEW_SUBFILE_TYPE, _PHOTOMETRIC, _TILE_WIDTH, _TILE_LENGTH = 254, 262, 322, 323
_WHITE_IS_ZERO = 0


def open_picture(data: bytes, name: str, *, floats: bool = False) -> Image.Image:
    """Open, check and decode a picture file; the camera's rotation is applied.

    Of a TIFF with several pages the first is taken.

    Args:
        data: the bytes of a file in one of FORMATS.
        name: how messages call it.
        floats: take floating-point numbers, too, in mode "F".
    Returns:
        A decoded Pillow image in the mode of the file, or in mode "I;16" or "I" for 16-bit grey. Values of
        mode "I" lie in 0…65535.
    Raises:
        BadImage: empty, not a picture, damaged, animated, of floating-point numbers or of more than 16 bits,
            or beyond MIN_SIDE, MAX_PIXELS or MAX_FILE_BYTES.
    """
    return _decoded(data, name, 1, floats)


def picture_size(data: bytes, name: str) -> tuple[int, int]:
    """Read the height and width that a picture file promises, in pixels, before any pixel is decoded.

    They are as the file lies, before the camera's rotation is applied.

    Raises:
        BadImage: empty, not a picture, or beyond MIN_SIDE, MAX_PIXELS or MAX_FILE_BYTES.
    """
    with _pillow_errors(data, name):
        image = _header(data, name)
        if image.format == "TIFF":
            _seek_page(image, name, 1)
        _check_size(image, name)
        return image.height, image.width


def pages(data: bytes, name: str) -> int:
    """Count the pages of a multi-page TIFF, previews left out; every other picture file has 1.

    Raises:
        BadImage: not a picture, or more than MAX_PAGES pages.
    """
    with _pillow_errors(data, name):
        image = _header(data, name)
        return sum(1 for _ in _frames(image, name)) if image.format == "TIFF" else 1


def page(data: bytes, name: str, number: int) -> bytes:
    """Give one page of a multi-page TIFF as a PNG file of its own, upright, without loss.

    Grey keeps its 16 bits; colour is kept with 8 bits per channel, CMYK becomes RGB.

    Args:
        number: of the page, from 1 to `pages`.
    Raises:
        BadImage: as `open_picture` for that page, or there is no such page.
    """
    image = _decoded(data, name, number, False)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"):
        image = image.convert("RGB")
    elif image.mode == "I":
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


class _Silence:
    """Silences warnings of the process while any of its threads is inside.

    `catch_warnings` is not made for threads: each would put back what it found, which may be another's silence.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._warnings.__exit__(None, None, None)


_silence = _Silence()


class _pillow_errors:  # noqa: N801 - used like a function
    """Turns what Pillow raises into BadImage, and silences what it only warns of."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name = data, name

    def __enter__(self) -> None:
        _silence.__enter__()  # of sizes that we refuse anyway, and of broken tags beside the pixels

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _silence.__exit__()
        # Pillow's readers raise nearly anything on damaged files, and each version something else.
        if not isinstance(error, Exception) or isinstance(error, BadImage | MemoryError):
            return
        raise BadImage(_reason(error, self._data, self._name)) from error


def _reason(error: Exception, data: bytes, name: str) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"File {name!r} ({len(data):,} bytes) is not a picture that can be read{_what_it_is(data)}"
    if isinstance(error, Image.DecompressionBombError):
        found = re.search(r"\d+", str(error))  # Pillow tells how many in its message alone
        many = f"{int(found[0]):,} pixels" if found else "too many pixels"
        return f"Image {name!r} has {many}; at most {MAX_PIXELS:,} pixels are read. Cut or shrink it."
    if "MAX_TEXT" in str(error):  # Pillow names its limit in the message alone
        return (
            f"Image {name!r} carries text or a colour profile that unpacks to more than 1 MB; only pixels are "
            "wanted. Save it without."
        )
    return f"Image {name!r} can't be decoded ({error}); the file is damaged. Save it anew."


def _what_it_is(data: bytes) -> str:
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        return ": it is an SVG drawing, which has no pixels. Export it as PNG."
    if start.startswith((b"<!doctype html", b"<html")):
        return ": it is a web page. Download the picture itself."
    if start.startswith(b"version https://git-lfs"):
        return ": it only points to a picture kept in Git LFS. Run `git lfs pull` first."
    if data[4:8] == b"ftyp":
        return ": it is an HEIC photo or a video. Export it as PNG or JPEG."
    if start.startswith(b"%pdf"):
        return ": it is a PDF. Export its pictures as PNG."
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in start):
        return ": it holds text. Leave it out."
    return " (PNG, JPEG, TIFF, BMP, WebP and a few more are). Save it as PNG or JPEG."


def _header(data: bytes, name: str) -> Image.Image:
    if not data:
        raise BadImage(f"File {name!r} is empty (0 bytes). Copy it anew.")
    if len(data) > MAX_FILE_BYTES:
        raise BadImage(
            f"File {name!r} has {len(data):,} bytes; at most {MAX_FILE_BYTES:,} are read. Cut or shrink the "
            "picture."
        )
    Image.init()
    return Image.open(io.BytesIO(data), formats=[known for known in FORMATS if known in Image.OPEN])


def _decoded(data: bytes, name: str, number: int, floats: bool) -> Image.Image:
    with _pillow_errors(data, name):
        image = _header(data, name)
        if image.format == "TIFF":
            _seek_page(image, name, number)
        elif number != 1:
            raise BadImage(f"Image {name!r} has 1 page; page {number} was asked for. Ask for page 1.")
        _check_size(image, name)
        _check_still(image, name)
        inverted = _is_inverted(image)
        image.load()
        _check_values(image, name, floats)
        if inverted:
            image = Image.fromarray(_SIXTEEN_BITS - np.asarray(image))
        ImageOps.exif_transpose(image, in_place=True)
        return image


def _frames(image: Image.Image, name: str) -> Iterator[int]:
    """Walk over a TIFF's pages that are no previews; yields their frame numbers."""
    for frame in range(MAX_PAGES + 1):
        try:
            image.seek(frame)
        except EOFError:
            return
        if frame == MAX_PAGES:
            raise BadImage(
                f"Image {name!r} has more than {MAX_PAGES:,} pages, the most that are read. Split it."
            )
        if not _tag(image, _NEW_SUBFILE_TYPE) & _REDUCED_IMAGE:
            yield frame


def _seek_page(image: Image.Image, name: str, number: int) -> None:
    """Leave a TIFF at one of its pages."""
    found = len(list(islice(_frames(image, name), number)))
    if not found:
        # Camera raw files are TIFFs whose only plain page is a small preview.
        raise BadImage(f"Image {name!r} holds a preview only, as camera raw files do. Export it as PNG.")
    if found < number:
        raise BadImage(
            f"Image {name!r} has {found} pages; page {number} was asked for. Ask for 1 to {found}."
        )
    tile_pixels = _tag(image, _TILE_WIDTH) * _tag(image, _TILE_LENGTH)
    if tile_pixels > MAX_PIXELS:  # a small page cut into huge tiles makes libtiff allocate them
        raise BadImage(
            f"Image {name!r} is cut into tiles of {tile_pixels:,} pixels; at most {MAX_PIXELS:,} are read. "
            "Save it anew."
        )


def _tag(image: Image.Image, number: int) -> int:
    value = getattr(image, "tag_v2", {}).get(number, 0)
    return value if isinstance(value, int) else 0


def _is_inverted(image: Image.Image) -> bool:
    # Pillow inverts such TIFFs of 1 to 8 bits, but not those of 16.
    return (
        image.format == "TIFF"
        and image.mode.startswith("I;16")
        and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    )


def _check_size(image: Image.Image, name: str) -> None:
    if min(image.size) < MIN_SIDE:
        raise BadImage(
            f"Image {name!r} is {image.width}×{image.height} px; the shorter side must be at least "
            f"{MIN_SIDE} px. Leave it out or take it at a higher resolution."
        )
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(
            f"Image {name!r} is {image.width}×{image.height} px; at most {MAX_PIXELS:,} pixels are read. "
            "Cut or shrink it."
        )


def _check_still(image: Image.Image, name: str) -> None:
    # Not a TIFF, whose pages are counted apart, nor a JPEG whose further pictures are previews (MPO).
    if image.format in ("TIFF", "MPO") or not getattr(image, "is_animated", False):
        return
    raise BadImage(
        f"Image {name!r} has {getattr(image, 'n_frames', 2)} frames; a picture is one. Export the frames as PNG."
    )


def _check_values(image: Image.Image, name: str, floats: bool) -> None:
    if image.mode == "F" and not floats:
        broken = int((~np.isfinite(np.asarray(image))).sum())
        which = f", {broken:,} of them not finite (NaN or Inf)" if broken else ""
        raise BadImage(
            f"Image {name!r} holds floating-point numbers without a known range{which}. Save it with 8 or 16 "
            "bits."
        )
    if image.mode == "I":
        values: npt.NDArray[np.int32] = np.asarray(image)
        least, most = int(values.min()), int(values.max())
        if least < 0 or most > _SIXTEEN_BITS:
            raise BadImage(
                f"Image {name!r} holds values from {least:,} to {most:,}; 0 to {_SIXTEEN_BITS:,} are read. Save "
                "it with 8 or 16 bits."
            )
