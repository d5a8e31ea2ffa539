"""Surfaces that fill the whole picture: one function per family, each from a generator to a field of 0..1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import expit

from training.drawing.fields import Field, grid, log_uniform, relief, smooth, spectral, turned, unit, warp

Surface = Callable[[np.random.Generator, int], Field]


def clouds(rng: np.random.Generator, size: int) -> Field:
    """Noise with a photograph's spectrum, from sand to sky."""
    return unit(spectral(rng, size, fall=rng.uniform(0.3, 2.2), lowest=log_uniform(rng, 1, 20)))


def brushed(rng: np.random.Generator, size: int) -> Field:
    """Metal brushed, rolled or ground in one direction."""
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    streaks = spectral(
        rng, size, fall=rng.uniform(0.2, 1.3), stretch=log_uniform(rng, 5, 80), angle=float(angle)
    )
    sheen = smooth(rng, size, 0.6) * rng.uniform(0, 1.2)
    return unit(streaks + sheen)


def grain(rng: np.random.Generator, size: int) -> Field:
    """Flat ground with specks or pores of one scale."""
    scale = log_uniform(rng, 6, 80)
    noise = spectral(rng, size, fall=2.5, lowest=scale)
    hard = log_uniform(rng, 1, 12)
    specks = expit(hard * (noise - rng.uniform(0.2, 2.2)))
    return np.asarray(np.clip(0.5 + rng.choice([-0.5, 0.5]) * specks + 0.08 * noise, 0, 1), np.float32)


def waves(rng: np.random.Generator, size: int) -> Field:
    """Stripes and crossed stripes, straight or warped, soft or hard."""
    total = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(1, 4)):
        along, _across = turned(size, rng.uniform(0, np.pi))
        total += np.sin(log_uniform(rng, 6, 160) * along + rng.uniform(0, 6.3)) * rng.uniform(0.4, 1)
    if rng.random() < 0.7:
        total = warp(total, rng, log_uniform(rng, 0.003, 0.06), rng.uniform(0.1, 0.6))
    if rng.random() < 0.4:
        total = np.tanh(total * log_uniform(rng, 1, 10))
    return unit(total)


def gabors(rng: np.random.Generator, size: int) -> Field:
    """A direction of grain that turns from place to place."""
    angle = smooth(rng, size, rng.uniform(0.2, 0.7)) * rng.uniform(0.3, 2)
    layers = [
        spectral(rng, size, fall=1.0, stretch=12, angle=float(turn), lowest=8) for turn in (0, 0.8, 1.6, 2.4)
    ]
    weights = [np.cos(angle - turn) ** 8 for turn in (0, 0.8, 1.6, 2.4)]
    return unit(np.asarray(sum(w * v for w, v in zip(weights, layers, strict=True)), np.float32))


def woven(rng: np.random.Generator, size: int) -> Field:
    """Cloth: warp and weft threads over and under each other in a repeating pattern, round and slightly uneven."""
    threads = log_uniform(rng, 8, 60)
    along, across = turned(size, float(rng.choice([0, rng.uniform(0, np.pi)])))
    along = (along + 0.02 * smooth(rng, size, 0.3)) * threads
    across = (across + 0.02 * smooth(rng, size, 0.3)) * threads * rng.uniform(0.6, 1.4)
    pattern = rng.random((rng.integers(2, 6), rng.integers(2, 6))) < 0.5
    pattern[0, 0], pattern[-1, -1], pattern[0, -1] = True, True, False
    i, j = np.floor(along).astype(int), np.floor(across).astype(int)
    over = pattern[i % pattern.shape[0], j % pattern.shape[1]]
    warp_thread = np.sin(np.pi * (along - i)) * (0.75 + 0.25 * np.sin(np.pi * (across - j)))
    weft_thread = np.sin(np.pi * (across - j)) * (0.75 + 0.25 * np.sin(np.pi * (along - i)))
    tone = rng.uniform(0.3, 1, 2)
    cloth = np.where(over, warp_thread * tone[0], weft_thread * tone[1])
    return unit(np.asarray(cloth + rng.uniform(0, 0.2) * spectral(rng, size, fall=0.3), np.float32))


def tiles(rng: np.random.Generator, size: int) -> Field:
    """Bricks, tiles, planks and grids: joints round fields of slightly different tone."""
    along, across = turned(size, float(rng.choice([0, 0, rng.uniform(0, np.pi)])))
    if rng.random() < 0.3:
        along = along / (1.6 + across * rng.uniform(-0.5, 0.5))
    along, across = along * log_uniform(rng, 1.5, 16), across * log_uniform(rng, 1.5, 16)
    row = np.floor(across)
    along = along + rng.choice([0, 0.5, rng.random()]) * row + rng.random()
    column = np.floor(along)
    tones = rng.random((64, 64)).astype(np.float32)
    tone = tones[column.astype(int) % 64, row.astype(int) % 64]
    edge = np.minimum(
        np.minimum(along - column, column + 1 - along), np.minimum(across - row, row + 1 - across)
    )
    joint = np.clip(edge / rng.uniform(0.02, 0.2), 0, 1)
    ground = rng.uniform(0, 0.5) * spectral(rng, size, fall=rng.uniform(0.3, 1.5)) * 0.3
    contrast = rng.uniform(0.05, 0.9)
    return np.asarray(np.clip((0.5 + contrast * (tone - 0.5) + ground) * joint, 0, 1), np.float32)


def perforated(rng: np.random.Generator, size: int) -> Field:
    """Dots, holes and knobs on a square or a hexagonal grid."""
    along, across = turned(size, rng.uniform(0, np.pi / 2))
    count = log_uniform(rng, 3, 30)
    along, across = along * count, across * count
    if rng.random() < 0.5:
        along = along + 0.5 * (np.floor(across) % 2)
    distance = np.hypot(along % 1 - 0.5, across % 1 - 0.5)
    radius, edge = rng.uniform(0.15, 0.48), log_uniform(rng, 0.02, 0.3)
    dots = np.clip((radius - distance) / edge, 0, 1)
    if rng.random() < 0.4:
        return unit(relief(np.asarray(dots, np.float32), rng, rng.uniform(-3, 3)))
    return np.asarray(dots, np.float32)


def cells(rng: np.random.Generator, size: int) -> Field:
    """Foam, crackle, scales, pebbles: the Voronoi cells of random or nearly regular points."""
    count = int(log_uniform(rng, 8, 500))
    points = rng.random((count, 2))
    if rng.random() < 0.4:
        side = int(np.sqrt(count)) + 1
        lattice = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) / side
        points = lattice + rng.normal(0, 0.25 / side, lattice.shape)
    half = size // 2
    rows, columns = grid(half)
    where = np.stack([rows, columns], -1).reshape(-1, 2) / 2 + 0.5
    distance, nearest = cKDTree(points).query(where, k=2)
    distance = (distance * np.sqrt(len(points))).astype(np.float32)
    first, second = (distance[:, k].reshape(half, half) for k in (0, 1))
    tone = rng.random(len(points)).astype(np.float32)[nearest[:, 0]].reshape(half, half)
    kinds = (
        first,
        second - first,
        tone,
        np.clip((second - first) * log_uniform(rng, 1, 12), 0, 1),
        tone - first,
    )
    chosen = np.asarray(kinds[rng.integers(len(kinds))], np.float32)
    big = ndimage.zoom(chosen, size / half, order=1)
    return unit(np.asarray(big, np.float32))


def marble(rng: np.random.Generator, size: int) -> Field:
    """Veins: a sine of noise."""
    noise = spectral(rng, size, fall=rng.uniform(1.4, 2.2))
    along, _ = turned(size, rng.uniform(0, np.pi))
    return unit(
        np.abs(np.sin(log_uniform(rng, 1, 8) * along + log_uniform(rng, 0.5, 5) * noise))
        ** rng.uniform(0.3, 2)
    )


def wood(rng: np.random.Generator, size: int) -> Field:
    """Rings cut lengthwise or across, with fibres."""
    along, across = turned(size, rng.uniform(0, np.pi))
    radius = np.hypot(across + rng.uniform(-1, 1), along * rng.uniform(0.02, 1))
    rings = (radius + 0.06 * smooth(rng, size, 0.3)) * log_uniform(rng, 4, 40)
    fibres = spectral(rng, size, fall=0.6, stretch=30, angle=rng.uniform(0, 0.1))
    return unit(np.asarray((rings % 1) ** rng.uniform(0.5, 2) + 0.2 * fibres, np.float32))


def fur(rng: np.random.Generator, size: int) -> Field:
    """Hair, grass, chips and scratches: many short strokes along a turning direction."""
    canvas = Image.new("L", (size, size), int(rng.integers(0, 256)))
    pen = ImageDraw.Draw(canvas)
    flow = smooth(rng, size, rng.uniform(0.2, 1)) * rng.uniform(0, 2) + rng.uniform(0, 6.3)
    length, width = size * log_uniform(rng, 0.01, 0.25), int(rng.integers(1, 5))
    spread = rng.uniform(0, 0.6)
    count = int(rng.integers(100, 1200))
    starts = rng.uniform(-0.1, 1.1, (count, 2)) * size
    inside = np.clip(starts.astype(int), 0, size - 1)
    angles = flow[inside[:, 1], inside[:, 0]] + rng.normal(0, spread, count)
    lengths = length * rng.uniform(0.4, 1.6, count)
    ends = starts + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    tones = np.clip(rng.normal(rng.uniform(60, 200), rng.uniform(10, 80), count), 0, 255).astype(int)
    for start, end, tone in zip(starts, ends, tones, strict=True):
        pen.line((*start, *end), fill=int(tone), width=width)
    return np.asarray(canvas, np.float32) / 255


def julia(rng: np.random.Generator, size: int) -> Field:
    """The escape times of z² + c, near the edge of the Mandelbrot set."""
    turn = rng.uniform(0, 2 * np.pi)
    edge = 0.5 * np.exp(1j * turn) - 0.25 * np.exp(2j * turn)
    c = np.complex64(edge * rng.uniform(0.95, 1.15))
    half = size // 2
    rows, columns = grid(half)
    zoom, middle = log_uniform(rng, 0.15, 1.4), rng.uniform(-0.5, 0.5, 2)
    z = ((columns * zoom + middle[0]) + 1j * (rows * zoom + middle[1])).astype(np.complex64)
    time = np.zeros((half, half), np.float32)
    for _ in range(int(rng.integers(12, 32))):
        z = np.where(np.abs(z) < 4, z * z + c, z)
        time += np.abs(z) < 4
    time += np.clip(np.abs(z), 0, 4) / 4
    return unit(np.asarray(ndimage.zoom(time, size / half, order=1), np.float32))


def attractor(rng: np.random.Generator, size: int) -> Field:
    """Where a handful of random affine maps, applied by chance, drop their points."""
    count = int(rng.integers(2, 5))
    maps = rng.uniform(-1, 1, (count, 2, 2))
    norms = np.array([np.linalg.norm(m, 2) for m in maps])
    maps *= (rng.uniform(0.45, 0.9, count) / norms)[:, None, None]
    shifts = rng.uniform(-1, 1, (count, 2))
    points = rng.uniform(-1, 1, (4000, 2))
    trail = []
    for step in range(26):
        chosen = rng.integers(count, size=len(points))
        points = np.einsum("nij,nj->ni", maps[chosen], points) + shifts[chosen]
        if step > 8:
            trail.append(points)
    cloud = np.concatenate(trail)
    low, high = np.quantile(cloud, 0.01, axis=0), np.quantile(cloud, 0.99, axis=0)
    hits, _, _ = np.histogram2d(
        cloud[:, 0], cloud[:, 1], bins=size, range=np.stack([low - 0.1, high + 0.1], -1).tolist()
    )
    dense = ndimage.gaussian_filter(np.log1p(hits).astype(np.float32), rng.uniform(0.5, 1.5))
    return unit(np.asarray(dense, np.float32)) ** np.float32(rng.uniform(0.5, 1.2))


def network(rng: np.random.Generator, size: int) -> Field:
    """What a small random network of sines and kinks answers at every position."""
    half = size // 2
    rows, columns = grid(half)
    spread = log_uniform(rng, 1, 6)
    inputs = [rows * spread, columns * spread, np.hypot(rows, columns) * spread, smooth(rng, half, 0.3)]
    values = np.stack(inputs, -1).astype(np.float32)
    for _ in range(int(rng.integers(2, 5))):
        weights = rng.normal(0, rng.uniform(0.6, 1.4), (values.shape[-1], 12)).astype(np.float32)
        mixed = values @ weights + rng.normal(0, 1, 12).astype(np.float32)
        kinds = (np.sin, np.tanh, np.abs, lambda v: np.maximum(v, 0), np.cos)
        first, second = rng.choice(len(kinds), 2)
        values = np.concatenate([kinds[first](mixed[..., :6]), kinds[second](mixed[..., 6:])], -1)
    answer = values @ rng.normal(0, 1, values.shape[-1]).astype(np.float32)
    return unit(np.asarray(ndimage.zoom(answer, size / half, order=1), np.float32))


def creased(rng: np.random.Generator, size: int) -> Field:
    """Hammered, cast, crumpled or rippled: another field as a height, lit from one side."""
    source = FLAT[rng.integers(len(FLAT))](rng, size)
    soft = ndimage.gaussian_filter(source, log_uniform(rng, 0.8, 6))
    return unit(relief(np.asarray(soft, np.float32), rng, log_uniform(rng, 0.5, 6)))


def mixed(rng: np.random.Generator, size: int) -> Field:
    """Two fields, one let through by a threshold of a third: rust, worn paint, stains, moss."""
    one, two = (FLAT[rng.integers(len(FLAT))](rng, size) for _ in range(2))
    noise = spectral(rng, size, fall=rng.uniform(1, 2), lowest=log_uniform(rng, 1, 8))
    share = expit(log_uniform(rng, 1, 20) * (noise - rng.uniform(-1, 1)))
    return np.asarray(one * share + two * (1 - share), np.float32)


FLAT: tuple[Surface, ...] = (
    clouds, clouds, brushed, grain, waves, gabors, woven, tiles, perforated, cells, marble, wood, fur,
    julia, attractor, network, network,
)  # fmt: skip
SURFACES: tuple[Surface, ...] = (*FLAT, creased, creased, creased, mixed, mixed)
