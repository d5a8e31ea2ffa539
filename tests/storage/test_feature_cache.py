import errno
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from storage.errors import FeatureCacheError
from storage.feature_cache import CachedFeatures, FeatureCache, FeatureKey

KEY = FeatureKey(
    version_digest="v", backbone="resnet18", weights_digest="w", height=24, width=24, preprocessing="1"
)
SHAPES = {2: (4, 3, 3), 3: (8, 2, 2)}
ROWS = ["a", "b", "c", "d", "e"]

Batch = dict[int, NDArray[np.floating[Any]]]


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features")


def features(rows: int = len(ROWS), seed: int = 0, dtype: type = np.float32) -> Batch:
    random = np.random.default_rng(seed)
    return {
        stage: random.normal(size=(rows, *shape)).astype(np.float16).astype(dtype)
        for stage, shape in SHAPES.items()
    }


def in_batches(whole: Batch, size: int = 2) -> Iterator[Batch]:
    for start in range(0, len(whole[2]), size):
        yield {stage: values[start : start + size] for stage, values in whole.items()}


def write(cache: FeatureCache, whole: Batch | None = None, **changes: Any) -> CachedFeatures:
    values: dict[str, Any] = {"key": KEY, "rows": ROWS, "shapes": SHAPES}
    values["batches"] = in_batches(features() if whole is None else whole)
    return cache.write(**values | changes)


def files(cache: FeatureCache) -> list[str]:
    return sorted(
        path.relative_to(cache.folder).parts[-1] for path in cache.folder.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_what_is_written_comes_back_by_row_and_stage(cache: FeatureCache, dtype: type, size: int) -> None:
    whole = features(dtype=dtype)
    written = write(cache, batches=in_batches(whole, size))
    opened = cache.open(KEY)
    assert opened is not None
    for entry in (written, opened):
        assert entry.rows == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}
        assert entry.stages == (2, 3)
        for stage in entry.stages:
            assert entry.stage(stage).dtype == np.float16
            np.testing.assert_array_equal(entry.stage(stage), whole[stage])


def test_empty_batch_changes_nothing(cache: FeatureCache) -> None:
    whole = features()
    nothing = {stage: values[:0] for stage, values in whole.items()}
    written = write(cache, batches=[nothing, whole, nothing])
    np.testing.assert_array_equal(written.stage(2), whole[2])


def test_features_are_read_only_and_not_in_memory(cache: FeatureCache) -> None:
    values = write(cache).stage(2)
    assert isinstance(values, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 0
    with pytest.raises(TypeError):
        write(cache).rows["z"] = 1  # type: ignore[index]


def test_absent_entry_and_absent_folder_are_none(cache: FeatureCache) -> None:
    assert cache.open(KEY) is None
    assert cache.total_bytes() == 0
    assert cache.sweep() == 0
    write(cache)
    assert cache.open(replace(KEY, version_digest="other")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"version_digest": "x"},
        {"backbone": "x"},
        {"weights_digest": "x"},
        {"height": 25},
        {"width": 25},
        {"preprocessing": "x"},
    ],
)
def test_every_part_of_the_key_counts(cache: FeatureCache, change: dict[str, Any]) -> None:
    write(cache)
    assert cache.open(replace(KEY, **change)) is None
    write(cache, features(seed=1), key=replace(KEY, **change))
    kept = cache.open(KEY)
    assert kept is not None
    np.testing.assert_array_equal(kept.stage(2), features()[2])


def test_unknown_stage_is_refused(cache: FeatureCache) -> None:
    with pytest.raises(FeatureCacheError, match="Stage 1 is not cached; cached are 2, 3"):
        write(cache).stage(1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (70_000.0, r"features up to 7e\+04, but fp16 ends at 65504"),
        (-70_000.0, r"features up to 7e\+04"),
        (np.nan, "not finite"),
        (np.inf, "not finite"),
    ],
)
def test_what_fp16_can_not_hold_is_refused_naming_stage_and_row(
    cache: FeatureCache, value: float, message: str
) -> None:
    whole = features()
    whole[3][3, 1, 0, 0] = value
    with pytest.raises(FeatureCacheError, match=f"Stage 3 of row 'd' has .*{message}"):
        write(cache, whole)
    assert files(cache) == []
    assert cache.open(KEY) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, "0 rows and 2 stages"),
        ({"shapes": {}}, "5 rows and 0 stages"),
        ({"rows": ["a", "b", "b", "c", "d"]}, "Only 4 of 5 rows"),
        ({"rows": ROWS[:4]}, "More features came than the 4 rows"),
        ({"rows": [*ROWS, "f"]}, "5 rows came where 6 were announced"),
        ({"shapes": {2: (4, 3, 3)}}, r"stages \[2, 3\] where \[2\] were announced"),
        ({"shapes": {2: (4, 3, 3), 3: (8, 2, 3)}}, r"shape \(2, 8, 2, 2\) at stage 3"),
        ({"shapes": {2: (4, 3, 3), 3: (8, 4)}}, r"Stage 3 has the shape \(8, 4\)"),
        ({"shapes": {2: (4, 3, 3), 3: (8, 0, 2)}}, "all positive"),
        ({"batches": [{2: np.zeros((1, 4, 3, 3)), 3: np.zeros((2, 8, 2, 2))}]}, "same b at every stage"),
        ({"batches": []}, "0 rows came where 5 were announced"),
    ],
)
def test_features_that_are_not_as_announced_are_refused(
    cache: FeatureCache, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(FeatureCacheError, match=message):
        write(cache, **changes)
    assert not cache.folder.exists() or files(cache) == []


def test_what_the_computation_raises_is_passed_on_and_leaves_nothing(cache: FeatureCache) -> None:
    def cancelled() -> Iterable[Batch]:
        yield next(in_batches(features()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(cache, batches=cancelled())
    assert list(cache.folder.iterdir()) == []


def test_second_writer_of_the_same_rows_keeps_the_entry_of_the_first(cache: FeatureCache) -> None:
    first: list[CachedFeatures] = []

    def overtaken() -> Iterator[Batch]:
        yield from in_batches(features())
        first.append(write(cache))

    second = write(cache, batches=overtaken())
    np.testing.assert_array_equal(second.stage(2), first[0].stage(2))
    assert files(cache) == ["index.json", "stage-2.npy", "stage-3.npy"]


def test_entry_with_other_rows_is_replaced_and_stays_readable_for_who_holds_it(cache: FeatureCache) -> None:
    old = write(cache)
    new = write(cache, features(3, seed=1), rows=["x", "y", "z"])
    found = cache.open(KEY)
    assert found is not None
    assert list(found.rows) == list(new.rows) == ["x", "y", "z"]
    np.testing.assert_array_equal(found.stage(3), features(3, seed=1)[3])
    assert list(old.rows) == ROWS
    np.testing.assert_array_equal(old.stage(3), features()[3])


def test_many_writers_and_readers_at_once_see_whole_entries_only(cache: FeatureCache) -> None:
    def writer(number: int) -> None:
        rows = [f"{number % 2}-{row}" for row in range(number % 2 + 3)]
        entry = write(cache, features(len(rows), seed=number % 2), rows=rows)
        np.testing.assert_array_equal(entry.stage(2), features(len(rows), seed=number % 2)[2])

    def reader(_number: int) -> None:
        entry = cache.open(KEY)
        if entry is not None:
            seed = len(entry.rows) - 3
            np.testing.assert_array_equal(entry.stage(3), features(len(entry.rows), seed=seed)[3])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: (reader if number % 3 else writer)(number), range(90)))
    assert files(cache) == ["index.json", "stage-2.npy", "stage-3.npy"]


def test_two_processes_may_write_the_same_entry(
    cache: FeatureCache, start_script: Callable[..., "subprocess.Popen[str]"]
) -> None:
    writers = [start_script("write_features.py", cache.folder, "v", 3) for _ in range(2)]
    for process in writers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    assert cache.open(KEY) is None
    for process in writers:
        process.communicate("go\n", timeout=60)
    assert [process.returncode for process in writers] == [0, 0]
    entry = cache.open(KEY)
    assert entry is not None
    assert entry.stage(2)[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert files(cache) == ["index.json", "stage-2.npy"]


def test_killed_writer_leaves_no_entry_and_what_it_left_is_swept_after_a_day(
    cache: FeatureCache, start_script: Callable[..., "subprocess.Popen[str]"]
) -> None:
    process = start_script("write_features.py", cache.folder, "v", 3)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    assert process.wait() == -9
    assert cache.open(KEY) is None
    assert cache.sweep() == 0, "its writer might live"
    (left,) = cache.folder.iterdir()
    for path in (*left.iterdir(), left):
        os.utime(path, (time.time() - 90_000,) * 2)
    assert cache.sweep() == 1
    assert list(cache.folder.iterdir()) == []


def test_sweep_leaves_entries_and_busy_writers_alone(cache: FeatureCache) -> None:
    write(cache)
    for path in (*cache.folder.rglob("*"), cache.folder):
        os.utime(path, (0, 0))
    busy = cache.folder / ".tmp-1-busy"
    busy.mkdir()
    (busy / "stage-2.npy").touch()
    os.utime(busy, (0, 0))
    assert cache.sweep() == 0
    assert cache.open(KEY) is not None
    assert busy.is_dir()


def _truncate(folder: Path) -> None:
    path = folder / "stage-3.npy"
    os.truncate(path, path.stat().st_size - 1)


def _other_shape(folder: Path) -> None:
    path = folder / "stage-3.npy"
    path.write_bytes(path.read_bytes().replace(b"(5, 8, 2, 2)", b"(5, 8, 1, 4)"))


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(index | changes))

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_truncate, id="truncated"),
        pytest.param(lambda folder: (folder / "stage-2.npy").write_bytes(b"x" * 488), id="overwritten"),
        pytest.param(_other_shape, id="other shape"),
        pytest.param(lambda folder: (folder / "stage-2.npy").unlink(), id="stage missing"),
        pytest.param(lambda folder: (folder / "index.json").unlink(), id="index missing"),
        pytest.param(lambda folder: (folder / "index.json").write_text("{"), id="index no JSON"),
        pytest.param(lambda folder: (folder / "index.json").write_text("[]"), id="index no object"),
        pytest.param(_edit(rows=ROWS[:4]), id="row missing"),
        pytest.param(_edit(key={}), id="other key"),
        pytest.param(_edit(format=2), id="other format"),
    ],
)
def test_damaged_entry_counts_as_absent_is_logged_and_replaced(
    cache: FeatureCache, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    write(cache)
    damage(cache.folder / KEY.folder_name)
    assert cache.open(KEY) is None
    assert "damaged features count as absent" in caplog.text
    write(cache)
    assert cache.open(KEY) is not None
    assert files(cache) == ["index.json", "stage-2.npy", "stage-3.npy"]


def test_total_bytes_counts_all_files(cache: FeatureCache) -> None:
    write(cache)
    (cache.folder / ".tmp-1-left").write_bytes(bytes(1000))
    expected = sum(path.stat().st_size for path in cache.folder.rglob("*") if path.is_file())
    assert cache.total_bytes() == expected > 1000 + 2 * 5 * (4 * 9 + 8 * 4)


def test_disk_that_is_too_small_is_refused_before_anything_is_computed(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(100, 0, 100))  # type: ignore[attr-defined]

    def never() -> Iterator[Batch]:
        pytest.fail("computed in vain")
        yield {}

    with pytest.raises(FeatureCacheError, match="Features of 5 images need"):
        write(cache, batches=never())


def test_disk_that_fills_up_is_reported_and_leaves_nothing(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FeatureCacheError, match="filled up"):
        write(cache)
    assert files(cache) == []
