import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.blobs import FolderBlobs
from storage.errors import BlobMissing, BlobsUnavailable, DiskFull


@given(data=st.binary())
def test_bytes_come_back_under_their_digest(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "blobs"
    folder.mkdir(exist_ok=True)
    store = FolderBlobs(folder)
    key = store.put(data)
    assert key == sha256(data).hexdigest()
    assert store.get(key) == data
    assert store.path(key).read_bytes() == data
    assert store.has(key)


def test_storing_again_leaves_the_file_alone(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path)
    path = store.path(store.put(b"picture"))
    before = path.stat()
    store.put(b"picture")
    assert path.stat().st_ino == before.st_ino
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_many_writers_of_the_same_bytes_leave_one_file(tmp_path: Path) -> None:
    data = bytes(1_000_000)
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(FolderBlobs(tmp_path).put, [data] * 16))
    assert len(set(keys)) == 1
    assert FolderBlobs(tmp_path).get(keys[0]) == data
    assert sum(file.is_file() for file in tmp_path.rglob("*")) == 1


def test_missing_blob_is_refused(tmp_path: Path) -> None:
    key = sha256(b"never stored").hexdigest()
    assert not FolderBlobs(tmp_path).has(key)
    with pytest.raises(BlobMissing, match=key):
        FolderBlobs(tmp_path).get(key)


@pytest.mark.parametrize("damaged", [b"pict", bytes(7), b"", b"pictures"])
def test_damaged_blob_is_refused_and_mended_by_storing_it_again(tmp_path: Path, damaged: bytes) -> None:
    store = FolderBlobs(tmp_path)
    key = store.put(b"picture")
    store.path(key).write_bytes(damaged)
    with pytest.raises(BlobMissing, match="damaged"):
        store.get(key)
    store.put(b"picture")
    assert store.get(key) == b"picture"


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n"])
def test_what_is_no_digest_leads_nowhere(tmp_path: Path, key: str) -> None:
    for use in (FolderBlobs(tmp_path).get, FolderBlobs(tmp_path).path, FolderBlobs(tmp_path).has):
        with pytest.raises(BlobMissing, match="64 lowercase hexadecimal"):
            use(key)


def test_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFull, match=re.escape(str(tmp_path))):
        FolderBlobs(tmp_path).put(b"picture")
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_bytes_come_in_parts_and_the_last_tells_of_damage(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path)
    key = store.put(b"0123456789")
    assert list(store.chunks(key, size=4)) == [b"0123", b"4567", b"89"]
    assert store.size(key) == 10
    store.path(key).write_bytes(b"012345678x")
    parts = store.chunks(key, size=4)
    assert next(parts) == b"0123"
    with pytest.raises(BlobMissing, match="damaged"):
        list(parts)
    store.path(key).unlink()
    for use in (store.size, lambda digest: list(store.chunks(digest))):
        with pytest.raises(BlobMissing, match="is not in"):
            use(key)


def test_folder_that_is_not_mounted_is_told_apart_from_a_missing_file_and_not_made_anew(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    store = FolderBlobs(folder)
    key = store.put(b"picture")
    shutil.rmtree(folder)
    for use in (
        lambda: store.put(b"another"),
        lambda: store.get(key),
        lambda: store.size(key),
        lambda: store.settle([key]),
        lambda: list(store),
    ):
        with pytest.raises(BlobsUnavailable, match="Mount the disk"):
            use()
    assert not folder.exists()


def test_all_that_is_stored_is_listed_and_nothing_half_written(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path)
    keys = {store.put(data) for data in (b"a", b"b", b"c")}
    (store.path(min(keys)).parent / ".tmp-1-half").write_bytes(b"half")
    assert set(store) == keys
    assert store.sizes([*keys, "0" * 64]) == dict.fromkeys(keys, 1)


def test_settling_what_was_deleted_meanwhile_is_refused(tmp_path: Path) -> None:
    store = FolderBlobs(tmp_path)
    key = store.put(b"picture", settled=False)
    store.path(key).unlink()
    with pytest.raises(BlobMissing, match=key):
        store.settle([key])
