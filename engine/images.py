"""Files to pixels, and pixels to the tensor that a backbone takes."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.errors import BadImage
from engine.geometry import on_canvas

if TYPE_CHECKING:
    import torch

MIN_SIDE = 32  # pixels; a smaller picture has no position left at stride 32
MAX_PIXELS = 64_000_000  # about 200 MB decoded; larger pictures are cut into parts before they come here
PREPROCESSING = "bilinear-1"  # part of the feature cache's key: change it whenever `preprocess` changes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

RGB = npt.NDArray[np.uint8]


def decode(data: bytes, name: str) -> RGB:
    """Decode a picture file to upright 8-bit RGB.

    The camera's rotation is applied, grey becomes three equal channels, 16 bits are scaled to 8 (65535 to
    255), transparency is laid on white, and of several frames the first is taken.

    Args:
        data: the bytes of a file in any format that Pillow reads.
        name: how messages call it.
    Returns:
        (H, W, 3) uint8.
    Raises:
        BadImage: not a picture, damaged, of floating-point numbers, or beyond MIN_SIDE or MAX_PIXELS.
    """
    return np.array(_to_rgb(_open(data, name), name))


def decode_mask(data: bytes, name: str) -> npt.NDArray[np.bool_]:
    """Decode a ground-truth mask; any visible value above 0 in any channel is a defect.

    Returns:
        (H, W) bool, upright.
    Raises:
        BadImage: as `decode`.
    """
    mask = _open(data, name)
    if mask.mode in ("1", "L", "I", "F") or mask.mode.startswith("I;16"):
        return np.asarray(mask) > 0
    colours = np.asarray(mask.convert("RGBA"))
    visible: npt.NDArray[np.bool_] = (colours[..., :3].max(axis=-1) > 0) & (colours[..., 3] > 0)
    return visible


def pixel_digest(image: RGB) -> str:
    """Give the SHA-256, in hex, of a picture's size and pixels, which no file format or name changes."""
    size = ",".join(str(side) for side in image.shape).encode()
    return hashlib.sha256(size + b":" + np.ascontiguousarray(image).tobytes()).hexdigest()


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


def _open(data: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow only warns of sizes that we refuse anyway.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        _check_size(image, name)
        image.load()
        return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise BadImage(
            f"File {name!r} ({len(data)} bytes) is not a picture of a known format. Save it as PNG or JPEG."
        ) from error
    except Image.DecompressionBombError as error:
        raise BadImage(
            f"Image {name!r} is too large ({error}); at most {MAX_PIXELS:,} pixels are read. Cut or shrink "
            "it."
        ) from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
    ) as error:  # what Pillow's decoders raise on damaged files
        raise BadImage(
            f"Image {name!r} can't be decoded ({error}); the file is damaged. Save it anew."
        ) from error


def _check_size(image: Image.Image, name: str) -> None:
    if min(image.size) < MIN_SIDE:
        raise BadImage(
            f"Image {name!r} is {image.width}×{image.height} px; the shorter side must be at least "
            f"{MIN_SIDE} px. "
            "Leave it out or take it at a higher resolution."
        )
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(
            f"Image {name!r} is {image.width}×{image.height} px; at most {MAX_PIXELS:,} pixels are read. "
            "Cut or shrink it."
        )


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise BadImage(
            f"Image {name!r} holds floating-point numbers without a known range. Save it with 8 or 16 bits."
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        # A fixed scale, never the picture's own range: brightness must mean the same in every picture.
        values = np.asarray(image).astype(np.float32).clip(0, 65535)
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")
