"""What training sees of a pool: random crops of its drawings, and the drawings held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, get_worker_info

from training.pool import open_pool

SIZES = (128, 160, 192, 224)  # of a batch, pixels
HELD_OUT_BATCH = 20  # drawings


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Which crops a run sees."""

    pool_seed: int
    pool_size: int  # pixels per side of a drawing
    steps: int
    batch: int  # crops per step
    seed: int


class Crops(Dataset[Tensor]):
    """One batch per step: `crops[step]` is (batch, 3, size, size) float32, 0..1, and follows from the step alone.

    The last shard is held out.

    Raises:
        SystemExit: there are fewer drawings than a batch takes.
    """

    def __init__(self, folder: Path, draw: Draw) -> None:
        self.folder, self.draw = folder, draw
        self.shards: list[NDArray[np.uint8]] = []
        self.pictures = sum(len(shard) for shard in _training_shards(folder, draw))
        if self.pictures < draw.batch:
            raise SystemExit(
                f"{folder} holds {self.pictures} drawings to train on and a batch takes {draw.batch}. "
                "Draw at least two shards with training.pool."
            )

    def __len__(self) -> int:
        return self.draw.steps

    def __getitem__(self, step: int) -> Tensor:
        draw = self.draw
        if not self.shards:  # opened by the process that loads: a mapped file is not to be pickled
            if get_worker_info() is not None:  # a loader's own process; elsewhere the setting would stay
                torch.set_num_threads(1)
            self.shards = _training_shards(self.folder, draw)
        rng = np.random.default_rng((draw.seed, step))
        size = int(rng.choice(SIZES))
        # All drawings once, in a random order, before any comes again.
        per_round = self.pictures // draw.batch
        order = np.random.default_rng((draw.seed, step // per_round, 1)).permutation(self.pictures)
        first = step % per_round * draw.batch
        in_shard = len(self.shards[0])
        return torch.stack(
            [
                _crop(self.shards[i // in_shard][i % in_shard], size, rng)
                for i in order[first : first + draw.batch]
            ]
        )


def _training_shards(folder: Path, draw: Draw) -> list[NDArray[np.uint8]]:
    return open_pool(folder, size=draw.pool_size, seed=draw.pool_seed)[:-1]


def _crop(picture: NDArray[np.uint8], size: int, rng: np.random.Generator) -> Tensor:
    side = int(picture.shape[0] * rng.uniform(0.35, 1) ** 0.5)
    top, left = rng.integers(0, picture.shape[0] - side + 1, 2)
    box = picture[top : top + side, left : left + side]
    box = np.rot90(box, rng.integers(4))
    if rng.random() < 0.5:
        box = box[:, ::-1]
    if rng.random() < 0.4:
        box = box[..., rng.permutation(3)]
    crop = torch.from_numpy(np.ascontiguousarray(box)).permute(2, 0, 1).float() / 255
    crop = F.interpolate(crop[None], (size, size), mode="bilinear", antialias=True)[0]
    if rng.random() < 0.1:
        crop = 1 - crop
    if rng.random() < 0.3:
        crop = (crop - 0.5) * rng.uniform(0.4, 1.6) + 0.5 + rng.normal(0, 0.12)
    if rng.random() < 0.15:
        crop = crop.mean(0, keepdim=True).expand(3, -1, -1)
    return crop.clamp(0, 1)


def held_out(folder: Path, draw: Draw, size: int = 256) -> Iterator[Tensor]:
    """The drawings no step sees, the pool's last shard, in batches: (≤ 20, 3, size, size) float32, 0..1."""
    shard = open_pool(folder, size=draw.pool_size, seed=draw.pool_seed)[-1]
    for start in range(0, len(shard), HELD_OUT_BATCH):
        drawings = np.array(shard[start : start + HELD_OUT_BATCH])
        pictures = torch.from_numpy(drawings).permute(0, 3, 1, 2).float() / 255
        yield F.interpolate(pictures, (size, size), mode="bilinear", antialias=True)
