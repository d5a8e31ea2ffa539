"""Grey fields: noise with a chosen spectrum, its warps and thresholds; what every family is made of.

A field is a (size, size) float32 array; `unit` brings one to 0..1.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Field = NDArray[np.float32]


@cache
def grid(size: int) -> tuple[Field, Field]:
    """Rows and columns, both (size, size), from -1 to 1."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    return rows, columns


@cache
def _frequencies(size: int) -> tuple[Field, Field]:
    rows = np.fft.fftfreq(size).astype(np.float32)[:, None] * size
    columns = np.fft.rfftfreq(size).astype(np.float32)[None, :] * size
    return rows, columns


def unit(field: Field) -> Field:
    """Stretch a field to 0..1, its extreme hundredths clipped."""
    low, high = np.quantile(field[::3, ::3], (0.01, 0.99))
    return np.clip((field - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def spectral(
    rng: np.random.Generator,
    size: int,
    *,
    fall: float,
    stretch: float = 1.0,
    angle: float = 0.0,
    lowest: float = 1.0,
) -> Field:
    """Noise whose amplitude falls as frequency to the power of -`fall`, deviation 1.

    Args:
        fall: 0 is white, 1 is like many photographs, 2 is a cloud.
        stretch: how much longer than wide its marks are, along `angle` (radians).
        lowest: frequencies below (in cycles per picture) are flattened.
    """
    rows, columns = _frequencies(size)
    along = (rows * np.sin(angle) + columns * np.cos(angle)) * stretch
    across = columns * np.sin(angle) - rows * np.cos(angle)
    radius = np.sqrt(along * along + across * across)
    amplitude = np.maximum(radius, lowest) ** -fall
    amplitude[0, 0] = 0
    spectrum = fft.rfft2(rng.standard_normal((size, size), dtype=np.float32)) * amplitude
    field = fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    return np.asarray(field / (field.std() + 1e-9), np.float32)


def smooth(rng: np.random.Generator, size: int, scale: float) -> Field:
    """A slow field of deviation about 1 with bumps of about `scale` of the picture's side."""
    knots = int(np.clip(round(1 / scale) + 3, 4, 40))
    coarse = rng.standard_normal((knots, knots)).astype(np.float32)
    wide = ndimage.zoom(coarse, size / (knots - 2) + 0.01, order=3)
    return np.asarray(wide[:size, :size], np.float32)


def warp(field: Field, rng: np.random.Generator, amount: float, scale: float = 0.3) -> Field:
    """Push a field's positions about by `amount` of the picture's side, over distances of `scale`."""
    size = field.shape[0]
    rows, columns = np.indices(field.shape, dtype=np.float32)
    rows = rows + amount * size * smooth(rng, size, scale)
    columns = columns + amount * size * smooth(rng, size, scale)
    return np.asarray(ndimage.map_coordinates(field, [rows, columns], order=1, mode="reflect"), np.float32)


def turned(size: int, angle: float) -> tuple[Field, Field]:
    """Coordinates along and across a direction, (size, size) each, -1.4 to 1.4."""
    rows, columns = grid(size)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    return along.astype(np.float32), across.astype(np.float32)


def relief(height: Field, rng: np.random.Generator, steepness: float) -> Field:
    """Light a height field from a random side: Lambert's law and a highlight."""
    down, right = np.gradient(height * steepness * height.shape[0] / 40)
    turn, lift = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.2)
    light = np.array([np.cos(turn) * np.cos(lift), np.sin(turn) * np.cos(lift), np.sin(lift)])
    facing = (light[2] - right * light[0] - down * light[1]) / np.sqrt(1 + right**2 + down**2)
    shine = rng.uniform(0, 0.7) * np.clip(facing, 0, 1) ** log_uniform(rng, 4, 60)
    return np.asarray(np.clip(0.15 + 0.75 * np.clip(facing, 0, 1) + shine, 0, 1.3), np.float32)
