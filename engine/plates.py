"""Brushed-metal plates as the demo dataset's camera sees them: a height map and a tint, then light over both.

Lengths are in units of 1/256 of the picture, so that a plate looks alike at every size. A plate's frame has
its origin in the plate's middle, u to the right along the brushing and v downwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float64]

UNITS = 256.0
HALF_WIDTH, HALF_HEIGHT, CORNER_RADIUS = 109.0, 96.0, 15.0
HOLES = ((-88.0, -75.0), (88.0, -75.0), (-88.0, 75.0), (88.0, 75.0))
HOLE_RADIUS, COUNTERSINK_RADIUS = 6.5, 11.5
MARK = (-30.0, -14.0)
SERIAL_START, DOT_PITCH = (12.0, 44.0), 2.6

# 3x5 dot-peened digits, a row of bits per row of dots.
_DIGITS = (
    "111101101101111", "010110010010111", "111001111100111", "111001111001111", "101101111001001",
    "111100111001111", "111100111101111", "111001010010010", "111101111101111", "111101111001111",
)  # fmt: skip

_METAL = np.array([0.93, 0.95, 0.99])
_WARM = np.array([1.0, 0.86, 0.66])
_COOL = np.array([0.62, 0.82, 1.0])
_BENCH = np.array([0.105, 0.120, 0.150])


@dataclass(frozen=True, kw_only=True)
class Plate:
    """What differs from one normal plate, and from one exposure, to the next."""

    shift: tuple[float, float]  # of the plate's middle from the picture's, units
    angle: float  # of the plate, radians
    brush_angle: float  # of the brushing within the plate, radians
    brush_strength: float  # standard deviation of the streaks' brightness, relative
    exposure: float  # brightness of the whole picture, relative
    warmth: float  # -1 (cool) to 1 (warm) light
    light: tuple[float, float, float]  # direction towards the lamp: right, down, out of the plate
    sheen_centre: float  # of the highlight's band, across the brushing, units
    sheen_width: float  # units
    serial: str  # six digits
    specks: tuple[tuple[float, float, float, float], ...]  # dust, normal: u, v, radius, darkness
    texture_seed: int


@dataclass(frozen=True, kw_only=True)
class Surface:
    """A plate before the light falls on it; every array covers the picture's pixels."""

    u: FloatArray  # (size, size) plate frame, units
    v: FloatArray  # (size, size) plate frame, units
    coverage: FloatArray  # (size, size) 1 on the plate, 0 beside it
    height: FloatArray  # (size, size) units, 0 on the flat
    tint: FloatArray  # (size, size, 3) share of the light given back
    streaks: FloatArray  # (size, size) the brushing, mean 0, deviation 1


def sample_plate(rng: np.random.Generator) -> Plate:
    """Draw one normal plate: its pose, its brushing, its light, its serial number and its dust.

    Every range has an end: one plate far outside the others would set the threshold for all of them.
    """
    lamp = rng.uniform(-1.3, -0.7), rng.uniform(-1.5, -0.9), 1.6
    length = float(np.linalg.norm(lamp))
    specks = tuple(
        (rng.uniform(-100, 100), rng.uniform(-88, 88), rng.uniform(0.5, 1.2), rng.uniform(0.1, 0.5))
        for _ in range(rng.integers(1, 8))
    )
    return Plate(
        shift=(rng.uniform(-2.2, 2.2), rng.uniform(-2.2, 2.2)),
        angle=np.radians(rng.uniform(-1.2, 1.2)),
        brush_angle=np.radians(rng.uniform(-2, 2)),
        brush_strength=rng.uniform(0.035, 0.075),
        exposure=rng.uniform(0.9, 1.1),
        warmth=rng.uniform(-0.8, 0.8),
        light=(lamp[0] / length, lamp[1] / length, lamp[2] / length),
        sheen_centre=rng.uniform(-42, 6),
        sheen_width=rng.uniform(44, 60),
        serial="".join(str(digit) for digit in rng.integers(0, 10, size=6)),
        specks=specks,
        texture_seed=int(rng.integers(2**32)),
    )


def build_surface(plate: Plate, size: int, *, missing_hole: int | None = None) -> Surface:
    """Give the plate its shape: edge, holes, engraved mark, serial number, dust.

    Args:
        size: height and width of the picture, pixels.
        missing_hole: index into `HOLES` of the one that was never drilled.
    """
    u, v = _frame(plate, size)
    edge = rounded_box(u, v, HALF_WIDTH, HALF_HEIGHT, CORNER_RADIUS)
    pixel = UNITS / size
    height = -2.0 * _smoothstep(-4.5, 0.0, edge)
    tint = np.broadcast_to(_METAL, (size, size, 3)).copy()
    for index, (hole_u, hole_v) in enumerate(HOLES):
        if index != missing_hole:
            _drill(height, tint, np.hypot(u - hole_u, v - hole_v), pixel)
    _engrave(height, tint, _mark(u, v), pixel)
    _peen(height, tint, u, v, plate.serial, pixel)
    for speck_u, speck_v, radius, darkness in plate.specks:
        dust = np.exp(-(((u - speck_u) ** 2 + (v - speck_v) ** 2) / radius**2))
        tint *= 1 - darkness * dust[..., None]
    return Surface(
        u=u,
        v=v,
        coverage=np.clip(0.5 - edge / pixel, 0, 1),
        height=height,
        tint=tint,
        streaks=_brushing(plate, u, v, size),
    )


def photograph(plate: Plate, surface: Surface) -> NDArray[np.uint8]:
    """Light the surface and take its picture.

    Returns:
        (size, size, 3) uint8 RGB. Two surfaces of one plate differ only where the surfaces themselves do.
    """
    size = surface.height.shape[0]
    rng = np.random.default_rng(plate.texture_seed + 1)
    metal = _light(plate, surface) * surface.tint
    bench = _bench(surface, rng)
    covered = surface.coverage[..., None]
    picture = covered * metal + (1 - covered) * bench
    axis = (np.arange(size) + 0.5) / size - 0.5
    vignette = 1 - 0.35 * (axis[:, None] ** 2 + axis[None, :] ** 2)
    tinge = 1 + 0.035 * plate.warmth * np.array([1.0, 0.1, -1.0])
    picture = picture * vignette[..., None] * tinge * plate.exposure
    levels = 255 * np.clip(picture, 0, 1) ** (1 / 1.15) + rng.normal(0, 1.1, size=(size, size, 1))
    return np.asarray(np.clip(np.rint(levels), 0, 255), dtype=np.uint8)


def rounded_box(
    u: FloatArray, v: FloatArray, half_width: float, half_height: float, radius: float
) -> FloatArray:
    """Signed distance to a box with round corners, units; negative inside."""
    du, dv = np.abs(u) - half_width + radius, np.abs(v) - half_height + radius
    outside = np.hypot(np.maximum(du, 0), np.maximum(dv, 0))
    return np.asarray(outside + np.minimum(np.maximum(du, dv), 0) - radius)


def smooth_noise(rng: np.random.Generator, size: int, grain: float) -> FloatArray:
    """(size, size) noise of mean 0 and deviation 1 whose blotches are about `grain` units wide."""
    noise = ndimage.gaussian_filter(rng.normal(size=(size, size)), grain * size / UNITS, mode="wrap")
    return np.asarray((noise - noise.mean()) / noise.std())


def _frame(plate: Plate, size: int) -> tuple[FloatArray, FloatArray]:
    axis = (np.arange(size) + 0.5) * UNITS / size - UNITS / 2
    x, y = axis[None, :] - plate.shift[0], axis[:, None] - plate.shift[1]
    cos, sin = np.cos(plate.angle), np.sin(plate.angle)
    return cos * x + sin * y, cos * y - sin * x


def _smoothstep(low: float, high: float, x: FloatArray) -> FloatArray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _drill(height: FloatArray, tint: FloatArray, radius: FloatArray, pixel: float) -> None:
    height -= 3.4 * (1 - _smoothstep(HOLE_RADIUS - 1, COUNTERSINK_RADIUS, radius))
    through = np.clip(0.5 - (radius - HOLE_RADIUS) / max(pixel, 1.2), 0, 1)[..., None]
    tint *= 1 - through * 0.9
    # A turned rim is brighter than the brushed flat.
    tint *= 1 + 0.22 * np.exp(-(((radius - COUNTERSINK_RADIUS) / 1.1) ** 2))[..., None]


def _mark(u: FloatArray, v: FloatArray) -> FloatArray:
    """Signed distance to the maker's mark (a hexagon, a ring, a rising line) and the frame line."""
    u, v = u - MARK[0], v - MARK[1]
    hexagon = np.maximum(np.abs(u) * 0.8660254 + np.abs(v) * 0.5, np.abs(v)) - 34
    ring = np.hypot(u, v) - 22
    steps = np.interp(u, (-18, -6, 3, 18), (9, -5, 5, -9))
    line = np.where(np.abs(u) < 16.5, np.abs(v - steps) * 0.72, 9.0)
    frame = rounded_box(u + MARK[0], v + MARK[1], HALF_WIDTH - 9, HALF_HEIGHT - 9, CORNER_RADIUS - 3)
    # The frame line stops short of the holes, as on a nameplate.
    corner = (np.abs(u + MARK[0]) > 66) & (np.abs(v + MARK[1]) > 53)
    frame = np.where(corner, 9.0, np.abs(frame) - 0.45)
    strokes = np.minimum(np.minimum(np.abs(hexagon) - 1.3, np.abs(ring) - 0.9), line - 1.4)
    return np.asarray(np.minimum(strokes, frame))


def _engrave(height: FloatArray, tint: FloatArray, distance: FloatArray, pixel: float) -> None:
    groove = 1 - _smoothstep(-0.6 * pixel, 0.9 * pixel, distance)
    height -= 0.75 * groove
    tint *= 1 - 0.30 * groove[..., None]


def _peen(
    height: FloatArray, tint: FloatArray, u: FloatArray, v: FloatArray, serial: str, pixel: float
) -> None:
    radius = max(1.0, 0.7 * pixel)
    rows = [np.exp(-(((v - SERIAL_START[1] - row * DOT_PITCH) / radius) ** 2)) for row in range(5)]
    pits = np.zeros_like(u)
    for position, digit in enumerate(serial):
        bits = _DIGITS[int(digit)]
        for column in range(3):
            dot_u = SERIAL_START[0] + (4.2 * position + column) * DOT_PITCH
            peened = sum((rows[row] for row in range(5) if bits[3 * row + column] == "1"), np.zeros_like(v))
            pits += np.exp(-(((u - dot_u) / radius) ** 2)) * peened
    height -= 0.5 * pits
    tint *= 1 - 0.25 * np.minimum(pits, 1)[..., None]


def _brushing(plate: Plate, u: FloatArray, v: FloatArray, size: int) -> FloatArray:
    rng = np.random.default_rng(plate.texture_seed)
    scale, side = size / UNITS, int(1.5 * size)
    canvas = np.zeros((side, side))
    for length, across, weight in ((150, 0.0, 1.0), (60, 0.45, 1.1), (24, 0.3, 0.5), (230, 2.2, 0.6)):
        noise = rng.normal(size=(side, side))
        width = max(3, int(length * scale / 2))
        noise = ndimage.uniform_filter1d(ndimage.uniform_filter1d(noise, width, axis=1), width, axis=1)
        if across:
            noise = ndimage.gaussian_filter1d(noise, max(across * scale, 0.3), axis=0)
        canvas += weight * noise / noise.std()
    cos, sin = np.cos(plate.brush_angle), np.sin(plate.brush_angle)
    along, across_brush = cos * u + sin * v, cos * v - sin * u
    where = np.stack([across_brush * scale + side / 2, along * scale + side / 2])
    streaks = ndimage.map_coordinates(canvas, where, order=1, mode="reflect")
    return np.asarray((streaks - streaks.mean()) / streaks.std())


def _light(plate: Plate, surface: Surface) -> FloatArray:
    """(size, size, 3) light given back by bare metal: a lamp, its highlight, warm and cool walls."""
    size = surface.height.shape[0]
    slope_y, slope_x = np.gradient(surface.height * size / UNITS)
    steep = np.sqrt(1 + slope_x**2 + slope_y**2)
    lamp = (plate.light[2] - slope_x * plate.light[0] - slope_y * plate.light[1]) / steep
    across = surface.v - plate.sheen_centre + 0.0012 * surface.u**2 + 0.14 * surface.u
    band = across / plate.sheen_width + 1.5 * slope_y + 0.10 * surface.streaks
    sheen = np.exp(-(band**2))
    walls = 0.5 + 0.5 * np.tanh(surface.u / 85 + surface.v / 150 - 1.2 * slope_x + 0.3 * plate.warmth)
    colour = walls[..., None] * _WARM + (1 - walls[..., None]) * _COOL
    base = (0.16 + 0.36 * np.clip(lamp, 0, 1)) * (1 + plate.brush_strength * surface.streaks)
    glow = (0.10 + 0.36 * sheen) * (1 + 1.4 * plate.brush_strength * surface.streaks)
    return np.asarray(base[..., None] * (0.6 + 0.4 * colour) + glow[..., None] * (0.35 + 0.65 * colour))


def _bench(surface: Surface, rng: np.random.Generator) -> FloatArray:
    """(size, size, 3) the dark bench the plate lies on, with the plate's shadow."""
    size = surface.coverage.shape[0]
    scale = size / UNITS
    shadow = ndimage.shift(surface.coverage, (5 * scale, 4 * scale), order=1)
    shadow = ndimage.gaussian_filter(shadow, 4 * scale)
    grain = 1 + 0.05 * smooth_noise(rng, size, 0.8) + 0.04 * smooth_noise(rng, size, 12)
    return np.asarray(_BENCH * (grain * (1 - 0.75 * shadow))[..., None])
