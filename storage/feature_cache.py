"""Features of the frozen backbone, computed once per dataset version, backbone and size, then read by every trial.

An entry is a folder with one `.npy` file per stage and `index.json`, which names the rows and what the entry was
computed from. It is written under a temporary name and renamed, so that it is there whole or not at all; it never
changes after. Several processes on one machine, or on a shared folder, may read and write at once. Everything here
can be computed again: a damaged entry counts as absent, and the folder may be deleted while nothing runs.
"""

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.atomic_files import TEMPORARY_PREFIX, sync_folder, temporary_beside, write_file
from storage.errors import FeatureCacheError, FeaturesDoNotFit
from storage.room import NO_ROOM

logger = logging.getLogger(__name__)

FORMAT = 1  # of an entry's files; entries of another format are not found
ABANDONED_SECONDS = 24 * 3600  # a temporary that nobody wrote to for so long has lost its writer
INDEX = "index.json"
_HALF = np.dtype("<f2")

FeatureMap: TypeAlias = np.memmap[Any, np.dtype[np.float16]]


@dataclass(frozen=True, kw_only=True)
class FeatureKey:
    """All that features depend on; equal keys mean equal features."""

    version_digest: str  # of the dataset version
    backbone: str
    weights_digest: str
    height: int  # pixels that images are resized to
    width: int
    preprocessing: str  # version tag of what turns pixels into numbers

    @property
    def folder_name(self) -> str:
        """Name of the entry's folder."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)
        return sha256(text.encode()).hexdigest()[:32]


class CachedFeatures:
    """One entry of the cache, read-only. It stays readable for whoever holds it, even when its files are deleted."""

    def __init__(self, rows: Sequence[str], maps: Mapping[int, FeatureMap]) -> None:
        self.rows: Mapping[str, int] = MappingProxyType({row: index for index, row in enumerate(rows)})
        self._maps = dict(maps)

    @property
    def stages(self) -> tuple[int, ...]:
        """Stages of the backbone that are cached, ascending."""
        return tuple(sorted(self._maps))

    def stage(self, number: int) -> FeatureMap:
        """Features at a stage, read from disk as they are touched.

        Returns:
            (N, C, h, w) float16, read-only; row i belongs to the image that `rows` maps to i.
        Raises:
            FeatureCacheError: the stage isn't cached.
        """
        if number not in self._maps:
            raise FeatureCacheError(
                f"Stage {number} is not cached; cached are {', '.join(map(str, self.stages))}. Compute it first."
            )
        return self._maps[number]


class FeatureCache:
    """The folder of all entries; may be shared by threads, processes and machines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, key: FeatureKey) -> CachedFeatures | None:
        """The entry of a key, or None where there is none that is whole."""
        folder = self.folder / key.folder_name
        try:
            return _load(folder, key)
        except FileNotFoundError:
            if not folder.is_dir():
                return None
            reason = "a file is missing"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error)
        logger.warning("damaged features count as absent: %s", reason, extra={"folder": str(folder)})
        return None

    def write(
        self,
        key: FeatureKey,
        rows: Sequence[str],
        shapes: Mapping[int, tuple[int, ...]],
        batches: Iterable[Mapping[int, NDArray[np.floating[Any]]]],
    ) -> CachedFeatures:
        """Store features as they are computed; takes no more memory than one batch.

        When another writer finishes an entry with the same rows first, its is kept. One with other rows, or a
        damaged one, is replaced. Whatever `batches` raises is passed on, and nothing is left behind.

        Args:
            key: what the features are computed from.
            rows: names of the rows, each once.
            shapes: (C, h, w) by stage.
            batches: in the order of the rows, per stage (b, C, h, w) of any float dtype.
        Raises:
            FeatureCacheError: the batches don't fit rows and shapes or aren't finite in fp16.
            FeaturesDoNotFit: the disk is full.
        """
        _check_announced(rows, shapes)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_space(len(rows), shapes)
        temporary = temporary_beside(self.folder / key.folder_name)
        temporary.mkdir()
        try:
            _write_stages(temporary, rows, shapes, batches)
            write_file(temporary / INDEX, _index(key, rows, shapes))
            return self._publish(temporary, key)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise FeaturesDoNotFit(
                f"The disk of {self.folder} filled up. Free some space, or move SIMPLENET_HOME to a larger disk."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def sweep(self) -> int:
        """Delete what writers that died left behind a day ago or longer.

        Returns:
            How many temporary folders and files were deleted.
        """
        deleted = 0
        for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            try:
                inside = path.iterdir() if path.is_dir() else ()
                touched = max(file.stat().st_mtime for file in (path, *inside))
            except FileNotFoundError:  # its writer has just renamed it
                continue
            if touched < time.time() - ABANDONED_SECONDS:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
                deleted += 1
        return deleted

    def total_bytes(self) -> int:
        """Size of all files, abandoned ones included."""
        total = 0
        for folder, _, files in os.walk(self.folder):
            for name in files:
                try:
                    total += (Path(folder) / name).stat().st_size
                except FileNotFoundError:  # deleted or renamed in between
                    continue
        return total

    def _check_space(self, rows: int, shapes: Mapping[int, tuple[int, ...]]) -> None:
        needed = rows * sum(_row_bytes(shape) for shape in shapes.values())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise FeaturesDoNotFit(
                f"Features of {rows} images need {needed / 1e9:.1f} GB in {self.folder}; {free / 1e9:.1f} GB are free. "
                "Free some space, or move SIMPLENET_HOME to a larger disk."
            )

    def _publish(self, temporary: Path, key: FeatureKey) -> CachedFeatures:
        """Give a written entry its name, unless an equal one has it already."""
        target = self.folder / key.folder_name
        ours = _load(temporary, key)
        while True:
            try:
                temporary.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                sync_folder(self.folder)
                return ours
            theirs = self.open(key)
            if theirs is not None and theirs.rows == ours.rows:
                return theirs
            # In the way lies a damaged entry or one with other rows.
            aside = temporary_beside(target)
            try:
                target.rename(aside)
            except FileNotFoundError:  # another writer has just moved it
                continue
            shutil.rmtree(aside, ignore_errors=True)


def _index(key: FeatureKey, rows: Sequence[str], shapes: Mapping[int, tuple[int, ...]]) -> bytes:
    stages = {
        str(stage): {
            "shape": list(shape),
            "bytes": len(_header((len(rows), *shape))) + len(rows) * _row_bytes(shape),
        }
        for stage, shape in sorted(shapes.items())
    }
    return json.dumps({"format": FORMAT, "key": asdict(key), "stages": stages, "rows": list(rows)}).encode()


def _load(folder: Path, key: FeatureKey) -> CachedFeatures:
    """Open an entry.

    Raises:
        FileNotFoundError: it or a part of it isn't there.
        ValueError, KeyError, TypeError, AttributeError: it is damaged.
    """
    while True:
        content = (folder / INDEX).read_bytes()
        index = json.loads(content)
        if index["format"] != FORMAT or index["key"] != asdict(key):
            raise ValueError(f"{INDEX} belongs to other features")
        maps = {
            int(stage): _load_map(folder, int(stage), said, index["rows"])
            for stage, said in index["stages"].items()
        }
        # Another writer may have put an entry with other rows in its place between the index and the maps.
        if (folder / INDEX).read_bytes() == content:
            return CachedFeatures(index["rows"], maps)


def _load_map(folder: Path, stage: int, said: Mapping[str, Any], rows: Sequence[str]) -> FeatureMap:
    path = folder / _file_name(stage)
    size = path.stat().st_size
    if size != said["bytes"]:
        raise ValueError(f"{path.name} has {size} bytes instead of {said['bytes']}")
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if (
        not isinstance(loaded, np.memmap)
        or loaded.dtype != _HALF
        or loaded.shape != (len(rows), *said["shape"])
    ):
        raise ValueError(f"{path.name} is not what {INDEX} says")
    return loaded


def _write_stages(
    folder: Path,
    rows: Sequence[str],
    shapes: Mapping[int, tuple[int, ...]],
    batches: Iterable[Mapping[int, NDArray[np.floating[Any]]]],
) -> None:
    with ExitStack() as stack:
        files: dict[int, BinaryIO] = {}
        for stage, shape in shapes.items():
            files[stage] = stack.enter_context((folder / _file_name(stage)).open("xb"))
            files[stage].write(_header((len(rows), *shape)))
        written = 0
        for batch in batches:
            count = _rows_of(batch, shapes)
            if written + count > len(rows):
                raise FeatureCacheError(
                    f"More features came than the {len(rows)} rows announced. Compute one row per image."
                )
            names = rows[written : written + count]
            for stage, file in files.items():
                file.write(_as_half(batch[stage], stage, names).tobytes())
            written += count
        if written != len(rows):
            raise FeatureCacheError(
                f"Features of {written} rows came where {len(rows)} were announced. Compute one row per image."
            )
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())


def _check_announced(rows: Sequence[str], shapes: Mapping[int, tuple[int, ...]]) -> None:
    if not rows or not shapes:
        raise FeatureCacheError(
            f"Features of {len(rows)} rows and {len(shapes)} stages can't be cached; there must be one of each. "
            "Check the images of the dataset version."
        )
    if len(set(rows)) != len(rows):
        raise FeatureCacheError(
            f"Only {len(set(rows))} of {len(rows)} rows have a name of their own; each image must stand once. "
            "Leave out the copies."
        )
    for stage, shape in shapes.items():
        if len(shape) != 3 or min(shape) < 1:
            raise FeatureCacheError(
                f"Stage {stage} has the shape {tuple(shape)}; it must be (C, h, w), all positive."
            )


def _rows_of(batch: Mapping[int, NDArray[np.floating[Any]]], shapes: Mapping[int, tuple[int, ...]]) -> int:
    """Number of rows of a batch that has exactly the announced stages and shapes."""
    if set(batch) != set(shapes):
        raise FeatureCacheError(f"A batch has stages {sorted(batch)} where {sorted(shapes)} were announced.")
    counts = {values.shape[0] if values.ndim else 0 for values in batch.values()}
    for stage, shape in shapes.items():
        if batch[stage].shape[1:] != tuple(shape) or len(counts) != 1:
            raise FeatureCacheError(
                f"A batch has the shape {batch[stage].shape} at stage {stage}; announced was (b, "
                f"{', '.join(map(str, shape))}) with the same b at every stage."
            )
    return counts.pop()


def _as_half(values: NDArray[np.floating[Any]], stage: int, names: Sequence[str]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):  # an overflow is looked for below
        half = values.astype(_HALF)
    finite = np.isfinite(half).all(axis=(1, 2, 3))
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        if np.isfinite(values[row]).all():
            found = f"up to {float(np.abs(values[row]).max()):.3g}, but fp16 ends at {float(np.finfo(_HALF).max):.0f}"
        else:
            found = "that are not finite"
        raise FeatureCacheError(
            f"Stage {stage} of row '{names[row]}' has features {found}. "
            "Check the backbone's weights, or choose other weights or another backbone."
        )
    return half


def _header(shape: tuple[int, ...]) -> bytes:
    """What stands before the numbers in a .npy file of fp16."""
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": _HALF.str, "fortran_order": False, "shape": tuple(shape)}
    )
    return buffer.getvalue()


def _row_bytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * _HALF.itemsize


def _file_name(stage: int) -> str:
    return f"stage-{stage}.npy"
