"""Defects of the demo dataset's plates: each alters a surface, and says where.

A severity of 1 is plain to see, 0 is about as much as the normal variation among plates hides.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.plates import (
    COUNTERSINK_RADIUS,
    HOLES,
    UNITS,
    FloatArray,
    Plate,
    Surface,
    build_surface,
    photograph,
    smooth_noise,
)

DEFECT_TYPES = ("scratch", "dent", "stain", "missing_hole")

Footprint = NDArray[np.bool_]


def photograph_defective(
    plate: Plate, size: int, defect_type: str, *, severity: float, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Take the picture of a plate with one defect.

    Args:
        size: height and width of the picture, pixels.
        defect_type: one of `DEFECT_TYPES`.
        severity: from 0 (barely visible) to 1 (plain).
    Returns:
        (size, size, 3) uint8 RGB, and its (size, size) mask: outside it the picture is, to the bit, that of
        the plate without the defect.
    Raises:
        ValueError: no such defect type.
    """
    clean = build_surface(plate, size)
    surface, footprint = _apply(plate, clean, defect_type, severity, rng)
    picture = np.where(footprint[..., None], photograph(plate, surface), photograph(plate, clean))
    return picture, footprint


def _apply(
    plate: Plate, clean: Surface, defect_type: str, severity: float, rng: np.random.Generator
) -> tuple[Surface, Footprint]:
    if defect_type == "scratch":
        return _scratch(clean, severity, rng)
    if defect_type == "dent":
        return _dent(clean, severity, rng)
    if defect_type == "stain":
        return _stain(clean, severity, rng)
    if defect_type == "missing_hole":
        return _missing_hole(plate, clean, severity, rng)
    raise ValueError(f"Defect type {defect_type!r} is unknown; it must be one of {', '.join(DEFECT_TYPES)}.")


def _scratch(clean: Surface, severity: float, rng: np.random.Generator) -> tuple[Surface, Footprint]:
    """A groove along a bent line, deepest in its middle; the less severe, the nearer the brushing."""
    pixel = UNITS / clean.u.shape[0]
    length = rng.uniform(26, 46) + 50 * severity
    angle = rng.choice([-1, 1]) * np.radians(rng.uniform(8, 25) + 45 * severity * rng.uniform(0, 1))
    middle = rng.uniform(-55, 55), rng.uniform(-50, 50)
    distance, travel = _distance_to_arc(clean, middle, angle, length, bend=rng.normal(0, 0.09))
    width = max(0.7 + 0.7 * severity, 0.75 * pixel)
    taper = np.clip(1 - np.abs(2 * travel / length) ** 3, 0, 1)
    groove = taper * np.exp(-((distance / width) ** 2))
    footprint = (groove > 0.12) & (clean.coverage == 1)
    strength = 0.18 + 0.40 * severity
    # A burr: one lip of the groove shines.
    lip = taper * np.exp(-(((distance - 1.2 * width) / width) ** 2))
    tint = clean.tint * (1 - strength * groove + 0.5 * strength * lip)[..., None]
    return replace(clean, tint=tint, height=clean.height - 0.5 * strength * groove), footprint


def _distance_to_arc(
    clean: Surface, middle: tuple[float, float], angle: float, length: float, bend: float
) -> tuple[FloatArray, FloatArray]:
    """Signed distance to a parabola through `middle`, and the way along it from there, units."""
    u, v = clean.u - middle[0], clean.v - middle[1]
    travel = np.cos(angle) * u + np.sin(angle) * v
    offset = np.cos(angle) * v - np.sin(angle) * u
    return offset - bend * length * (2 * travel / length) ** 2, travel


def _dent(clean: Surface, severity: float, rng: np.random.Generator) -> tuple[Surface, Footprint]:
    """An uneven hollow without a change of colour: only its slopes show it."""
    radius = rng.uniform(7, 10) + 4 * severity
    stretch, turn = rng.uniform(0.7, 1.4), rng.uniform(0, np.pi)
    u, v = clean.u - rng.uniform(-80, 80), clean.v - rng.uniform(-58, 58)
    along, across = np.cos(turn) * u + np.sin(turn) * v, np.cos(turn) * v - np.sin(turn) * u
    wobble = 1 + 0.12 * smooth_noise(rng, clean.u.shape[0], 9)
    reach = ((along / stretch) ** 2 + (across * stretch) ** 2) * wobble / radius**2
    hollow = np.exp(-(reach**1.3))
    depth = (0.10 + 0.22 * severity) * radius
    footprint = (hollow > 0.05) & (clean.coverage == 1)
    return replace(clean, height=clean.height - depth * hollow), footprint


def _stain(clean: Surface, severity: float, rng: np.random.Generator) -> tuple[Surface, Footprint]:
    """A dried puddle: a faint tinge with a darker rim and a ragged outline."""
    radius = rng.uniform(10, 15) + 6 * severity
    u, v = clean.u - rng.uniform(-72, 72), clean.v - rng.uniform(-55, 55)
    ragged = 0.22 * smooth_noise(rng, clean.u.shape[0], 6) + 0.05 * smooth_noise(rng, clean.u.shape[0], 2)
    depth = (
        1 - np.hypot(u * rng.uniform(0.8, 1.2), v) / radius + ragged * np.exp(-np.hypot(u, v) / (2 * radius))
    )
    inside = np.clip(depth / 0.18, 0, 1)
    rim = inside * np.exp(-((depth - 0.16) ** 2) / 0.02)
    strength = (0.065 + 0.18 * severity) * (0.7 * inside + 0.6 * rim)
    colour = np.array([0.45, 0.85, 1.4]) if rng.random() < 0.6 else np.array([1.2, 0.8, 0.5])
    footprint = _largest_piece((inside > 0.15) & (clean.coverage == 1))
    return replace(clean, tint=clean.tint * (1 - strength[..., None] * colour)), footprint


def _largest_piece(mask: Footprint) -> Footprint:
    pieces, _ = ndimage.label(mask)
    areas = np.bincount(pieces.ravel())
    areas[0] = 0
    return np.asarray((pieces == areas.argmax()) & mask)


def _missing_hole(
    plate: Plate, clean: Surface, severity: float, rng: np.random.Generator
) -> tuple[Surface, Footprint]:
    """A hole never drilled; with less severity it was begun, but not bored through."""
    hole = int(rng.integers(len(HOLES)))
    blank = build_surface(plate, clean.u.shape[0], missing_hole=hole)
    radius = np.hypot(clean.u - HOLES[hole][0], clean.v - HOLES[hole][1])
    footprint = radius < COUNTERSINK_RADIUS + 1.5
    if severity >= 0.5:
        return blank, footprint
    bored = replace(
        clean,
        height=0.5 * clean.height + 0.5 * blank.height,
        tint=np.maximum(clean.tint, (0.5 + 0.4 * severity) * blank.tint),
    )
    return bored, footprint
