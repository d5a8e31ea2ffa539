"""Scores and anomaly maps that a model has computed, on disk, so that no page computes them twice."""

import io
import json
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.atomic_files import write_file
from storage.records import Model
from storage.workspace import Workspace


def map_folder(workspace: Workspace, dataset_name: str, version: int) -> Path:
    """Where the scores and maps of a registered model are cached."""
    return workspace.maps_folder / dataset_name / str(version)


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
        file = io.BytesIO()
        np.savez(file, score=np.float64(score), anomaly_map=anomaly_map)
        # What a power cut damages is noticed by `get`, and computed again.
        write_file(self._file(key), file.getvalue(), settled=False)

    def get(self, key: str) -> tuple[float, NDArray[np.float32]] | None:
        """Score and map of a picture; None where they are not cached, or the file is damaged."""
        try:
            with np.load(io.BytesIO(self._file(key).read_bytes()), allow_pickle=False) as kept:
                return float(kept["score"]), kept["anomaly_map"]
        except (FileNotFoundError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def score(self, key: str) -> float | None:
        """Score of a picture, without reading its map; None as for `get`."""
        try:
            with np.load(io.BytesIO(self._file(key).read_bytes()), allow_pickle=False) as kept:
                return float(kept["score"])
        except (FileNotFoundError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def scores(self, keys: Iterable[str]) -> dict[str, float]:
        """Scores of those pictures that have one, from an index of this cache: one file instead of thousands.

        What the index lacks is looked for in the pictures' own files and added, so that it may be deleted, or lose an
        entry to another process that writes it at the same moment.
        """
        index = self.folder / "scores.json"
        try:
            known: dict[str, float] = json.loads(index.read_bytes())
        except (FileNotFoundError, ValueError):
            known = {}
        found, added = {}, False
        for key in keys:
            score = known.get(key)
            if score is None and (score := self.score(key)) is not None:
                known[key], added = score, True
            if score is not None:
                found[key] = score
        if added:
            write_file(index, json.dumps(known).encode(), settled=False)
        return found

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


def map_cache(workspace: Workspace, model: Model) -> MapCache:
    """The cached scores and maps of a registered model."""
    return MapCache(map_folder(workspace, model.dataset_name, model.version))
