"""A pool of drawn pictures on disk, in shards of 500, drawn by all processors and taken up where it stopped."""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from training.drawing.scenes import VERSION, draw

SHARD = 500  # pictures


def draw_pool(folder: Path, *, pictures: int, size: int, seed: int) -> None:
    """Draw the shards that the folder lacks.

    Args:
        pictures: rounded up to whole shards.
        size: height and width of every picture, pixels.
        seed: of the series; picture i is the same in every pool of this seed and size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = range(-(-pictures // SHARD))
    wanted = [shard for shard in shards if not _path(folder, seed, size, shard).exists()]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as workers:
        jobs = [workers.submit(_draw_shard, folder, seed, size, shard) for shard in wanted]
        for job in track(jobs, description=f"drawing, {SHARD} pictures each"):
            job.result()


def open_pool(folder: Path, *, size: int, seed: int) -> list[NDArray[np.uint8]]:
    """Map the shards of a pool into memory, each (500, size, size, 3) uint8.

    Raises:
        SystemExit: there are fewer than two, or one between others is missing.
    """
    count = len(list(folder.glob(_path(folder, seed, size, 0).name.replace("0000", "[0-9]*"))))
    paths = [_path(folder, seed, size, shard) for shard in range(count)]
    absent = [path.name for path in paths if not path.exists()]
    if absent or count < 2:
        what = f"lacks {absent[0]}" if absent else f"holds {count} shards of drawings; two are needed"
        raise SystemExit(f"{folder} {what}. Run training.pool with this folder, size {size} and seed {seed}.")
    return [np.load(path, mmap_mode="r") for path in paths]


def _path(folder: Path, seed: int, size: int, shard: int) -> Path:
    return folder / f"{VERSION}-{seed}-{size}-{shard:04d}.npy"


def _draw_shard(folder: Path, seed: int, size: int, shard: int) -> None:
    first = shard * SHARD
    drawn = np.stack([draw(seed, index, size) for index in range(first, first + SHARD)])
    path = _path(folder, seed, size, shard)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.save(file, drawn)
    unfinished.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=16_000)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw_pool(options.folder, pictures=options.pictures, size=options.size, seed=options.seed)


if __name__ == "__main__":
    main()
