"""The demo dataset: brushed-metal plates with scratches, dents, stains and missing holes, drawn from a seed.

Same seed and size, same pixels: every picture has a random stream of its own, named by its place in the
folder. Beside plain defects stand faint ones, and the normal plates differ among themselves (light, brushing,
pose, serial number, dust), so that a model's settings decide how many of the defects it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.errors import EngineError
from engine.plate_defects import DEFECT_TYPES, photograph_defective
from engine.plates import build_surface, photograph, sample_plate

TRAIN_NORMALS = 40
TEST_NORMALS = 20
DEFECTS_PER_TYPE = 10
MIN_SIZE = 64  # pixels; below it a hairline scratch or a serial number has no pixel of its own


class BadDemo(EngineError):
    """A demo dataset was asked for that cannot be drawn."""


@dataclass(frozen=True, kw_only=True)
class _Sheet:
    """One picture to draw: where it goes and what is on it."""

    split: str  # "train" or "test"
    kind: str  # "good" or one of DEFECT_TYPES
    index: int  # within split and kind
    key: int  # of the random stream; no two pictures share one


def draw_demo(
    folder: Path, *, seed: int = 0, size: int = 256, progress: Callable[[int, int], None] | None = None
) -> None:
    """Draw 60 normal and 40 anomalous plates into a folder in the MVTec layout.

    `train/good` 40, `test/good` 20, `test/<type>` 10 for each of `DEFECT_TYPES`, and
    `ground_truth/<type>/<name>_mask.png` with 255 where the defect is. Pictures that already lie there under
    these names are overwritten; nothing else is touched.

    Args:
        seed: ≥ 0.
        size: height and width of the pictures, pixels, ≥ 64.
        progress: called with (pictures drawn, pictures in all) after each.
    Raises:
        BadDemo: seed or size is out of range.
    """
    if seed < 0:
        raise BadDemo(f"Seed {seed} is negative; a demo seed must be 0 or more. Choose another.")
    if size < MIN_SIZE:
        raise BadDemo(f"Demo size {size} px is too small; it must be at least {MIN_SIZE} px. Ask for more.")
    sheets = list(_sheets())
    for done, sheet in enumerate(sheets, start=1):
        _draw(folder, sheet, seed, size)
        if progress is not None:
            progress(done, len(sheets))


def _sheets() -> Iterator[_Sheet]:
    parts = [("train", "good", TRAIN_NORMALS), ("test", "good", TEST_NORMALS)]
    parts += [("test", defect_type, DEFECTS_PER_TYPE) for defect_type in DEFECT_TYPES]
    key = 0
    for split, kind, count in parts:
        for index in range(count):
            yield _Sheet(split=split, kind=kind, index=index, key=key)
            key += 1


def _draw(folder: Path, sheet: _Sheet, seed: int, size: int) -> None:
    rng = np.random.default_rng([seed, sheet.key])
    plate = sample_plate(rng)
    path = folder / sheet.split / sheet.kind / f"{sheet.index:03d}.png"
    if sheet.kind == "good":
        _write(path, photograph(plate, build_surface(plate, size)))
        return
    severity = sheet.index / (DEFECTS_PER_TYPE - 1)
    picture, mask = photograph_defective(plate, size, sheet.kind, severity=severity, rng=rng)
    _write(path, picture)
    _write(folder / "ground_truth" / sheet.kind / f"{sheet.index:03d}_mask.png", mask.astype(np.uint8) * 255)


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=4)
