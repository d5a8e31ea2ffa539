"""Files to pixels, and pixels to the tensor that a backbone takes."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from engine.errors import BadImage
from engine.geometry import on_canvas
from engine.masks import decode_mask
from engine.picture_files import MAX_FILE_BYTES, MAX_PIXELS, MIN_SIDE, open_picture, page, pages, picture_size

if TYPE_CHECKING:
    import torch

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "MIN_SIDE",
    "PREPROCESSING",
    "RGB",
    "Picture",
    "decode",
    "decode_mask",
    "page",
    "pages",
    "picture_size",
    "pixel_digest",
    "preprocess",
    "read_picture",
    "thumbnail",
]

PREPROCESSING = "bilinear-1"  # part of the feature cache's key: change it whenever `preprocess` changes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

RGB = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A decoded picture, and what its eight bits no longer tell of the file."""

    image: RGB  # (H, W, 3) uint8, upright
    raw_peak: float | None  # largest value as a share of 65535, of 16-bit grey; 12-bit cameras reach 0.06
    transparent_share: float  # of the pixels; what was below full opacity is now mixed with white


def decode(data: bytes, name: str) -> RGB:
    """Decode a picture file to upright 8-bit RGB.

    The camera's rotation is applied, grey becomes three equal channels, 16 bits are scaled to 8 (65535 to
    255), transparency is laid on white, and of a TIFF with several pages the first is taken (see `pages`).

    Args:
        data: the bytes of a file in one of `engine.picture_files.FORMATS`.
        name: how messages call it.
    Returns:
        (H, W, 3) uint8.
    Raises:
        BadImage: empty, not a picture, damaged, animated, of floating-point numbers or of more than 16 bits,
            or beyond MIN_SIDE, MAX_PIXELS or MAX_FILE_BYTES.
    """
    return read_picture(data, name).image


def read_picture(data: bytes, name: str) -> Picture:
    """Decode like `decode`, and say what was lost on the way to eight bits.

    Raises:
        BadImage: as `decode`.
    """
    image = open_picture(data, name)
    if image.mode == "I" or image.mode.startswith("I;16"):
        # A fixed scale, never the picture's own range: brightness must mean the same in every picture.
        values = np.asarray(image).astype(np.uint32)
        return Picture(
            image=_three_channels(((values + 128) // 257).astype(np.uint8)),
            raw_peak=int(values.max()) / 65_535,
            transparent_share=0.0,
        )
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return Picture(
            image=_three_channels(np.asarray(image.convert("L"))), raw_peak=None, transparent_share=0.0
        )
    transparent_share = 0.0
    if image.has_transparency_data:
        image = image.convert("RGBA")
        transparent_share = 1 - image.getchannel("A").histogram()[255] / (image.width * image.height)
        if transparent_share:
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
    try:
        pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:
        raise BadImage(
            f"Image {name!r} has colours of the kind {image.mode!r}, which aren't read. Save it as RGB."
        ) from error
    return Picture(image=pixels, raw_peak=None, transparent_share=transparent_share)


def pixel_digest(image: RGB) -> str:
    """Give the SHA-256, in hex, of a picture's size and pixels, which no file format or name changes."""
    digest = hashlib.sha256(",".join(str(side) for side in image.shape).encode() + b":")
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def thumbnail(image: RGB, side: int = 192) -> bytes:
    """Shrink a picture for display; a smaller one keeps its size.

    Args:
        image: (H, W, 3) uint8.
        side: the longer side of the result, at most, pixels.
    Returns:
        The bytes of a JPEG file.
    """
    small = Image.fromarray(image)
    small.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return file.getvalue()


def preprocess(
    images: Sequence[RGB],
    height: int,
    width: int,
    *,
    resize: str = "squash",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    device: "torch.device | str" = "cpu",
) -> "torch.Tensor":
    """Lay pictures on the network's canvas (bilinear, antialiased) and normalise their channels.

    Args:
        images: (H, W, 3) uint8 each.
        resize: one of `engine.geometry.RESIZES`.
        mean, std: of the backbone's pretraining, for values between 0 and 1.
        device: where they are normalised; bytes travel there, a quarter of the numbers.
    Returns:
        (B, 3, height, width) float32 on the device, channels last in memory, as decoded pictures have them.
    """
    import torch  # only here: a page that shows pictures need not wait seconds for it

    scale = 1 / (255 * torch.tensor(std))
    shift = torch.tensor(mean) / torch.tensor(std)
    laid = np.stack([on_canvas(image, (height, width), resize) for image in images])
    pixels = torch.from_numpy(laid).to(device).float()
    return pixels.mul_(scale.to(device)).sub_(shift.to(device)).permute(0, 3, 1, 2)


def _three_channels(grey: npt.NDArray[np.uint8]) -> RGB:
    pixels = np.empty((*grey.shape, 3), np.uint8)
    for channel in range(3):  # half the time of numpy's repeat
        pixels[..., channel] = grey
    return pixels
