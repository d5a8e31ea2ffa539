"""Processes that are asked to end do so, as whoever supervises them expects it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from storage.settings import Settings
from tests.dashboard.upload_client import Client

START_SECONDS = 120
STOP_SECONDS = 14  # less than the supervisor's patience


@pytest.fixture
def settings(tmp_path: Path, free_port: int) -> Settings:
    return Settings(home=tmp_path / "home", dashboard_port=free_port)


@pytest.fixture
def dashboard(settings: Settings) -> Iterator[psutil.Popen]:
    """`simplenet dashboard`, answering."""
    log = settings.home.parent / "log"
    environment = {
        **os.environ,
        "SIMPLENET_HOME": str(settings.home),
        "SIMPLENET_DASHBOARD_PORT": str(settings.dashboard_port),
    }
    with log.open("wb") as out:
        process = psutil.Popen(
            [sys.executable, "-m", "dashboard.cli", "dashboard"],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(settings):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield process
    finally:
        if process.is_running():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_dashboard_that_is_asked_to_end_ends_well_and_leaves_nobody(
    dashboard: psutil.Popen, settings: Settings, number: signal.Signals
) -> None:
    children = dashboard.children(recursive=True)
    dashboard.send_signal(number)
    assert dashboard.wait(STOP_SECONDS) == 0
    assert [child for child in children if child.is_running()] == []
    assert not _answers(settings)


def test_upload_that_says_nothing_does_not_keep_the_dashboard_from_ending(
    dashboard: psutil.Popen, settings: Settings
) -> None:
    client = Client(settings.dashboard_port, settings)
    upload = client.begin(("a.zip", 3_000_000))
    head = "".join(f"{name}: {value}\r\n" for name, value in client.headers.items())
    with socket.create_connection(("127.0.0.1", settings.dashboard_port)) as silent:
        silent.sendall(
            f"PATCH /uploads/{upload}/0 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3000000\r\n"
            f"Upload-Offset: 0\r\n{head}\r\nhello".encode()
        )
        time.sleep(1)  # it is being answered
        dashboard.send_signal(signal.SIGTERM)
        assert dashboard.wait(STOP_SECONDS) == 0


def _answers(settings: Settings) -> bool:
    try:
        with urllib.request.urlopen(f"{settings.dashboard_url}/_stcore/health", timeout=2):
            return True
    except OSError:
        return False
