"""Scores and anomaly maps that a model has computed, on disk, so that no page computes them twice."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class MapCache:
    """The cached results of one model, a file per picture. Safe for several processes: files appear whole or not.

    Everything in it can be computed again; deleting the folder costs only time.
    """

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which need not exist."""
        self.folder = folder

    def put(self, key: str, score: float, anomaly_map: NDArray[np.float32]) -> None:
        """Keep the score and the (H, W) float32 map of a picture."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self.folder, suffix=".partial")
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, score=np.float64(score), anomaly_map=anomaly_map)
            os.replace(temporary, self._file(key))
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def get(self, key: str) -> tuple[float, NDArray[np.float32]] | None:
        """Score and map of a picture; None where they are not cached."""
        try:
            with np.load(self._file(key), allow_pickle=False) as kept:
                return float(kept["score"]), kept["anomaly_map"]
        except FileNotFoundError:
            return None

    def score(self, key: str) -> float | None:
        """Score of a picture, without reading its map; None where it is not cached."""
        try:
            with np.load(self._file(key), allow_pickle=False) as kept:
                return float(kept["score"])
        except FileNotFoundError:
            return None

    def rename(self, folder: Path) -> None:
        """Move all of it to `folder`, replacing what is there."""
        if not self.folder.is_dir():
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.replace(folder)
        self.folder = folder

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.npz"
