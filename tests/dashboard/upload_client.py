"""What tests of uploads talk with: a client as a page has it, and the real server, which they may kill."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette

from dashboard import downloads, maps, thumbnails, tickets, uploads
from storage.settings import Settings

START_SECONDS = 120


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Sends what a page sends: with a ticket and no cookie."""

    port: int
    settings: Settings
    base: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ticket = tickets.issue(tickets.secret(self.settings.home), time.time())
        self.headers = {"Upload-Ticket": ticket, **self.headers}

    def __call__(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, self.base + path, body, {**self.headers, **named})
            response = connection.getresponse()
            return Answer(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})

    def begin(self, *files: tuple[str, int], dataset: str = "plates") -> str:
        answer = self.announce(*files, dataset=dataset)
        assert answer.status == 201, answer.body
        return str(answer.json["id"])

    def announce(
        self, *files: tuple[str, int], dataset: str = "plates", left_out: Sequence[str] = ()
    ) -> Answer:
        listed = [[name, size, 1.5] for name, size in files]
        announced = {"dataset": dataset, "files": listed, "left_out": list(left_out)}
        return self("POST", "/uploads", json.dumps(announced).encode())

    def send(self, upload: str, index: int, offset: int, body: bytes, to: int | None = None) -> Answer:
        last = index if to is None else to
        return self("PATCH", f"/uploads/{upload}/{index}?to={last}", body, Upload_Offset=str(offset))


@contextmanager
def serving(settings: Settings) -> Iterator[Client]:
    """Our routes alone behind a real web server in a thread."""
    app = Starlette(
        routes=[
            route for module in (uploads, thumbnails, downloads, maps) for route in module.routes(settings)
        ]
    )
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield Client(listening.getsockname()[1], settings)
        server.should_exit = True
        thread.join()


class Server:
    """The dashboard's real process, started anew with every `with`."""

    def __init__(self, settings: Settings, port: int, *flags: str) -> None:
        self._settings, self._port, self._flags = settings, port, flags

    def __enter__(self) -> "Server":
        flags = [
            f"--server.port={self._port}",
            "--server.address=127.0.0.1",
            "--server.headless=true",
            "--server.fileWatcherType=none",
            "--browser.gatherUsageStats=false",
        ]
        environment = {
            **os.environ,
            "SIMPLENET_HOME": str(self._settings.home),
            "SIMPLENET_UPLOAD_MAX_GB": "0.05",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dashboard.server", *flags, *self._flags],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(self._answers, START_SECONDS)
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it and all that it has started at once, as a power cut does."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None
        try:
            socket.create_connection(("127.0.0.1", self._port)).close()
        except ConnectionRefusedError:
            return False
        return True


def head_of_patch(client: Client, upload: str, length: int, offset: int = 0) -> bytes:
    """The lines that announce a body for file 0."""
    headers = {"Host": "127.0.0.1", "Content-Length": length, "Upload-Offset": offset, **client.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"PATCH /uploads/{upload}/0 HTTP/1.1\r\n{lines}\r\n".encode()


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something to come true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)
