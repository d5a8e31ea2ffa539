"""Pictures drawn by number: the same ones every time, every family among them, a pool that goes on."""

import numpy as np
import pytest

from training import pool
from training.drawing.scenes import SCENES, VERSION, draw
from training.drawing.surfaces import SURFACES

SIZE = 48


def test_a_picture_follows_from_seed_and_number():
    first = draw(3, 14, SIZE)
    assert first.shape == (SIZE, SIZE, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, draw(3, 14, SIZE))
    assert (draw(3, 15, SIZE) != first).any()
    assert (draw(4, 14, SIZE) != first).any()


def test_hardly_any_picture_is_flat():
    pictures = [draw(0, index, SIZE) for index in range(60)]
    assert sum(picture.std() > 2 for picture in pictures) >= 54


@pytest.mark.parametrize("surface", dict.fromkeys(SURFACES), ids=lambda surface: surface.__name__)
def test_surfaces_stay_between_0_and_1(surface):
    for seed in range(3):
        field = surface(np.random.default_rng(seed), SIZE)
        assert field.shape == (SIZE, SIZE)
        assert np.isfinite(field).all()
        assert field.min() >= 0
        assert field.max() <= 1


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_scenes_are_finite_at_odd_sizes(scene):
    picture = scene(np.random.default_rng(0), 45)
    assert picture.shape == (45, 45, 3)
    assert np.isfinite(picture).all()


def test_pool_is_drawn_once_and_goes_on_where_a_shard_is_missing(tmp_path):
    pool.draw_pool(tmp_path, pictures=pool.SHARD, size=32, seed=1)
    (shard,) = tmp_path.iterdir()
    written = shard.stat().st_mtime_ns
    with pytest.raises(SystemExit, match="holds 1 shards of drawings; two are needed"):
        pool.open_pool(tmp_path, size=32, seed=1)
    pool.draw_pool(tmp_path, pictures=pool.SHARD + 1, size=32, seed=1)
    assert shard.stat().st_mtime_ns == written
    opened = pool.open_pool(tmp_path, size=32, seed=1)
    assert [part.shape for part in opened] == [(pool.SHARD, 32, 32, 3)] * 2
    np.testing.assert_array_equal(opened[1][3], draw(1, pool.SHARD + 3, 32))


def test_pool_that_was_cut_off_is_not_read_as_whole(tmp_path):
    for shard in (0, 1, 3):
        np.save(tmp_path / f"{VERSION}-0-32-{shard:04d}.npy", np.zeros((2, 32, 32, 3), np.uint8))
    (tmp_path / f"{VERSION}-0-32-0002.part").write_bytes(b"half")
    with pytest.raises(SystemExit, match=r"lacks .*-0002\.npy. Run training.pool"):
        pool.open_pool(tmp_path, size=32, seed=0)
    with pytest.raises(SystemExit, match="holds 0 shards"):
        pool.open_pool(tmp_path, size=32, seed=5)
