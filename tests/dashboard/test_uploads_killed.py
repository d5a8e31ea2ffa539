"""The real server killed at random moments of an upload: nothing is half, and the upload goes on to its end."""

import hashlib
import os
import random
import socket
import threading
import time
import zipfile
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from storage import datasets, staging
from storage.settings import Settings
from storage.workspace import open_workspace
from tests.dashboard.upload_client import Client, Server, head_of_patch, until
from tests.wholeness import check_whole
from tuning import arrivals, jobs
from tuning.arrivals import Intake, Plan
from tuning.jobs import JobState

ROOT = Path(__file__).parents[2]
SLICE_BYTES = 2_000_000
PATIENCE_SECONDS = 120


@pytest.mark.slow
def test_upload_survives_ten_kills_and_becomes_the_whole_dataset(
    tmp_path: Path, free_port: int, make_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = make_folder(train=120, test_normal=20, defects={"dent": 10}, size=384)
    content = _zipped(folder, tmp_path / "parts.zip").read_bytes()
    settings = Settings(home=tmp_path / "home", upload_max_gb=0.05)
    workspace = open_workspace(settings)  # so that there is a database that could be left by half
    origin = f"http://127.0.0.1:{free_port}"
    client = Client(free_port, settings, headers={"Origin": origin, "Sec-Fetch-Site": "same-origin"})
    server = Server(settings, free_port)
    moments = random.Random(0)
    files = [("parts.zip", len(content))]
    # The first while the upload is announced, the last while it is completed, the others spread over its bytes.
    kills = [int((number + moments.random()) * len(content) / 8) for number in range(8)]
    with server:
        _ask_and_kill(server, lambda: client.announce(*files), moments.uniform(0, 0.02))
    _check(settings, content)
    for kill_at in kills:
        with server:
            answer = client.announce(*files)
            assert answer.status in (200, 201), answer.body
            upload = answer.json["id"]
            _send_and_kill(server, client, upload, content, kill_at, moments.uniform(0, 0.05))
        _check(settings, content)
    with server:
        assert client.announce(*files).json["id"] == upload  # nothing was begun anew on the way
        at = client("GET", f"/uploads/{upload}/0").json
        assert at["index"] == 1 or at["offset"] > 0
        while at["index"] == 0:
            at = client.send(upload, 0, at["offset"], content[at["offset"] : at["offset"] + SLICE_BYTES]).json
        _ask_and_kill(server, lambda: client("POST", f"/uploads/{upload}/complete"), moments.uniform(0, 0.02))
    _check(settings, content)
    with server:
        assert client("POST", f"/uploads/{upload}/complete").json == {"id": upload, "complete": True}
        (file,) = staging.find(settings.staging_folder, upload).source_files()
        assert hashlib.sha256(file.path.read_bytes()).digest() == hashlib.sha256(content).digest()
        assert [arrival.id for arrival in arrivals.list_arrivals(workspace)] == [upload]

    _ended(settings, arrivals.start_look(workspace, upload).key)
    plan = Plan(intakes=(Intake(name="parts"),), who="ann")
    _ended(settings, arrivals.start_take(workspace, upload, plan).key)
    assert check_whole(settings) == [("parts", 1, 150)]
    with workspace.session() as session:
        version = datasets.latest_version(session, "parts")
        for image in datasets.list_images(session, version.id):
            part = folder / image.name.removeprefix("parts/")
            assert image.digest == hashlib.sha256(part.read_bytes()).hexdigest(), image.name
    until(lambda: not (settings.staging_folder / upload).exists(), PATIENCE_SECONDS)
    _ended(settings, f"doctor-{version.id}")
    workspace.close()


def _check(settings: Settings, content: bytes) -> None:
    """Nothing is in the database, and what has arrived is the beginning of what was sent."""
    assert check_whole(settings) == []
    for upload in staging.list_uploads(settings.staging_folder):
        (size,) = staging.received(upload)
        assert size == 0 or upload.path(0).read_bytes() == content[:size]


def _send_and_kill(
    server: Server, client: Client, upload: str, content: bytes, kill_at: int, delay: float
) -> None:
    """Go on where the server is; once so many bytes are sent, kill it after so many seconds in the middle of a body."""
    at = client("GET", f"/uploads/{upload}/0").json["offset"]
    while at + SLICE_BYTES < kill_at:
        at = client.send(upload, 0, at, content[at : at + SLICE_BYTES]).json["offset"]
    body = content[at : at + SLICE_BYTES]
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(head_of_patch(client, upload, len(body), at) + body[: max(0, kill_at - at)])
        time.sleep(delay)
        server.kill()


def _ask_and_kill(server: Server, ask: Any, delay: float) -> None:
    """Kill the server so many seconds after a request was begun, which it may have answered or not."""

    def try_to_ask() -> None:
        with suppress(OSError, HTTPException):
            ask()

    asking = threading.Thread(target=try_to_ask)
    asking.start()
    time.sleep(delay)
    server.kill()
    asking.join()


def _ended(settings: Settings, key: str) -> None:
    def has_ended() -> bool:
        job = jobs.status(settings, key)
        assert job is None or job.state in (JobState.RUNNING, JobState.DONE), job
        return job is not None and job.state is JobState.DONE

    until(has_ended, PATIENCE_SECONDS)


def _zipped(folder: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, os.fspath(Path(folder.name) / path.relative_to(folder)))
    return file
