"""A real MLflow server for tests, as `simplenet mlflow` runs it."""

import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from storage.settings import Settings
from tuning.supervisor import mlflow_command, mlflow_environment

START_SECONDS = 120.0


@contextmanager
def running_mlflow(settings: Settings) -> Iterator[str]:
    """The server of an installation, on the port of its settings; gives its address."""
    address = f"http://127.0.0.1:{settings.mlflow_port}"
    log = settings.logs_folder / "mlflow.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            mlflow_command(settings),
            env={**os.environ, **mlflow_environment(settings)},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{address}/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the MLflow server did not start:\n{log.read_text()}")
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
