"""What a look at the pictures tells before any training: light, sharpness, copies and odd ones out."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import uniform_filter

from engine.images import RGB

DARK, BRIGHT = 2, 253  # luma at or beyond which a pixel holds no detail any more
SIGNATURE_SIDE = 64  # pixels
_ALIKE = 0.9  # cosine; copies reach 0.95 and more, other pictures hardly 0.5
_ENOUGH_FOR_A_MEAN = 8  # pictures; of fewer, the mean is too much one of them
_EMPTY = 64.0  # norm of a detail that is nothing but rounding: one grey level in every pixel
_BLOCK = 512  # rows compared at once
_SHARPNESS_SIDE = 512  # pixels; a common size makes sharpness comparable, and noise of single pixels small


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Numbers about one picture, made from its luma."""

    brightness: float  # mean, 0…1
    contrast: float  # standard deviation, 0…0.5
    dark_share: float  # of the pixels at DARK or below
    bright_share: float  # of the pixels at BRIGHT or above
    sharpness: float  # variance of the Laplacian, grey levels squared
    signature: bytes  # the picture squashed to 64 × 64 uint8, for `near_duplicates`


def measure(image: RGB) -> Measures:
    """Measure a picture.

    Args:
        image: (H, W, 3) uint8.
    """
    luma = Image.fromarray(image).convert("L")
    shares = np.array(luma.histogram()) / (luma.width * luma.height)
    levels = np.arange(256) / 255
    brightness = float(shares @ levels)
    small = _shrunk(luma, _SHARPNESS_SIDE)
    signature = small.resize((SIGNATURE_SIDE, SIGNATURE_SIDE), Image.Resampling.BOX)
    return Measures(
        brightness=brightness,
        contrast=float(shares @ (levels - brightness) ** 2) ** 0.5,
        dark_share=float(shares[: DARK + 1].sum()),
        bright_share=float(shares[BRIGHT:].sum()),
        sharpness=_laplacian_variance(np.asarray(small)),
        signature=signature.tobytes(),
    )


def outliers(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Say how far each value lies from the others, by median and median absolute deviation.

    Args:
        values: (N,).
    Returns:
        (N,) robust z-scores: comparable to standard deviations where the values are normal, infinite (with
        sign) for a value off the median where more than half of the values are the same.
    """
    if not len(values):
        return np.zeros(0)
    off = values - np.median(values)
    spread = 1.4826 * np.median(np.abs(off))  # 1.4826: what makes it the standard deviation of normal values
    if spread == 0:
        return np.where(off == 0, 0.0, np.copysign(np.inf, off))
    return np.asarray(off / spread)


def _shrunk(luma: Image.Image, side: int) -> Image.Image:
    longer = max(luma.size)
    if longer <= side:
        return luma
    reduced = luma.reduce(longer // side)  # whole factors are fast
    scale = side / max(reduced.size)
    size = (max(1, round(reduced.width * scale)), max(1, round(reduced.height * scale)))
    return reduced if size == reduced.size else reduced.resize(size, Image.Resampling.BOX)


def _laplacian_variance(luma: npt.NDArray[np.uint8]) -> float:
    values = luma.astype(np.int16)
    middle = values[1:-1, 1:-1]
    curvature = 4 * middle - values[:-2, 1:-1] - values[2:, 1:-1] - values[1:-1, :-2] - values[1:-1, 2:]
    return float(curvature.astype(np.float32).var())


def near_duplicates(signatures: npt.NDArray[np.uint8]) -> list[tuple[int, int, float]]:
    """Find pictures that show the same photograph: saved anew, resized, a little brighter.

    Pictures of one product, taken alike, look all the same; so what is common to all is taken away first, then all that
    is smooth, and the detail that is left is compared: two parts never share their texture and noise.

    Memory is that of `signatures` in float32, twice, however many of them are alike.

    Args:
        signatures: (N, 64, 64) of `measure`; what is told of a copy is the first picture it is like, so the ones that
            should stay come first.
    Returns:
        (first, second, likeness) once for each picture that is like one before it: the first such, first < second,
        likeness between _ALIKE and 1; ordered by second.
    """
    if len(signatures) < 2:
        return []
    detail = signatures.astype(np.float32)
    if len(signatures) >= _ENOUGH_FOR_A_MEAN:
        detail -= detail.mean(axis=0)
    detail -= uniform_filter(detail, size=(0, 7, 7), mode="nearest")
    flat = detail.reshape(len(detail), -1)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    flat /= np.where(norms > _EMPTY, norms, np.inf)  # a detail that is only rounding is like nothing
    found = []
    for start in range(0, len(flat), _BLOCK):
        likeness = flat[start : start + _BLOCK] @ flat[: start + _BLOCK].T
        for row, values in enumerate(likeness):
            before = values[: start + row]
            if len(before) and before.max() > _ALIKE:
                first = int(np.argmax(before > _ALIKE))
                found.append((first, start + row, float(before[first])))
    return found
