"""What a camera adds: light from somewhere, contrast, blur, few pixels, noise, JPEG; and grey for a part."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from training.drawing.fields import grid, log_uniform, smooth, turned


def finish(picture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Photograph a drawn picture: (size, size, 3) of about 0..1 to uint8."""
    size = picture.shape[0]
    if rng.random() < 0.5:
        picture = picture * _light(rng, size)[..., None]
    if rng.random() < 0.5:
        middle = picture.mean()
        picture = (picture - middle) * rng.uniform(0.3, 1.5) + middle + rng.normal(0, 0.1)
    if rng.random() < 0.3:
        picture = np.clip(picture, 0, 1) ** np.float32(log_uniform(rng, 0.5, 2))
    if rng.random() < 0.25:
        picture = picture.mean(-1, keepdims=True).repeat(3, -1)
    if rng.random() < 0.3:
        width = log_uniform(rng, 0.4, 4)
        picture = ndimage.gaussian_filter(picture, (width, width, 0))
    if rng.random() < 0.3:
        picture = picture * rng.normal(1, 0.08, 3).astype(np.float32)
    levels = np.clip(picture * 255, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:  # few pixels, blown up
        few = int(log_uniform(rng, 24, size))
        ways = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
        small = Image.fromarray(levels).resize((few, few), Image.Resampling.BOX)
        levels = np.asarray(small.resize((size, size), ways[rng.integers(3)]))
    if rng.random() < 0.4:
        noise = rng.standard_normal((size, size, 1 if rng.random() < 0.5 else 3), dtype=np.float32)
        if rng.random() < 0.3:
            noise = ndimage.gaussian_filter(noise, (1, 1, 0)) * 2
        levels = np.clip(levels + noise * log_uniform(rng, 1, 25), 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, "JPEG", quality=int(rng.integers(15, 96)))
        levels = np.asarray(Image.open(buffer))
    return np.ascontiguousarray(levels)


def _light(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    kind = rng.integers(3)
    if kind == 0:  # brighter on one side
        along, _ = turned(size, rng.uniform(0, 2 * np.pi))
        return np.asarray(1 + rng.uniform(0.1, 0.5) * along, np.float32)
    if kind == 1:  # a lamp's pool, or a vignette
        rows, columns = grid(size)
        middle = rng.uniform(-0.8, 0.8, 2)
        distance = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2
        return np.asarray(
            0.5 + rng.uniform(0.3, 1) * np.exp(-distance / log_uniform(rng, 0.3, 3)), np.float32
        )
    return np.asarray(1 + 0.25 * smooth(rng, size, rng.uniform(0.2, 0.8)), np.float32)
