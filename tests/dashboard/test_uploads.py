"""Real HTTP against the routes of uploads and thumbnails, and against the whole server where that is the question."""

import hashlib
import io
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from streamlit import config

from dashboard import thumbnails, tickets, uploads
from dashboard.components import uploader
from dashboard.server import streamlit_options
from engine.masks import encode_mask
from storage import staging
from storage.settings import Settings
from storage.thumbnails import Thumbnails
from storage.workspace import open_blobs
from tests.dashboard.upload_client import Client, Server, head_of_patch, serving, until
from tuning import arrivals


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(home=tmp_path / "home", upload_max_gb=0.05)
    for folder in made.folders:
        folder.mkdir(parents=True)
    return made


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with serving(settings) as made:
        yield made


def test_files_arrive_and_are_completed(client: Client, settings: Settings) -> None:
    upload = client.begin(("a.zip", 3_000_000), ("b.png", 5))
    content = os.urandom(3_000_000)
    assert client.send(upload, 0, 0, content[:1_500_000]).json == {"index": 0, "offset": 1_500_000}
    assert client("GET", f"/uploads/{upload}").json == {
        "id": upload,
        "dataset": "plates",
        "files": 2,
        "size": 3_000_005,
        "received": {"0": 1_500_000},
        "complete": False,
    }
    assert client.send(upload, 0, 1_500_000, content[1_500_000:] + b"hello", to=1).json == {
        "index": 2,
        "offset": 0,
    }
    assert client("POST", f"/uploads/{upload}/complete").json == {"id": upload, "complete": True}
    assert client("GET", f"/uploads/{upload}").json["complete"] is True
    first, second = staging.find(settings.staging_folder, upload).source_files()
    assert (first.name, first.path.read_bytes() == content) == ("a.zip", True)
    assert (second.name, second.path.read_bytes()) == ("b.png", b"hello")


def test_same_files_announced_again_go_on(client: Client) -> None:
    upload = client.begin(("a.zip", 10), ("b.png", 5))
    client.send(upload, 0, 0, b"abc")
    again = client.announce(("a.zip", 10), ("b.png", 5))
    assert (again.status, again.json) == (200, {"id": upload, "refused": [], "received": {"0": 3}})
    assert client.begin(("a.zip", 10), ("b.png", 5), dataset="tiles") != upload
    assert client.begin(("a.zip", 10), ("b.png", 6)) != upload


def test_what_was_never_sent_is_kept_with_its_reason_for_the_review(
    client: Client, settings: Settings
) -> None:
    names = ["a/v.SVG", "a/README", "a/\u202etfel.mp4", *(f"{number}.pdf" for number in range(1000))]
    upload = client.announce(("a/b.png", 5), left_out=names).json["id"]
    kept = staging.find(settings.staging_folder, upload).refused
    assert [(one.name, one.reason) for one in kept[:3]] == [
        ("a/v.SVG", "It is a drawing without pixels. Export it as PNG."),
        (
            "a/README",
            "It is no picture, table or archive. Leave it out, or save it as PNG if it is a picture.",
        ),
        ("a/\\u202etfel.mp4", "It is a video. Export its frames as PNG."),
    ]
    assert (len(kept), kept[-1].name) == (1001, "3 more")


@pytest.mark.parametrize(("minutes", "quiet"), [(0, False), (5, True)])
def test_unfinished_uploads_are_told_the_last_interrupted_first(
    client: Client, settings: Settings, minutes: int, quiet: bool
) -> None:
    made = [client.begin((f"{number}.zip", 10)) for number in range(7)]
    client.send(made[2], 0, 0, b"abc")
    for age, upload in enumerate([made[2], *made[:2], *made[3:]]):  # made[2] was heard of last
        folder = staging.find(settings.staging_folder, upload).folder
        then = time.time() - 60 * minutes - age
        for file in (folder, *folder.rglob("*")):
            os.utime(file, (then, then))
    told = uploader._unfinished(settings, "plates")
    assert [one["title"] for one in told] == ["2.zip", "0.zip", "1.zip", "3.zip", "4.zip"]
    assert [one["received"] for one in told] == [3, 0, 0, 0, 0]
    assert {one["quiet"] for one in told} == {quiet}
    assert uploader._unfinished(settings, "tiles") == []


def test_bad_names_are_left_out_with_their_reasons_and_the_others_go_in(
    client: Client, settings: Settings
) -> None:
    files = [
        ("parts/aux.png", 9),
        ("parts/a.png", 3),
        ("../evil.png", 9),
        ("parts/b.png", 2),
        ("parts/a.png", 9),
    ]
    told = client.announce(*files).json
    assert [index for index, _ in told["refused"]] == [0, 2, 4]
    upload = told["id"]
    assert client.send(upload, 0, 0, b"abcde", to=1).json == {"index": 2, "offset": 0}
    assert client.announce(*files).json == {**told, "received": {"0": 3, "1": 2}}  # after a reload
    assert client("POST", f"/uploads/{upload}/complete").status == 200
    found = staging.find(settings.staging_folder, upload)
    assert [(file.name, file.path.read_bytes()) for file in found.source_files()] == [
        ("parts/a.png", b"abc"),
        ("parts/b.png", b"de"),
    ]
    assert [one.name for one in found.refused] == ["parts/aux.png", "../evil.png", "parts/a.png"]
    for one, told_of_it in zip(
        found.refused, ("Windows keeps that name", "leads out of its folder", "given twice"), strict=True
    ):
        assert told_of_it in one.reason


def test_folder_that_can_not_be_swept_hinders_no_upload(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = settings.staging_folder / ("a" * 32)
    old.mkdir()
    os.utime(old, (0, 0))
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path == old:
            raise PermissionError(13, "Permission denied")  # as of a folder of another user
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    assert client.announce(("a.zip", 10)).status == 201
    assert old.is_dir()


def test_20000_small_files_come_in_few_requests(client: Client, settings: Settings) -> None:
    files = [(f"parts/train/good/{number:05d}.png", 100) for number in range(20_000)]
    upload = client.begin(*files)
    content = os.urandom(2_000_000)
    for first in range(0, 20_000, 1000):
        answer = client.send(upload, first, 0, content[100 * first : 100 * (first + 1000)], to=first + 999)
        assert answer.json == {"index": first + 1000, "offset": 0}
    assert client("POST", f"/uploads/{upload}/complete").status == 200
    found = staging.find(settings.staging_folder, upload).source_files()
    assert [file.name for file in found] == [name for name, _ in files]
    assert b"".join(file.path.read_bytes() for file in found) == content


def test_without_a_valid_ticket_nothing_is_answered(client: Client, settings: Settings) -> None:
    upload = client.begin(("a.png", 3))
    secret = tickets.secret(settings.home)
    good = tickets.issue(secret, time.time())
    expiry, _, signature = good.partition(".")
    wrong = [
        "",
        "x",
        ".",
        "é.é",
        f"{int(expiry) + 1}.{signature}",
        f"{expiry}.{signature[:-1]}",
        tickets.issue(os.urandom(32), time.time()),
    ]
    requests = [
        ("POST", "/uploads"),
        ("GET", f"/uploads/{upload}"),
        ("GET", f"/uploads/{upload}/0"),
        ("PATCH", f"/uploads/{upload}/0"),
        ("POST", f"/uploads/{upload}/complete"),
        ("DELETE", f"/uploads/{upload}"),
    ]
    for ticket in wrong:
        for method, path in requests:
            answer = client(method, path, b"abc", Upload_Ticket=ticket)
            assert (answer.status, answer.json["error"][:33]) == (401, "The request carries no ticket of ")
    old = tickets.issue(secret, time.time() - tickets.LIFETIME_SECONDS - 1)
    answer = client("GET", f"/uploads/{upload}", Upload_Ticket=old)
    assert answer.status == 401
    assert "open for more than 12 hours. Reload it" in answer.json["error"]
    assert client("GET", f"/uploads/{upload}").json["received"] == {}


def test_secret_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(tickets.secret, [tmp_path] * 16))
    assert len(secrets) == 1
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b"short")
    with pytest.raises(tickets.BadTicket, match="5 bytes instead of 32"):
        tickets.secret(tmp_path)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Origin": "http://127.0.0.1:1"},
    ],
)
def test_other_pages_are_refused(client: Client, headers: dict[str, str], settings: Settings) -> None:
    answer = client("POST", "/uploads", b'{"dataset": "", "files": [["a", 1, 0]]}', **headers)
    assert answer.status == 403
    assert "another page" in answer.json["error"]
    assert list(settings.staging_folder.iterdir()) == []


def test_our_own_pages_and_those_that_are_named_are_let_in(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = client.begin(("a.png", 3))
    path = f"/uploads/{upload}"
    assert client("GET", path, Origin=f"http://127.0.0.1:{client.port}").status == 200
    # A proxy gave another Host; the browser itself says that it is the same page.
    assert client("GET", path, Origin="https://quality.example", Sec_Fetch_Site="same-origin").status == 200
    before = config.get_option("server.corsAllowedOrigins")
    config.set_option("server.corsAllowedOrigins", ["https://portal.example"])
    try:
        named = client("GET", path, Origin="https://portal.example", Sec_Fetch_Site="cross-site")
    finally:
        config.set_option("server.corsAllowedOrigins", before)
    assert named.status == 200


def test_bytes_for_another_place_are_answered_with_the_true_one(client: Client) -> None:
    upload = client.begin(("a.zip", 10), ("b.png", 5))
    client.send(upload, 0, 0, b"abc")
    for index, offset, to in ((0, 0, 1), (0, 2, 1), (0, 4, 1)):
        answer = client.send(upload, index, offset, b"xx", to=to)
        assert (answer.status, answer.json["index"], answer.json["offset"]) == (409, 0, 3)
    assert client("GET", f"/uploads/{upload}/0?to=1").json == {"index": 0, "offset": 3}
    assert client("GET", f"/uploads/{upload}/1").json == {"index": 1, "offset": 0}
    assert client("GET", f"/uploads/{upload}").json["received"] == {"0": 3}


def test_a_body_longer_than_announced_is_refused_before_it_comes(client: Client) -> None:
    upload = client.begin(("a.zip", 10), ("b.png", 5))
    for body, to in ((bytes(11), 0), (bytes(16), 1), (bytes(9_000_000), 1)):
        answer = client.send(upload, 0, 0, body, to=to)
        assert answer.status == 413
        assert "were announced" in answer.json["error"]
    assert client("GET", f"/uploads/{upload}").json["received"] == {}


def test_two_tabs_that_send_the_same_file_leave_it_whole(client: Client, settings: Settings) -> None:
    content = os.urandom(20_000_000)
    upload = client.begin(("a.zip", len(content)))

    def send(size: int) -> None:
        at = {"index": 0, "offset": 0}
        while at["index"] == 0:
            offset = at["offset"]
            at = client.send(upload, 0, offset, content[offset : offset + size]).json

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(send, [3_000_000, 3_000_000, 4_100_000]))
    assert client("POST", f"/uploads/{upload}/complete").status == 200
    (file,) = staging.find(settings.staging_folder, upload).source_files()
    assert file.path.read_bytes() == content


def test_a_client_that_vanishes_leaves_what_it_sent(client: Client) -> None:
    upload = client.begin(("a.zip", 8_000_000))
    content = os.urandom(8_000_000)
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(head_of_patch(client, upload, len(content)) + content[:5_000_000])
    until(lambda: client("GET", f"/uploads/{upload}/0").json["offset"] == 5_000_000)
    assert client.send(upload, 0, 5_000_000, content[5_000_000:]).status == 200


def test_a_client_that_falls_silent_is_let_go(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "SILENT_SECONDS", 0.2)
    upload = client.begin(("a.zip", 100))
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(head_of_patch(client, upload, 100) + b"x" * 40)
        assert b" 408 " in connection.recv(1000).partition(b"\r\n")[0]
    assert client("GET", f"/uploads/{upload}/0").json == {"index": 0, "offset": 40}


def test_a_full_disk_is_told_and_the_upload_goes_on(client: Client, settings: Settings) -> None:
    upload = client.begin(("a.png", 3))
    file = staging.find(settings.staging_folder, upload).path(0)
    file.symlink_to("/dev/full")  # every write to it fails as on a full disk
    answer = client.send(upload, 0, 0, b"abc")
    assert (answer.status, "free some space" in answer.json["error"]) == (507, True)
    file.unlink()
    assert client.send(upload, 0, 0, b"abc").json == {"index": 1, "offset": 0}


def test_slice_is_refused_where_the_disk_would_fall_below_its_reserve(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = client.begin(("a.png", 3))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    answer = client.send(upload, 0, 0, b"abc")
    assert (answer.status, "reserve" in answer.json["error"]) == (507, True)


def test_complete_tells_what_is_missing(client: Client) -> None:
    upload = client.begin(("a.png", 3), ("b.png", 3))
    client.send(upload, 0, 0, b"abca", to=1)
    answer = client("POST", f"/uploads/{upload}/complete")
    assert answer.status == 409
    assert "'b.png'" in answer.json["error"]


def test_deleted_upload_is_gone(client: Client, settings: Settings) -> None:
    upload = client.begin(("a.png", 3))
    assert client("DELETE", f"/uploads/{upload}").status == 200
    for answer in (client("GET", f"/uploads/{upload}"), client.send(upload, 0, 0, b"abc")):
        assert (answer.status, "Choose the files again" in answer.json["error"]) == (404, True)
    assert list(settings.staging_folder.iterdir()) == []


@pytest.mark.parametrize(
    "upload", ["..", "%2e%2e", "..%2f..%2fetc", "a" * 31, "A" * 32, "upload.json", "%00", "a" * 32 + "%0a"]
)
def test_what_is_no_id_leads_nowhere(client: Client, upload: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/complete"), ("PATCH", "/0")):
        assert client(method, f"/uploads/{upload}{path}", b"", Upload_Offset="0").status in (404, 405)


@pytest.mark.parametrize(
    "path", ["/0?to=-1", "/0?to=x", "/0?to=2", "/1?to=0", "/2", "/99999999999999999999", "/0?to=%C2%B2"]
)
def test_files_that_were_not_announced_are_refused(client: Client, path: str) -> None:
    upload = client.begin(("a.png", 3), ("b.png", 3))
    for method in ("GET", "PATCH"):
        answer = client(method, f"/uploads/{upload}{path}", b"", Upload_Offset="0")
        assert (answer.status, "error" in answer.json) == (400, True)


@pytest.mark.parametrize("offset", ["", "-1", "1.5", "x", "9" * 30])
def test_offset_that_is_no_number_is_refused(client: Client, offset: str) -> None:
    upload = client.begin(("a.png", 3))
    answer = client("PATCH", f"/uploads/{upload}/0", b"abc", Upload_Offset=offset)
    assert (answer.status, "Upload-Offset" in answer.json["error"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "can't be read"),
        (b"[]", 400, "can't be read"),
        (b'{"dataset": "", "files": [["a.png", "many", 0]]}', 400, "can't be read"),
        (b'{"dataset": "", "files": [["\\ud800.png", 1, 0]]}', 400, "can't be read"),
        (b'{"dataset": "", "files": []}', 400, "no files"),
        (b'{"dataset": "", "files": [["../a.png", 1, 0]]}', 400, "../a.png"),
        (b'{"dataset": "", "files": [["/a.png", 1, 0], ["aux", 1, 0]]}', 400, "None of the 2 files"),
        (b'{"dataset": "", "files": [["a.zip", 50000001, 0]]}', 413, "upload_max_gb"),
        (b" " * (uploads.MAX_ANNOUNCEMENT_BYTES + 1), 413, "too long"),
    ],
)
def test_what_can_not_be_uploaded_is_refused(
    client: Client, settings: Settings, body: bytes, status: int, told: str
) -> None:
    answer = client("POST", "/uploads", body)
    assert (answer.status, told in answer.json["error"]) == (status, True), answer.json
    assert list(settings.staging_folder.iterdir()) == []


def test_upload_that_nothing_was_added_to_is_deleted_by_the_next(client: Client, settings: Settings) -> None:
    old = client.begin(("a.png", 3))
    long_ago = time.time() - 24 * 3600 * arrivals.KEPT_DAYS - 1
    os.utime(settings.staging_folder / old / "upload.json", (long_ago, long_ago))
    new = client.begin(("b.png", 3))
    assert [path.name for path in settings.staging_folder.iterdir()] == [new]


def test_an_error_that_nobody_foresaw_is_numbered(
    client: Client, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    upload = client.begin(("a.png", 3))
    (settings.staging_folder / upload / "upload.json").write_text("broken")
    with caplog.at_level(logging.ERROR, logger="dashboard.guard"):
        answer = client("GET", f"/uploads/{upload}")
    assert answer.status == 500
    incident = answer.json["error"].partition("incident ")[2][:6]
    assert incident in caplog.text


def test_thumbnail_is_a_small_jpeg_that_browsers_keep(client: Client, settings: Settings) -> None:
    digest = _store_picture(settings)
    address = thumbnails.address(settings, digest)
    for _ in range(2):  # made, then read
        answer = client("GET", address, Upload_Ticket="")
        assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
        assert "immutable" in answer.headers["cache-control"]
        assert Image.open(io.BytesIO(answer.body)).size == (thumbnails.SIDE, thumbnails.SIDE // 2)


@pytest.mark.parametrize("left", [0, 100])
def test_thumbnail_that_a_power_cut_left_empty_or_cut_off_is_made_again(
    settings: Settings, left: int
) -> None:
    digest = _store_picture(settings)
    whole = thumbnails.thumbnail(settings, open_blobs(settings), digest, "a.png")
    file = Thumbnails(settings.thumbnails_folder).path(digest)
    file.write_bytes(whole[:left])
    assert thumbnails.thumbnail(settings, open_blobs(settings), digest, "a.png") == whole == file.read_bytes()


def test_thumbnail_shows_the_outline_of_a_mask_outside_the_defect(client: Client, settings: Settings) -> None:
    digest = _store_picture(settings)
    plain = Image.open(io.BytesIO(client("GET", thumbnails.address(settings, digest)).body))
    mask = np.zeros((plain.height * 2, plain.width * 2), bool)
    mask[40:80, 40:80] = True
    address = thumbnails.address(settings, digest, open_blobs(settings).put(encode_mask(mask)))
    for _ in range(2):  # made, then read
        drawn = np.asarray(Image.open(io.BytesIO(client("GET", address).body)).convert("RGB"), np.int16)
        off = np.abs(drawn - np.asarray(plain.convert("RGB"), np.int16)).max(axis=-1)
        assert off[18:20, 20:40].mean() > 60  # just above the defect
        assert off[60:].max() < 20  # far from it: nothing but JPEG's rounding
    assert client("GET", address.replace(digest, "0" * 64)).status == 401


def test_thumbnail_is_shown_to_our_pages_alone(client: Client, settings: Settings) -> None:
    digest = _store_picture(settings)
    address = thumbnails.address(settings, digest)
    assert client("GET", f"/thumbnails/{digest}").status == 401
    assert client("GET", address[:-1]).status == 401
    assert client("GET", address.replace(digest[:8], "00000000")).status == 401
    assert client("GET", address, Sec_Fetch_Site="cross-site").status == 403
    for missing in ("0" * 64, "0"):
        answer = client("GET", thumbnails.address(settings, missing))
        assert (answer.status, missing in answer.json["error"]) == (404, True)


def test_flags_become_options_of_the_right_type() -> None:
    flags = ["--server.port=8501", "--server.headless=true", "--theme.base=a=b.toml", "--a.b=false"]
    assert streamlit_options(flags) == {
        "server.port": 8501,
        "server.headless": True,
        "theme.base": "a=b.toml",
        "a.b": False,
    }


def test_server_has_pages_and_routes_below_its_base_path(settings: Settings, free_port: int) -> None:
    server = Server(settings, free_port, "--server.baseUrlPath=quality")
    with server:
        client = Client(free_port, settings, base="/quality")
        upload = client.begin(("a.png", 3))
        assert client.send(upload, 0, 0, b"abc").json == {"index": 1, "offset": 0}
        page = client("GET", "/")
        assert b"<title>Streamlit</title>" in page.body
        outside = Client(free_port, settings)
        assert outside("POST", "/uploads").status != 401
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=15) == 0


@pytest.mark.slow
def test_upload_goes_on_after_the_server_was_killed_again_and_again(
    settings: Settings, free_port: int
) -> None:
    content = os.urandom(40_000_000)
    client, upload = Client(free_port, settings), ""
    server = Server(settings, free_port)
    for kill_at in (9_000_000, 22_500_000, 31_000_000, None):
        with server:
            at = {"index": 0, "offset": 0}
            if upload:
                at = client("GET", f"/uploads/{upload}/0").json
            else:
                upload = client.begin(("a.zip", len(content)))
            while at["index"] == 0:
                body = content[at["offset"] : at["offset"] + 2_000_000]
                if kill_at is not None and at["offset"] + len(body) > kill_at:
                    _send_in_part(client, upload, at["offset"], body, kill_at - at["offset"])
                    server.process.kill()
                    server.process.wait()
                    break
                at = client.send(upload, 0, at["offset"], body).json
    # The last server is gone as well; its successor completes.
    with server:
        assert client("POST", f"/uploads/{upload}/complete").status == 200
    (file,) = staging.find(settings.staging_folder, upload).source_files()
    assert hashlib.sha256(file.path.read_bytes()).digest() == hashlib.sha256(content).digest()


def _send_in_part(client: Client, upload: str, offset: int, body: bytes, sent: int) -> None:
    head = head_of_patch(client, upload, len(body)).replace(
        b"Upload-Offset: 0", f"Upload-Offset: {offset}".encode()
    )
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(head + body[:sent])
        time.sleep(0.05)  # some of it is written when the server dies, some is not


def _store_picture(settings: Settings) -> str:
    out = io.BytesIO()
    Image.new("RGB", (600, 300), (200, 30, 30)).save(out, "PNG")
    return open_blobs(settings).put(out.getvalue())


def test_disk_that_becomes_full_within_a_body_is_told_and_the_upload_goes_on(
    small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = small_disk(8) / "home"
    settings = Settings(home=home, upload_max_gb=0.05)
    home.mkdir()
    without_reserve = staging.Limits(max_bytes=5e7, reserve_bytes=0)
    monkeypatch.setattr(uploads, "limits", lambda _: without_reserve)  # the disk is smaller than the reserve
    content = os.urandom(6_000_000)
    with serving(settings) as client:
        upload = client.begin(("a.zip", len(content)))
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(head_of_patch(client, upload, len(content)) + content[:2_500_000])
            until(lambda: client("GET", f"/uploads/{upload}/0").json["offset"] >= 2_000_000)
            # Somebody else takes the room that was there when the body was announced.
            (home / "filler").write_bytes(bytes(3_000_000))
            connection.sendall(content[2_500_000:])
            told = _read_answer(connection)
        assert told.startswith(b"HTTP/1.1 507 ")
        for part in (
            str(settings.staging_folder),
            "The upload needs 6.0 MB in all",
            "0.0 MB free",
            "free some space",
        ):
            assert part.encode() in told
        offset = client("GET", f"/uploads/{upload}/0").json["offset"]
        assert 2_000_000 <= offset < len(content)
        again = client.send(upload, 0, offset, content[offset:])
        assert (again.status, str(settings.staging_folder) in again.json["error"]) == (507, True)
        (home / "filler").unlink()
        offset = client("GET", f"/uploads/{upload}/0").json["offset"]
        assert client.send(upload, 0, offset, content[offset:]).json == {"index": 1, "offset": 0}
        assert client("POST", f"/uploads/{upload}/complete").status == 200
    (file,) = staging.find(settings.staging_folder, upload).source_files()
    assert file.path.read_bytes() == content


def test_upload_to_a_disk_below_its_reserve_is_refused_before_it_begins(
    small_disk: Callable[[int], Path],
) -> None:
    settings = Settings(home=small_disk(8) / "home")
    settings.staging_folder.mkdir(parents=True)
    with serving(settings) as client:
        answer = client.announce(("a.zip", 6_000_000))
    assert answer.status == 507
    for part in (
        "The upload needs 6.0 MB",
        str(settings.staging_folder),
        "1.0 GB of which stay in reserve",
        "Free",
    ):
        assert part in answer.json["error"]
    assert list(settings.staging_folder.iterdir()) == []


def _read_answer(connection: socket.socket) -> bytes:
    told = b""
    while b'"}' not in told and (part := connection.recv(10_000)):
        told += part
    return told
