"""Pictures: coloured surfaces, collages, things on grounds, landscapes, pages; `draw` gives any of them by number."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.drawing.fields import grid, log_uniform, smooth
from training.drawing.finish import finish
from training.drawing.shapes import dead_leaves, marks, mask_of, outline, solid
from training.drawing.surfaces import SURFACES

VERSION = "drawn1"  # name of what `draw` draws; to be changed whenever it draws something else
Colours = NDArray[np.float32]  # (size, size, 3), 0..1


def draw(seed: int, index: int, size: int) -> NDArray[np.uint8]:
    """Draw picture `index` of the endless series `seed`: (size, size, 3) uint8; size is at least 32."""
    rng = np.random.default_rng((seed, index))
    scene = SCENES[rng.choice(len(SCENES), p=_SHARES)]
    return finish(scene(rng, size), rng)


def palette(rng: np.random.Generator) -> NDArray[np.float32]:
    """Two to six colours that go together, (n, 3); a third of the palettes are grey."""
    count = int(rng.integers(2, 7))
    grey = rng.random() < 0.3
    hue, spread = rng.random(), rng.choice([0.03, 0.1, 0.5])
    vivid = 0.0 if grey else rng.uniform(0.05, 0.9)
    colours = []
    for _ in range(count):
        saturation = float(np.clip(rng.normal(vivid, 0.15), 0, 1)) if not grey else 0.0
        colours.append(colorsys.hsv_to_rgb(hue + rng.normal(0, spread), saturation, rng.uniform(0.05, 1)))
    return np.asarray(colours, np.float32)


def coloured(rng: np.random.Generator, size: int) -> Colours:
    """One surface with a palette run along its values."""
    field = SURFACES[rng.integers(len(SURFACES))](rng, size)
    colours = palette(rng)
    if rng.random() < 0.6:  # dark to light, as most materials
        colours = colours[np.argsort(colours.sum(1))]
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(field, stops, colours[:, c]) for c in range(3)], -1).astype(np.float32)


def leaves(rng: np.random.Generator, size: int) -> Colours:
    colours = dead_leaves(rng, size, palette(rng))
    if rng.random() < 0.5:
        light = SURFACES[rng.integers(len(SURFACES))](rng, size)
        colours = colours * (1 - rng.uniform(0.1, 0.6) * light[..., None])
    return np.asarray(colours, np.float32)


def ground(rng: np.random.Generator, size: int) -> Colours:
    """What things lie on or stand before: plain, sloping, blurred or busy."""
    kind = rng.random()
    if kind < 0.25:
        return np.broadcast_to(palette(rng)[0], (size, size, 3)).astype(np.float32)
    if kind < 0.45:
        return landscape(rng, size)
    below = coloured(rng, size) if kind < 0.9 else leaves(rng, size)
    if rng.random() < 0.5:
        below = _soften(below, log_uniform(rng, 1, 12))
    return below


def landscape(rng: np.random.Generator, size: int) -> Colours:
    """Something above a horizon and something below it, growing towards the viewer."""
    rows, _ = grid(size)
    line = rng.uniform(-0.6, 0.6) + 0.1 * smooth(rng, size, 0.5) * rng.random()
    above, below = palette(rng)[:2], coloured(rng, size)
    slope = np.clip((rows + 1) / 2, 0, 1)[..., None]
    sky = above[0] * slope + above[1] * (1 - slope)
    share = np.clip((rows - line) * size / log_uniform(rng, 2, 60) + 0.5, 0, 1)[..., None]
    return np.asarray(sky * (1 - share) + below * share, np.float32)


def thing(rng: np.random.Generator, picture: Colours, middle: NDArray[np.float64], radius: float) -> Colours:
    """Put one solid thing of one to seven parts into a picture, with its shadow. Lengths in picture sides."""
    size = picture.shape[0]
    coat = coloured(rng, size) if rng.random() < 0.6 else np.broadcast_to(palette(rng)[0], picture.shape)
    if rng.random() < 0.3:
        coat = coat * 0.5 + 0.5 * palette(rng)[0]
    mask = mask_of((outline(rng) * radius + middle) * size, size)
    symmetric = rng.random() < 0.5
    for _ in range(int(rng.choice([0, 0, 1, 2, 4, 6]))):
        offset = rng.normal(0, 0.8, 2) * radius
        part = outline(rng) * radius * rng.uniform(0.15, 0.7)
        mask = np.maximum(mask, mask_of((part + middle + offset) * size, size))
        if symmetric:
            flip = np.array([-1, 1])
            mask = np.maximum(mask, mask_of((part * flip + middle + offset * flip) * size, size))
    if rng.random() < 0.5:
        shift = rng.normal(0, 0.15, 2) * radius * size
        shadow = ndimage.shift(mask[::2, ::2], shift / 2, order=1)
        shadow = (
            ndimage.gaussian_filter(shadow, log_uniform(rng, 0.5, 12)).repeat(2, 0).repeat(2, 1)[:size, :size]
        )
        picture = picture * (1 - rng.uniform(0.2, 0.8) * shadow[..., None])
    light = solid(mask, rng)[..., None] if rng.random() < 0.75 else 1.0
    return np.asarray(picture * (1 - mask[..., None]) + coat * light * mask[..., None], np.float32)


def things(rng: np.random.Generator, size: int) -> Colours:
    """A few things on a ground, near and far."""
    picture = ground(rng, size)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3, 5]))):
        picture = thing(rng, picture, rng.uniform(0.2, 0.8, 2), log_uniform(rng, 0.06, 0.45))
    return picture


def row_of_things(rng: np.random.Generator, size: int) -> Colours:
    """The same kind of thing again and again in a grid, as parts on a tray."""
    picture = ground(rng, size)
    count = int(rng.integers(2, 6))
    shape, coat, bent = outline(rng), coloured(rng, size), rng.uniform(0, 0.6)
    mask = np.zeros((size, size), np.float32)
    for i in range(count):
        for j in range(count):
            turn = rng.normal(0, bent)
            spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            middle = (np.array([i, j]) + 0.5 + rng.normal(0, 0.05, 2)) / count
            mask = np.maximum(mask, mask_of((shape @ spin * 0.4 / count + middle) * size, size))
    light = solid(mask, rng)[..., None]
    return np.asarray(picture * (1 - mask[..., None]) + coat * light * mask[..., None], np.float32)


def page(rng: np.random.Generator, size: int) -> Colours:
    """Marks on a surface: print, scratches, cracks, cables."""
    picture = coloured(rng, size) if rng.random() < 0.6 else ground(rng, size)
    for _ in range(rng.integers(1, 4)):
        strokes = marks(rng, size)
        ink = palette(rng)[0]
        if rng.random() < 0.3:
            ink = ink * solid(strokes, rng)[..., None]
        picture = picture * (1 - strokes[..., None]) + ink * strokes[..., None]
    return np.asarray(picture, np.float32)


def patchwork(rng: np.random.Generator, size: int) -> Colours:
    """Two to four surfaces side by side, cut along soft or sharp lines."""
    picture = coloured(rng, size)
    for _ in range(rng.integers(1, 4)):
        other = coloured(rng, size)
        edge = smooth(rng, size, rng.uniform(0.2, 1)) - rng.normal(0, 0.7)
        share = np.clip(edge * log_uniform(rng, 2, 200) + 0.5, 0, 1)[..., None]
        picture = picture * (1 - share) + other * share
    return np.asarray(picture, np.float32)


def _soften(picture: Colours, width: float) -> Colours:
    return np.asarray(ndimage.gaussian_filter(picture, (width, width, 0)), np.float32)


Scene = Callable[[np.random.Generator, int], Colours]
SCENES: tuple[Scene, ...] = (coloured, leaves, things, row_of_things, page, patchwork, landscape)
_SHARES = (0.30, 0.10, 0.30, 0.05, 0.12, 0.09, 0.04)
