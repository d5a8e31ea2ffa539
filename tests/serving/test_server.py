"""The server as a process: keys, refusing to start open, following under load, a full queue, kill -9."""

import io
import os
import signal
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from engine.images import decode
from storage import api_keys, models
from storage.records import now
from tests.serving.client import Client, free_port, model_server, start, wait_for
from tuning import serving_client, supervisor
from tuning.commands import promote, withdraw_champion
from tuning.predictor import detector, score_images

pytestmark = pytest.mark.slow

CLIENTS = 4


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def add_key(workspace, name="line 3"):
    with workspace.session() as session:
        return api_keys.add_key(session, name=name, who="test", now=now())[1]


def ended(home, **settings):
    """Start a server that should refuse; answers its exit code and last words."""
    process = start(home, serve_port=free_port(), **settings)
    code = process.wait(120)
    return code, (home / "serve.log").read_text().strip().split("\n")[-1]


def test_no_server_starts_open_to_others_without_a_key(own_home, own_workspace):
    for settings, why in (
        ({"serve_host": "0.0.0.0"}, "SIMPLENET_SERVE_HOST is '0.0.0.0', which other machines can reach"),
        ({"serve_require_key": "true"}, "SIMPLENET_SERVE_REQUIRE_KEY is set"),
    ):
        code, said = ended(own_home, **settings)
        assert code == 1
        assert f"The model server does not start: {why}, and there is no API key." in said
        assert "`simplenet keys add NAME`" in said
    add_key(own_workspace)
    with own_workspace.session() as session:
        api_keys.revoke_key(session, name="line 3", now=now())
    assert ended(own_home, serve_require_key="true")[0] == 1  # a revoked key is none


def test_taken_port_is_told(own_home, free_port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port))
        other.listen()
        process = start(own_home, serve_port=free_port)
        assert process.wait(120) == 1
    assert f"Port {free_port} of 127.0.0.1 is taken" in (own_home / "serve.log").read_text()


def test_open_server_answers_keys_only_and_a_revoked_one_no_more(
    own_home, own_workspace, pictures, monkeypatch
):
    monkeypatch.setattr(serving_client, "_absent_until", {})
    data = pictures[0].read_bytes()
    champion = next(model for model in models_of(own_workspace) if model.version == 1)
    key, other = add_key(own_workspace), add_key(own_workspace, "line 4")
    with model_server(own_home, serve_host="0.0.0.0") as (client, process):
        assert client("GET", "/health").status == 200  # what supervisors ask
        for answer in (
            client.predict(data),
            client("GET", "/"),
            client("GET", "/stats"),
            client("GET", "/parts/ping"),
        ):
            assert answer.status == 401
            assert "carries no API key" in answer.json["error"]
        assert client.predict(data, **bearer("sn_wrong")).status == 401
        assert client.predict(data, **bearer(key)).status == 200
        settings = own_workspace.settings.model_copy(update={"serve_port": client.port})
        assert serving_client.score(settings, champion, data) is not None  # our own pages are let in
        # Whatever it is called:
        assert client.predict(data, Host="line3.example", **bearer(key)).status == 200
        assert client.predict(data, Origin="https://evil.example", **bearer(key)).status == 403
        with own_workspace.session() as session:
            api_keys.revoke_key(session, name="line 3", now=now())
        wait_for(lambda: client.predict(data, **bearer(key)).status == 401)
        assert client.predict(data, **bearer(other)).status == 200
        new = add_key(own_workspace, "line 5")
        wait_for(lambda: client.predict(data, **bearer(new)).status == 200)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    with own_workspace.session() as session:
        used = {one.name: one.last_used_at is not None for one in api_keys.list_keys(session)}
    assert used == {"line 3": True, "line 4": True, "line 5": True}
    log = (own_home / "serve.log").read_text()
    assert not any(secret in log for secret in (key, other, new))


@pytest.mark.parametrize("moves", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_moving_the_alias_under_load_fails_no_request(own_home, own_workspace, pictures, moves):
    bodies = [picture.read_bytes() for picture in pictures[:6]]
    pixels = [decode(body, "picture") for body in bodies]
    expected = {}  # version → score of each picture
    for model in models_of(own_workspace):
        loaded = detector(own_workspace, model)
        expected[model.version] = [loaded.score([one])[0].score for one in pixels]
    stop = threading.Event()

    def ask(number):
        seen = []
        while not stop.is_set():
            index = (number + len(seen)) % len(bodies)
            answer = client.upload(bodies[index])
            seen.append((answer.status, index, answer.json.get("model_version"), answer.json.get("score")))
        return seen

    with model_server(own_home) as (client, _):
        assert client.predict(bodies[0]).status == 200
        with ThreadPoolExecutor(CLIENTS) as pool:
            asking = [pool.submit(ask, number) for number in range(CLIENTS)]
            try:
                for move in range(moves):
                    version = 2 if move % 2 == 0 else 1
                    promote(own_workspace, "parts", version, who="test", why="to see it followed")
                    wait_for(lambda wanted=version: client.predict(bodies[0]).json["model_version"] == wanted)
            finally:
                stop.set()
        seen = [one for future in asking for one in future.result()]
        stats = client("GET", "/parts/stats").json
    assert {status for status, *_ in seen} == {200}
    assert {version for _, _, version, _ in seen} == {1, 2}
    assert all(score == expected[version][index] for _, index, version, score in seen)
    assert stats["errors"] == 0
    assert stats["requests"] >= len(seen)


def models_of(workspace):
    with workspace.session() as session:
        return models.list_models(session, "parts")


def test_champion_that_is_withdrawn_while_it_serves_is_answered_for_no_more(
    own_home, own_workspace, pictures
):
    data = pictures[0].read_bytes()
    with model_server(own_home) as (client, _):
        assert client.predict(data).status == 200
        withdraw_champion(own_workspace, "parts", who="test", why="blind")
        wait_for(lambda: client.predict(data).status == 409)
        assert "has no champion" in client.predict(data).json["error"]
        promote(own_workspace, "parts", 2, who="test", why="better")
        answer = client.predict(data)
        assert (answer.status, answer.json["model_version"]) == (200, 2)


@pytest.mark.slow  # MLflow waits 20 s for a lock
def test_locked_databases_are_said_and_what_is_loaded_goes_on(own_home, own_workspace, pictures):
    data = pictures[0].read_bytes()
    with model_server(own_home) as (client, _):
        assert client.predict(data).status == 200
        locks = [sqlite3.connect(own_home / name) for name in ("app.db", "mlflow.db")]
        for lock in locks:
            lock.execute("BEGIN EXCLUSIVE")
        try:
            answer = client.predict(data, "plates")
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert "MLflow could not ask for the champion of 'plates'" in answer.json["error"]
            assert client.predict(data).status == 200
            wait_for(lambda: client("GET", "/parts/stats").json["trouble"])
        finally:
            for lock in locks:
                lock.close()
        wait_for(lambda: client.predict(data, "plates").status == 200)
        wait_for(lambda: client("GET", "/parts/stats").json["trouble"] is None)


def test_more_requests_than_may_wait_are_told_to_come_again(own_home, pictures):
    file = io.BytesIO()
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 255, (2000, 2000, 3), np.uint8)).save(file, "PNG")  # takes a while
    with model_server(own_home, serve_threads=1, serve_queue=1) as (client, _):
        assert client.predict(pictures[0].read_bytes()).status == 200
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(client.predict, [file.getvalue()] * 8))
        assert {answer.status for answer in answers} == {200, 503}
        refused = next(answer for answer in answers if answer.status == 503)
        assert refused.headers["retry-after"] == "1"
        assert "2 requests are under way, the most that this server keeps." in refused.json["error"]
        assert client.predict(pictures[0].read_bytes()).status == 200  # and then there is room again


@pytest.mark.slow
def test_killed_server_is_started_again(own_home, own_workspace, pictures):
    port = free_port()
    settings = own_workspace.settings.model_copy(update={"serve_port": port})
    spec = next(one for one in supervisor.installation(settings, demo=False) if one.name == "model server")
    assert spec.environment["SIMPLENET_SERVE_PORT"] == str(port)
    changes, stop = [], threading.Event()
    thread = threading.Thread(
        target=supervisor.up, args=(own_workspace, [spec]), kwargs={"stop": stop, "on_change": changes.append}
    )
    thread.start()
    client = Client(port)
    try:
        wait_for(lambda: changes and changes[-1].state == "ready", 120)
        assert client.predict(pictures[0].read_bytes()).status == 200
        first = changes[-1].pid
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: changes[-1].state == "ready" and changes[-1].pid != first, 120)
        assert client.predict(pictures[0].read_bytes()).status == 200
    finally:
        stop.set()
        thread.join(60)


@pytest.mark.slow
def test_supervisor_says_why_a_server_does_not_start_and_starts_it_once_it_can(own_home, own_workspace):
    port = free_port()
    settings = own_workspace.settings.model_copy(update={"serve_port": port, "serve_require_key": True})
    spec = next(one for one in supervisor.installation(settings, demo=False) if one.name == "model server")
    spec.environment["SIMPLENET_SERVE_REQUIRE_KEY"] = "true"
    changes, stop = [], threading.Event()
    thread = threading.Thread(
        target=supervisor.up, args=(own_workspace, [spec]), kwargs={"stop": stop, "on_change": changes.append}
    )
    thread.start()
    try:
        wait_for(lambda: changes and changes[-1].state == "restarting", 120)
        assert "there is no API key. Make one with `simplenet keys add NAME`" in changes[-1].detail
        add_key(own_workspace)
        wait_for(lambda: changes[-1].state == "ready", 120)
    finally:
        stop.set()
        thread.join(60)


def test_pages_get_their_maps_from_the_server_bit_for_bit(own_home, own_workspace, monkeypatch):
    from storage import datasets

    monkeypatch.setattr(serving_client, "_absent_until", {})
    champion = next(model for model in models_of(own_workspace) if model.version == 1)
    other = next(model for model in models_of(own_workspace) if model.version == 2)
    with own_workspace.session() as session:
        image = datasets.list_images(session, champion.dataset_version_id)[0]
    data = own_workspace.blobs.get(image.digest)
    here = next(score_images(own_workspace, champion, [image]))
    with model_server(own_home, serve_require_key="false") as (client, _):
        settings = own_workspace.settings.model_copy(update={"serve_port": client.port})
        served = serving_client.score(settings, champion, data)
        assert served.score == here.score
        np.testing.assert_array_equal(served.anomaly_map, here.anomaly_map)
        assert serving_client.score(settings, other, data) is None  # not what it serves
        assert serving_client.score(settings, champion, b"broken") is None
        found = serving_client.stats(settings, "parts")
        assert (found["model_version"], found["requests"]) == (1, 0)  # pages are not counted
    assert serving_client.score(settings, champion, data) is None  # gone
    assert time.monotonic() < serving_client._absent_until[settings.model_server_url]
