"""The whole path through real processes: supervisor, MLflow server, worker, dashboard, command line, model server."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIMPLENET = [sys.executable, "-m", "dashboard.cli"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def environment(tmp_path):
    """Environment of an empty installation with ports of its own."""
    # MLflow tells the processes of whoever used it here where its databases were: those of an earlier test.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return {
        **inherited,
        "SIMPLENET_HOME": str(tmp_path / "home"),
        "SIMPLENET_DEVICE": "cpu",
        "SIMPLENET_MLFLOW_PORT": str(free_port()),
        "SIMPLENET_DASHBOARD_PORT": str(free_port()),
        "SIMPLENET_SERVE_PORT": str(free_port()),
    }


@pytest.fixture
def installation(environment):
    """`simplenet up`, ready; interrupted and waited for after the test."""
    process = subprocess.Popen([*SIMPLENET, "up"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        ready = set()
        while len(ready) < 4:
            line = process.stdout.readline()
            assert line, "simplenet up ended early"
            if "ready" in line.split():
                ready.add(line.split("ready")[0].strip())
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)
        process.stdout.close()


def simplenet(environment, *arguments, expect=0):
    done = subprocess.run(
        [*SIMPLENET, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == expect, done.stderr
    return done


def answer(url, body=None, kind="application/json"):
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=120) as response:  # the first request loads the model
        return response.read()


def wait_until_answering(url, process, seconds=90):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return answer(url)
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, f"{url} did not answer"
            time.sleep(0.5)


def test_folder_to_heatmap_to_served_model(installation, environment, make_folder, tmp_path):
    folder = make_folder(defects={"dent": 6, "scratch": 6})
    mlflow = f"http://127.0.0.1:{environment['SIMPLENET_MLFLOW_PORT']}"
    assert answer(f"{mlflow}/health") == b"OK"
    assert answer(f"http://127.0.0.1:{environment['SIMPLENET_DASHBOARD_PORT']}/_stcore/health") == b"ok"

    simplenet(environment, "ingest", folder, "--name", "parts")
    ended = json.loads(
        simplenet(
            environment,
            "study",
            "parts",
            "--trials",
            2,
            "--size",
            64,
            "--layers",
            "1,2",
            "--epochs",
            2,
            "--json",
        ).stdout
    )
    assert ended["study"]["state"] == "completed"
    assert ended["model"]["state"] == "champion"

    out = tmp_path / "heatmaps"
    simplenet(environment, "heatmaps", "parts", "--out", out)
    pictures = list(out.rglob("*.png"))
    assert len(pictures) == ended["model"]["figures"]["test"]["images"]
    for picture in pictures:
        with Image.open(picture) as opened:
            assert opened.height >= 64

    picture = folder / "test" / "dent" / "000.png"
    scored = json.loads(
        simplenet(environment, "score", "parts", picture, "--out", tmp_path / "maps", "--json").stdout
    )
    first = scored[0] if isinstance(scored, list) else scored["pictures"][0]
    assert first["decision"] in ("accept", "reject")

    served = serve_and_score(environment, mlflow, picture)
    assert served["score"] == pytest.approx(first["score"], rel=0, abs=0)
    assert served["decision"] == first["decision"]
    assert served["map"].shape == (64, 64)

    server = f"http://127.0.0.1:{environment['SIMPLENET_SERVE_PORT']}"
    plain = json.loads(answer(f"{server}/parts/predict?map=npy", picture.read_bytes(), "image/png"))
    assert (plain["score"], plain["decision"]) == (first["score"], first["decision"])
    values = np.load(io.BytesIO(base64.b64decode(plain["map"]["base64"])))
    np.testing.assert_array_equal(values, served["map"])
    by_protocol = json.loads(answer(f"{server}/parts/invocations", invocation(picture)))["predictions"][0]
    assert {key: value for key, value in by_protocol.items() if key != "anomaly_map"} == {
        key: value for key, value in served.items() if key not in ("anomaly_map", "map")
    }
    assert by_protocol["anomaly_map"] == served["anomaly_map"]

    installation.send_signal(signal.SIGINT)
    assert installation.wait(60) == 0
    with pytest.raises(OSError):  # noqa: PT011 (refused or reset, both mean that nobody listens)
        answer(f"{mlflow}/health")


def invocation(picture: Path) -> bytes:
    data = base64.b64encode(picture.read_bytes()).decode()
    body = {"dataframe_split": {"columns": ["image"], "data": [[data]]}, "params": {"maps": True}}
    return json.dumps(body).encode()


def serve_and_score(environment, mlflow, picture: Path):
    """Serve the champion with plain `mlflow models serve` and ask it for one picture."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    server = subprocess.Popen(
        [*command, "--model-uri", "models:/parts@champion", "--host", "127.0.0.1", "--port", str(port)],
        # MLflow looks for uvicorn on the path, as in an activated environment.
        env={
            **environment,
            "MLFLOW_TRACKING_URI": mlflow,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        start_new_session=True,
    )
    try:
        wait_until_answering(f"http://127.0.0.1:{port}/ping", server)
        row = json.loads(answer(f"http://127.0.0.1:{port}/invocations", invocation(picture)))["predictions"][
            0
        ]
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)
    row["map"] = np.load(io.BytesIO(base64.b64decode(row["anomaly_map"])))
    return row


def test_study_without_a_worker_starts_its_own(environment, make_folder):
    simplenet(environment, "ingest", make_folder(defects={"dent": 6}), "--name", "parts")
    arguments = ("study", "parts", "--trials", 1, "--size", 64, "--layers", "1,2", "--epochs", 1, "--json")
    ended = json.loads(simplenet(environment, *arguments).stdout)
    assert ended["study"]["state"] == "completed"
    listed = json.loads(simplenet(environment, "studies", "--json").stdout)
    assert [study["state"] for study in listed] == ["completed"]


def test_detached_study_waits_for_a_worker(environment, make_folder):
    simplenet(environment, "ingest", make_folder(defects={"dent": 6}), "--name", "parts")
    simplenet(environment, "study", "parts", "--trials", 1, "--size", 64, "--detach")
    listed = json.loads(simplenet(environment, "studies", "--json").stdout)
    assert [study["state"] for study in listed] == ["queued"]
    simplenet(environment, "cancel", listed[0]["id"])
    listed = json.loads(simplenet(environment, "studies", "--json").stdout)
    assert [study["state"] for study in listed] == ["cancelled"]
