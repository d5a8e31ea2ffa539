"""Real HTTP against the addresses of archives and originals."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from dashboard import downloads, thumbnails
from storage.settings import Settings
from storage.workspace import open_blobs
from tests.dashboard.upload_client import Client, serving
from tests.s3 import EmulatedS3


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(home=tmp_path / "home")
    for folder in made.folders:
        folder.mkdir(parents=True)
    return made


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with serving(settings) as made:
        made.headers.clear()  # what follows a link carries no ticket
        yield made


def test_archive_is_saved_under_its_name_and_can_go_on(client: Client, settings: Settings) -> None:
    content = os.urandom(3_000_000)
    file = settings.exports_folder / "parts-version-2.zip"
    file.write_bytes(content)
    address = downloads.archive_address(settings, file)
    answer = client("GET", address)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/zip")
    assert answer.headers["content-disposition"] == 'attachment; filename="parts-version-2.zip"'
    assert answer.body == content
    rest = client("GET", address, Range="bytes=2000000-")
    assert (rest.status, rest.body) == (206, content[2_000_000:])
    file.unlink()
    gone = client("GET", address)
    assert (gone.status, "Prepare it again" in gone.json["error"]) == (404, True)


@pytest.mark.parametrize(
    ("kind", "told"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("TIFF", "image/tiff"), ("WEBP", "image/webp")],
)
def test_original_comes_byte_for_byte_as_the_picture_that_it_is(
    client: Client, settings: Settings, kind: str, told: str
) -> None:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (9, 9, 9)).save(out, kind)
    digest = open_blobs(settings).put(out.getvalue())
    answer = client("GET", downloads.original_address(settings, digest))
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, told, out.getvalue())
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_files_are_given_to_our_pages_alone(client: Client, settings: Settings) -> None:
    file = settings.exports_folder / "parts-version-1.zip"
    file.write_bytes(b"x")
    (settings.home / "secret.zip").write_bytes(b"x")
    address = downloads.archive_address(settings, file)
    assert client("GET", "/exports/parts-version-1.zip").status == 401
    assert client("GET", address[:-1]).status == 401
    assert client("GET", address.replace("version-1", "version-2")).status == 401
    assert client("GET", address, Sec_Fetch_Site="cross-site").status == 403
    digest = "0" * 64
    key = downloads.original_address(settings, digest).partition("?")[2]
    assert client("GET", f"/thumbnails/{digest}?{key}").status == 401  # a key opens one kind of address
    for missing in (digest, "0"):
        assert client("GET", downloads.original_address(settings, missing)).status == 404
    (settings.exports_folder / ".tmp-x").write_bytes(b"half an archive")
    unfinished = client("GET", downloads.archive_address(settings, Path(".tmp-x")))
    assert (unfinished.status, "is not there any more" in unfinished.json["error"]) == (404, True)
    for outside in (Path("..%2fsecret.zip"), Path("..")):
        assert client("GET", downloads.archive_address(settings, outside)).status in (401, 404)


def test_pictures_in_a_bucket_are_shown_and_saved_and_an_absent_bucket_is_told(
    s3: EmulatedS3, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path / "home", blobs_url="s3://parts/line-3")
    settings.home.mkdir()
    out = io.BytesIO()
    Image.new("RGB", (400, 300), (9, 9, 9)).save(out, "PNG")
    digest = open_blobs(Settings(home=tmp_path / "other", blobs_url="s3://parts/line-3")).put(out.getvalue())
    with serving(settings) as client:
        client.headers.clear()
        answer = client("GET", downloads.original_address(settings, digest))
        assert (answer.status, answer.body) == (200, out.getvalue())
        assert client("GET", thumbnails.address(settings, digest)).status == 200
        shutil.rmtree(settings.blobs_folder)
        s3.stop()
        away = client("GET", downloads.original_address(settings, digest))
        assert away.status == 503
        assert "s3://parts/line-3" in away.json["error"]
        # What was drawn once needs no bucket.
        assert client("GET", thumbnails.address(settings, digest)).status == 200
