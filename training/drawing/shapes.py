"""Shapes: outlines with soft edges, and what makes them look solid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from training.drawing.fields import Field, log_uniform, relief

Outline = Callable[[np.random.Generator], np.ndarray]  # points (n, 2) round the origin, radius about 1


def blob(rng: np.random.Generator) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.ones_like(turn)
    for wave in range(2, 8):
        radius += rng.normal(0, 0.35 / wave) * np.cos(wave * turn + rng.uniform(0, 6.3))
    return np.stack([np.cos(turn), np.sin(turn)], -1) * np.abs(radius)[:, None]


def ellipse(_: np.random.Generator) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], -1)


def polygon(rng: np.random.Generator) -> np.ndarray:
    turn = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
    return np.stack([np.cos(turn), np.sin(turn)], -1) * rng.uniform(0.6, 1.2, (len(turn), 1))


def regular(rng: np.random.Generator) -> np.ndarray:
    corners = int(rng.integers(3, 9))
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], -1)


def star(rng: np.random.Generator) -> np.ndarray:
    points = int(rng.integers(4, 16))
    turn = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False)
    radius = np.where(np.arange(2 * points) % 2, rng.uniform(0.3, 0.9), 1.0)
    return np.stack([np.cos(turn), np.sin(turn)], -1) * radius[:, None]


def box(rng: np.random.Generator) -> np.ndarray:
    """A rectangle, its corners rounded or not."""
    corner = rng.choice([0.02, rng.uniform(0.05, 0.8)])
    quarter = np.linspace(0, np.pi / 2, 6)
    points = []
    for index, (x, y) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        arc = quarter + index * np.pi / 2
        points.append(np.stack([np.cos(arc), np.sin(arc)], -1) * corner + np.array([x, y]) * (1 - corner))
    return np.concatenate(points)


def mirrored(rng: np.random.Generator) -> np.ndarray:
    """A profile and its mirror image, as of bottles, insects, vehicles seen from above."""
    count = int(rng.integers(4, 14))
    profile = np.abs(np.cumsum(rng.normal(0, 0.25, count)) + rng.uniform(0.2, 0.7)) + 0.05
    height = np.linspace(-1, 1, count)
    right, left = np.stack([profile, height], -1), np.stack([-profile, height], -1)[::-1]
    return np.concatenate([right, left])


OUTLINES: tuple[Outline, ...] = (
    blob,
    blob,
    ellipse,
    ellipse,
    polygon,
    regular,
    star,
    box,
    box,
    mirrored,
    mirrored,
)


def outline(rng: np.random.Generator) -> np.ndarray:
    """One of the outlines, stretched and turned; radius about 1."""
    points = OUTLINES[rng.integers(len(OUTLINES))](rng)
    points = points * np.array([1, log_uniform(rng, 0.25, 1)])
    turn = rng.uniform(0, 2 * np.pi)
    return points @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])


def mask_of(points: np.ndarray, size: int, soft: float = 0.7) -> Field:
    """Coverage 0..1 of a polygon given in pixels."""
    canvas = Image.new("L", (size, size))
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in points.tolist()], fill=255)
    return np.asarray(ndimage.gaussian_filter(np.asarray(canvas, np.float32) / 255, soft), np.float32)


def solid(mask: Field, rng: np.random.Generator) -> Field:
    """The light on a shape that bulges out of the picture (or is cut into it): (size, size), about 0..1.3."""
    depth = ndimage.distance_transform_edt(mask > 0.5).astype(np.float32)
    reach = max(float(depth.max()), 1.0) * rng.uniform(0.2, 1)
    bulge = np.sqrt(np.clip(1 - (1 - np.clip(depth / reach, 0, 1)) ** 2, 0, 1)) * reach / mask.shape[0]
    soft = ndimage.gaussian_filter(bulge, rng.uniform(0.8, 3))
    return relief(np.asarray(soft, np.float32), rng, rng.choice([-1, 1, 1, 1]) * log_uniform(rng, 10, 60))


def dead_leaves(rng: np.random.Generator, size: int, colours: np.ndarray) -> np.ndarray:
    """Shapes of power-law sizes dropped on one another until they cover everything: (size, size, 3) of 0..1."""
    canvas = Image.new("RGB", (size, size), tuple(int(v * 255) for v in colours[0]))
    pen = ImageDraw.Draw(canvas)
    count = int(log_uniform(rng, 60, 900))
    smallest = log_uniform(rng, 0.004, 0.04)
    power = rng.uniform(1.5, 3.5)
    radii = smallest * (1 - rng.random(count) * (1 - (0.4 / smallest) ** (1 - power))) ** (1 / (1 - power))
    kinds = [outline(rng) for _ in range(6)]
    spread = rng.uniform(0, 0.2)
    for radius in radii:
        shape = kinds[rng.integers(len(kinds))]
        turn = rng.uniform(0, 2 * np.pi)
        spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        points = (shape @ spin * radius + rng.random(2)) * size
        colour = np.clip(colours[rng.integers(len(colours))] + rng.normal(0, spread, 3), 0, 1)
        edge = tuple(int(v * 150) for v in colour) if rng.random() < 0.2 else None
        pen.polygon(
            [tuple(p) for p in points.tolist()], fill=tuple(int(v * 255) for v in colour), outline=edge
        )
    return np.asarray(canvas, np.float32) / 255


def marks(rng: np.random.Generator, size: int) -> Field:
    """Writing that says nothing, scratches, cracks and cables: coverage 0..1 of strokes."""
    canvas = Image.new("L", (size, size))
    pen = ImageDraw.Draw(canvas)
    kind = rng.integers(4)
    if kind == 0:  # lines of glyphs
        height = size * log_uniform(rng, 0.03, 0.25)
        alphabet = [_glyph(rng) for _ in range(12)]
        width = max(1, int(height * rng.uniform(0.06, 0.2)))
        for top in np.arange(rng.uniform(0, height), size, height * rng.uniform(1.2, 2)):
            left = rng.uniform(0, 0.3) * size
            while left < size * rng.uniform(0.6, 1):
                for stroke in alphabet[rng.integers(12)]:
                    pen.line(
                        [(left + x * height * 0.6, top + y * height) for x, y in stroke],
                        fill=255,
                        width=width,
                    )
                left += height * rng.uniform(0.7, 0.9)
    elif kind == 1:  # scratches
        for _ in range(rng.integers(1, 40)):
            start, reach = rng.random(2) * size, rng.normal(0, 0.3, 2) * size
            bend = start + reach / 2 + rng.normal(0, 0.05, 2) * size
            pen.line(
                [*start, *bend, *(start + reach)],
                fill=int(rng.integers(80, 256)),
                width=int(rng.integers(1, 4)),
            )
    elif kind == 2:  # cracks and branches
        fronts = [(rng.random(2) * size, rng.uniform(0, 6.3)) for _ in range(rng.integers(1, 5))]
        for _ in range(int(rng.integers(60, 400))):
            index = int(rng.integers(len(fronts)))
            where, turn = fronts[index]
            turn += rng.normal(0, 0.4)
            there = where + size * 0.02 * np.array([np.cos(turn), np.sin(turn)])
            pen.line([*where, *there], fill=255, width=int(rng.integers(1, 4)))
            fronts[index] = (there, turn)
            if rng.random() < 0.06 and len(fronts) < 30:
                fronts.append((there, turn + rng.normal(0, 1)))
    else:  # cables
        for _ in range(rng.integers(1, 10)):
            knots = rng.uniform(-0.1, 1.1, (4, 2)) * size
            t = np.linspace(0, 1, 40)
            bezier = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], -1)
            path = bezier @ knots
            width = int(log_uniform(rng, 1, 14))
            pen.line(
                [tuple(p) for p in path.tolist()],
                fill=int(rng.integers(120, 256)),
                width=width,
                joint="curve",
            )
    return np.asarray(
        ndimage.gaussian_filter(np.asarray(canvas, np.float32) / 255, rng.uniform(0.3, 1)), np.float32
    )


def _glyph(rng: np.random.Generator) -> list[list[tuple[float, float]]]:
    """One to four strokes between the nodes of a 3 by 4 grid."""
    strokes = []
    for _ in range(rng.integers(1, 5)):
        nodes = rng.integers(0, (3, 4), (rng.integers(2, 4), 2)) / np.array([2, 3])
        strokes.append([(float(x), float(y)) for x, y in nodes])
    return strokes
