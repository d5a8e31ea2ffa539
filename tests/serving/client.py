"""A model server in a process of its own, and a client that sees everything of its answers."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 120
BOUNDARY = "a-boundary-that-no-picture-has"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]  # by lower-case name
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection per request, as curl makes them."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port, self.host = port, host

    def __call__(
        self, method: str, path: str, body: Any = None, *, encode_chunked: bool = False, **headers: str
    ) -> Answer:
        """Ask; headers are named with underscores: `Content_Type`."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, named, encode_chunked=encode_chunked)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def predict(self, data: bytes, dataset: str = "parts", query: str = "", **headers: str) -> Answer:
        """Score a plain picture."""
        headers = {"Content_Type": "image/png", **headers}
        return self("POST", f"/{dataset}/predict{query}", data, **headers)

    def upload(self, data: bytes, dataset: str = "parts", field: str = "image", **headers: str) -> Answer:
        """Score a picture in a form."""
        part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="part.png"\r\n\r\n'
        body = part.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return self("POST", f"/{dataset}/predict", body, Content_Type=kind, **headers)


@contextmanager
def model_server(home: Path, **settings: Any) -> Iterator[tuple[Client, subprocess.Popen[bytes]]]:
    """Run `simplenet serve` while the context lasts; answers when it does.

    Args:
        settings: by name, such as `serve_threads=1`.
    """
    port = free_port()
    process = start(home, serve_port=port, **settings)
    try:
        client = Client(port)
        wait_until_answering(client, process, home / "serve.log")
        yield client, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


def start(home: Path, **settings: Any) -> subprocess.Popen[bytes]:
    """Start `simplenet serve`; its words go to `serve.log` in the home."""
    environment = {
        **os.environ,
        "SIMPLENET_HOME": str(home),
        "SIMPLENET_DEVICE": "cpu",
        **{f"SIMPLENET_{name.upper()}": str(value) for name, value in settings.items()},
    }
    with (home / "serve.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dashboard.cli", "serve"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait_until_answering(client: Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        try:
            if client("GET", "/health").status == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
