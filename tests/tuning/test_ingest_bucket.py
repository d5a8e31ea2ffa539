"""Pictures taken in while their bucket goes away: the old version or the new one, and nothing lost."""

from hashlib import sha256

import pytest

from storage import bucket, datasets
from storage.errors import BlobsUnavailable
from storage.settings import Settings
from storage.workspace import open_workspace
from tuning.ingest import ingest_folder


@pytest.fixture
def workspace(s3, tmp_path, monkeypatch):
    """An installation with pictures in an emulated S3 that is given up quickly, and without copies of them."""
    monkeypatch.setitem(
        bucket.OPTIONS,
        "config_kwargs",
        {"connect_timeout": 5, "read_timeout": 0.5, "retries": {"total_max_attempts": 1}},
    )
    monkeypatch.setattr(bucket, "STORE_SECONDS", 1.0)
    opened = open_workspace(Settings(home=tmp_path / "home", blobs_url="s3://parts/line-3", device="cpu"))
    yield opened
    opened.close()


def read_all(workspace, version):
    """Every picture and mask of a version as another machine would read it; answers how many."""
    with workspace.session() as session:
        images = datasets.list_images(session, version.id)
    digests = {digest for image in images for digest in (image.digest, image.mask_digest) if digest}
    other = bucket.BucketBlobs(workspace.blobs.where, workspace.settings.home / "other", limit_bytes=1e9)
    assert all(sha256(other.get(digest)).hexdigest() == digest for digest in digests)
    return len(images)


def test_bucket_that_goes_away_leaves_the_old_version_and_the_next_try_makes_the_new_one(
    s3, workspace, make_folder
):
    old = ingest_folder(workspace, make_folder("old", train=20, defects={"dent": 4}), "parts").version
    assert read_all(workspace, old) == 32
    more = make_folder("more", train=40, size=65)

    def away(done, _total, _what):
        if done == 10:
            s3.pause()

    with pytest.raises(BlobsUnavailable, match=r"s3://parts/line-3.*then try again"):
        ingest_folder(workspace, more, "parts", progress=away)
    s3.go_on()
    with workspace.session() as session:
        assert datasets.latest_version(session, "parts") == old
    assert read_all(workspace, old) == 32
    new = ingest_folder(workspace, more, "parts").version
    assert new.number == 2
    assert read_all(workspace, new) == 32 + 40 + 8


def test_picture_that_vanishes_before_the_version_is_written_is_noticed(s3, workspace, make_folder):
    def lose(done, total, _what):
        if done == total:
            files = workspace.blobs._files
            files.rm_file(files.find("parts/line-3")[0])

    with pytest.raises(bucket.BlobMissing, match="is not in s3://parts/line-3"):
        ingest_folder(workspace, make_folder(), "parts", progress=lose)
    with workspace.session() as session:
        assert datasets.list_datasets(session) == []
