"""Pictures made small enough to be shown on a screen, with their masks."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 2048  # pixels of the longer side; a screen shows no more of a whole picture

Pixels = NDArray[np.uint8]


def shrunk(pixels: Pixels, side: int = SIDE) -> Pixels:
    """A picture (H, W, 3) whose longer side is at most `side` pixels; itself where it is so already."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))


def shrunk_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """A mask (H, W) on a picture that was made smaller, (height, width): what marks a part of a pixel marks it all.

    So that the smallest defect stays in sight.
    """
    if mask.shape == (height, width):
        return mask
    shares = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(shares) > 0
