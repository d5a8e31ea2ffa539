"""Cached scores and maps: whole, or absent."""

import numpy as np
import pytest

from tuning.map_cache import MapCache


def test_what_was_put_comes_back_bit_equal(tmp_path):
    cache = MapCache(tmp_path / "maps")
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    assert cache.get("part") is None
    cache.put("part", 0.1, values)
    score, kept = cache.get("part")
    assert score == cache.score("part") == 0.1
    assert np.array_equal(kept, values)


@pytest.mark.parametrize("length", [0, 10, 200])
def test_damaged_file_counts_as_absent(tmp_path, length):
    cache = MapCache(tmp_path)
    cache.put("part", 0.1, np.zeros((5, 7), np.float32))
    file = tmp_path / "part.npz"
    file.write_bytes(file.read_bytes()[:length])
    assert cache.get("part") is None
    assert cache.score("part") is None


def test_rename_replaces_what_is_there(tmp_path):
    old, new = MapCache(tmp_path / "old"), MapCache(tmp_path / "deep" / "new")
    new.put("stale", 1.0, np.zeros((2, 2), np.float32))
    old.put("part", 2.0, np.zeros((2, 2), np.float32))
    old.rename(new.folder)
    assert new.score("part") == 2.0
    assert new.score("stale") is None
    old.rename(tmp_path / "other")
    MapCache(tmp_path / "absent").rename(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
