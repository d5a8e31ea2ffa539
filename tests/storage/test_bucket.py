"""Pictures in a bucket: in fsspec's memory, which is quick, and in an emulated S3 over HTTP, which people have."""

import logging
import os
import shutil
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec
import pytest

from storage import bucket
from storage.bucket import BucketBlobs
from storage.errors import BlobMissing, BlobsUnavailable, DiskFull, SettingsError
from storage.settings import Settings
from storage.workspace import open_blobs, open_workspace
from tests.s3 import EmulatedS3

GB = 1e9


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty place that several machines share."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return "s3://parts/line-3"
    return f"memory://{tmp_path.name}"


@pytest.fixture
def machine(place: str, tmp_path: Path) -> Callable[..., BucketBlobs]:
    """Factory of machines that share the place: `machine("a")`, each with copies of its own."""

    def make(name: str, limit_bytes: float = GB) -> BucketBlobs:
        return BucketBlobs(place, tmp_path / name, limit_bytes=limit_bytes)

    return make


def stored(place: str, digest: str) -> tuple[Any, str]:
    """The file system behind a place, and where a file lies in it."""
    files, root = fsspec.url_to_fs(place, skip_instance_cache=True)
    return files, f"{root}/{digest[:2]}/{digest}"


def copies(store: BucketBlobs) -> set[str]:
    return {file.name for file in store.folder.glob("??/*")}


def test_what_one_machine_stores_the_other_reads(machine: Callable[..., BucketBlobs]) -> None:
    a, b = machine("a"), machine("b")
    data = os.urandom(3_000_000)
    key = a.put(data)
    assert key == sha256(data).hexdigest()
    assert (b.has(key), b.size(key), b.get(key)) == (True, 3_000_000, data)
    assert b.path(key).read_bytes() == data
    assert [len(part) for part in b.chunks(key, size=2_000_000)] == [2_000_000, 1_000_000]
    assert list(b) == [key]
    a.settle([key])
    assert not b.has("0" * 64)
    for use in (
        b.get,
        b.path,
        b.size,
        lambda digest: list(b.chunks(digest)),
        lambda digest: b.settle([digest]),
    ):
        with pytest.raises(BlobMissing, match=f"{'0' * 64} is not in {b.where}"):
            use("0" * 64)


def test_nothing_is_stored_twice_and_what_is_cut_off_is_stored_again(
    machine: Callable[..., BucketBlobs], place: str
) -> None:
    a = machine("a")
    key = a.put(b"picture")
    files, path = stored(place, key)
    before = files.modified(path)
    assert machine("b").put(b"picture") == key
    assert files.modified(path) == before
    files.pipe_file(path, b"pict")
    assert machine("b").put(b"picture") == key
    assert files.cat_file(path) == b"picture"


def test_read_once_it_is_read_from_the_copy(machine: Callable[..., BucketBlobs], place: str) -> None:
    key = machine("a").put(b"picture")
    b = machine("b")
    b.get(key)
    files, path = stored(place, key)
    files.rm(path)
    assert b.get(key) == b"picture"
    assert not b.has(key), "only the bucket tells what is stored"


@pytest.mark.parametrize("damaged", [b"pict", bytes(7), b""])
def test_damaged_copy_is_fetched_again(machine: Callable[..., BucketBlobs], damaged: bytes) -> None:
    b = machine("b")
    key = machine("a").put(b"picture")
    for use in (b.get, lambda digest: b.path(digest).read_bytes(), lambda digest: b"".join(b.chunks(digest))):
        path = b.path(key)
        path.write_bytes(damaged)
        assert use(key) == b"picture"
        assert path.read_bytes() == b"picture"
    shutil.rmtree(b.folder)
    assert b.get(key) == b"picture"


def test_file_that_is_damaged_in_the_bucket_is_refused_and_not_kept(
    machine: Callable[..., BucketBlobs], place: str
) -> None:
    key = machine("a").put(b"picture")
    files, path = stored(place, key)
    files.pipe_file(path, b"picturE")
    b = machine("b")
    with pytest.raises(BlobMissing, match=r"damaged \(7 bytes with another digest\)\. Delete it there"):
        b.get(key)
    assert copies(b) == set()


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "A" * 64, "a" * 64 + "\n"])
def test_what_is_no_digest_leads_nowhere(machine: Callable[..., BucketBlobs], key: str) -> None:
    store = machine("a")
    for use in (store.get, store.path, store.has, store.size):
        with pytest.raises(BlobMissing, match="64 lowercase hexadecimal"):
            use(key)


def test_copies_used_longest_ago_are_let_go_and_fetched_again(tmp_path: Path) -> None:
    place = f"memory://{tmp_path.name}"
    full = BucketBlobs(place, tmp_path / "a", limit_bytes=GB)
    keys = [full.put(bytes([number]) * 1000) for number in range(12)]
    b = BucketBlobs(place, tmp_path / "b", limit_bytes=10_000)
    for age, key in enumerate(keys[:10]):
        os.utime(b.path(key), (age, age))
    assert copies(b) == set(keys[:10])
    b.get(keys[0])  # used now
    b.get(keys[10])
    assert copies(b) == {keys[0], *keys[3:11]}, "down to nine tenths of the limit"
    assert b.get(keys[1]) == bytes([1]) * 1000


def test_picture_larger_than_all_copies_may_be_is_there_while_it_is_read(tmp_path: Path) -> None:
    b = BucketBlobs(f"memory://{tmp_path.name}", tmp_path / "b", limit_bytes=1000)
    small, large = b.put(b"small"), b.put(bytes(5000))
    assert b.path(large).read_bytes() == bytes(5000)
    assert copies(b) == {large}
    assert b.get(small) == b"small"


def test_without_room_for_copies_pictures_are_read_all_the_same(
    small_disk: Callable[[int], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place, data = f"memory://{tmp_path.name}", os.urandom(2_000_000)
    key = BucketBlobs(place, tmp_path / "a", limit_bytes=GB).put(data)
    b = BucketBlobs(place, small_disk(1) / "copies", limit_bytes=GB)
    with caplog.at_level(logging.WARNING):
        assert b.get(key) == data
    assert "no copy" in caplog.text
    assert b.put(data) == key
    with pytest.raises(DiskFull, match="no room left"):
        b.path(key)
    assert copies(b) == set()


def test_bucket_that_is_away_is_told_with_its_address_and_comes_back(s3: EmulatedS3, tmp_path: Path) -> None:
    store = BucketBlobs("s3://parts/line-3", tmp_path / "a", limit_bytes=GB)
    key = store.put(b"picture")
    shutil.rmtree(store.folder)
    s3.stop()
    for use in (
        lambda: store.put(b"another"),
        lambda: store.get(key),
        lambda: store.sizes([key]),
        lambda: list(store),
        lambda: store.settle([key]),
    ):
        with pytest.raises(
            BlobsUnavailable, match=r"s3://parts/line-3: Could not connect.* then try again\.$"
        ) as told:
            use()
        assert "secret-of-the-tests" not in str(told.value)
        assert "key-of-the-tests" not in str(told.value)
    s3.start()  # which has forgotten everything
    with pytest.raises(BlobsUnavailable, match=r"no bucket s3://parts/line-3\. Make it"):
        store.put(b"another")
    s3.make_bucket("parts")
    assert store.put(b"picture") == key


@pytest.mark.parametrize("size", [7, 6_000_000])  # which fits into what the line buffers, and which does not
def test_bucket_that_goes_silent_while_a_picture_is_stored_is_told(
    s3: EmulatedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(bucket, "STORE_SECONDS", 1.0)
    monkeypatch.setattr(bucket, "STORE_BYTES_PER_SECOND", 6_000_000)
    store, data = BucketBlobs("s3://parts/line-3", tmp_path / "a", limit_bytes=GB), os.urandom(size)
    looked = store._size

    def go_silent(digest: str) -> int | None:
        found = looked(digest)
        s3.pause()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(store, "_size", go_silent)
        with pytest.raises(
            BlobsUnavailable, match=rf"did not take {size:,} bytes within \d s\..*try again\.$"
        ):
            store.put(data)
    s3.go_on()
    assert store.get(store.put(data)) == data


def test_without_credentials_the_remedy_names_them(
    s3: EmulatedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = BucketBlobs("s3://parts/line-3", tmp_path / "a", limit_bytes=GB)
    with pytest.raises(BlobsUnavailable, match=r"credentials.*AWS_ACCESS_KEY_ID"):
        store.put(b"picture")


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SettingsError, match=r"s3://parts.*pip install 'simplenet-automl\[s3\]'"):
        open_blobs(Settings(home=tmp_path, blobs_url="s3://parts"))


def test_settings_choose_the_place(s3: EmulatedS3, tmp_path: Path) -> None:
    workspace = open_workspace(Settings(home=tmp_path / "home", blobs_url="s3://parts/line-3/"))
    assert workspace.blobs.where == "s3://parts/line-3"
    assert workspace.blobs.folder == tmp_path / "home" / "fetched"
    key = workspace.blobs.put(b"picture")
    assert open_blobs(Settings(home=tmp_path / "other", blobs_url="s3://parts/line-3")).get(key) == b"picture"
    workspace.close()
