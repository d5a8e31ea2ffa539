import shutil
from pathlib import Path

import pytest

from storage.blobs import FolderBlobs
from storage.bucket import BucketBlobs
from storage.copying import copy_blobs
from storage.errors import BlobsUnavailable


def silent(_done: int, _total: int, _what: str) -> None:
    pass


@pytest.fixture
def old(tmp_path: Path) -> FolderBlobs:
    """A folder of 20 files."""
    (tmp_path / "old").mkdir()
    store = FolderBlobs(tmp_path / "old")
    for number in range(20):
        store.put(bytes([number]) * (number + 1))
    return store


def test_copying_brings_what_is_missing_there_and_back(old: FolderBlobs, tmp_path: Path) -> None:
    bucket = BucketBlobs(f"memory://{tmp_path.name}", tmp_path / "copies", limit_bytes=1e9)
    bucket.put(bytes([3]) * 4)
    seen: list[tuple[int, int, str]] = []
    came = copy_blobs(old, bucket, lambda *about: seen.append(about))
    assert (came.copied, came.there, came.left_out) == (19, 1, ())
    assert seen[-1] == (18, 19, "")
    assert set(bucket) == set(old)
    assert copy_blobs(old, bucket, silent).copied == 0
    (tmp_path / "new").mkdir()
    new = FolderBlobs(tmp_path / "new")
    shutil.rmtree(bucket.folder)
    assert copy_blobs(bucket, new, silent).copied == 20
    assert {key: new.get(key) for key in new} == {key: old.get(key) for key in old}


def test_damaged_files_are_left_out_and_told(old: FolderBlobs, tmp_path: Path) -> None:
    damaged = next(iter(old))
    old.path(damaged).write_bytes(b"something else")
    (tmp_path / "new").mkdir()
    new = FolderBlobs(tmp_path / "new")
    came = copy_blobs(old, new, silent)
    assert (came.copied, len(came.left_out)) == (19, 1)
    assert damaged in came.left_out[0]
    assert not new.has(damaged)


def test_source_that_is_not_there_is_refused(old: FolderBlobs, tmp_path: Path) -> None:
    with pytest.raises(BlobsUnavailable, match="nowhere"):
        copy_blobs(FolderBlobs(tmp_path / "nowhere"), old, silent)
