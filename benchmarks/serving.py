"""A real server on the loopback address and a real browser, for the measurements that need both."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


def chromium() -> str | None:
    """Where the system's Chromium lies; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def served(
    arguments: Sequence[str],
    address: str,
    environment: Mapping[str, str],
    folder: Path,
    health: str = "/_stcore/health",
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a dashboard, or another server, while the context lasts, and wait until it answers.

    Args:
        address: where it will answer: 'http://127.0.0.1:8501'.
        environment: what it finds in its environment beside ours.
        folder: where it runs.
        health: the path that answers once it is ready.
    """
    process = subprocess.Popen(
        arguments,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"{address}{health}", process)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit("the server ended while it started")
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 (our own address)
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"{url} does not answer")
