"""Installations for tests that break things: short leases, workers as processes, databases where they are wanted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage import studies
from storage.settings import PREFIX, Settings
from storage.workspace import open_workspace
from tests.postgres import running_postgres
from tuning.ingest import ingest_folder
from tuning.queries import study_trials
from tuning.spec import StudySpec

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).parent / "scripts" / "worker.py"
LEASE_SECONDS, HEARTBEAT_SECONDS = 4.0, 1.0
PATIENCE_SECONDS = 240.0


@pytest.fixture
def postgres():
    """A PostgreSQL server of this test's own, which it may stop and start."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def make_installation(tmp_path):
    """Factory of installations whose workers are missed after a few seconds: `make_installation(database_url=…)`."""
    opened = []

    def make(**settings):
        settings = {
            "home": tmp_path / f"home{len(opened)}",
            "device": "cpu",
            "precision": "fp32",
            "lease_seconds": LEASE_SECONDS,
            "heartbeat_seconds": HEARTBEAT_SECONDS,
            **settings,
        }
        opened.append(open_workspace(Settings(**settings)))
        return opened[-1]

    yield make
    for workspace in opened:
        workspace.close()


@pytest.fixture
def workspace(make_installation):
    """One on SQLite."""
    return make_installation()


@pytest.fixture
def shared_workspace(make_installation, postgres):
    """One on PostgreSQL, where several workers share a study."""
    return make_installation(database_url=postgres.new_database(), optuna_url=postgres.new_database())


@pytest.fixture
def take_in(make_folder, made_databases):
    """Takes a small dataset `parts` into an installation."""

    def take(workspace):
        made_databases(workspace.settings)
        return ingest_folder(workspace, make_folder(defects={"dent": 6, "scratch": 6}), "parts").version

    return take


@pytest.fixture
def make_spec():
    """Factory of specifications that take seconds."""

    def make(**changes):
        few = {
            "trials": 2,
            "height": 64,
            "width": 64,
            "epochs": 2,
            "layers": ((1, 2), (2,)),
            "pruner": "none",
        }
        return StudySpec(**few | changes)

    return make


@pytest.fixture
def start_worker():
    """Starts workers as processes: `start_worker(workspace, "slowly")`; what is left of them is killed at the end."""
    started = []

    def start(workspace, stand_in="run_trial", script=WORKER, **environment):
        settings = workspace.settings
        own = {
            f"{PREFIX}{name.upper()}": str(value)
            for name, value in settings.model_dump().items()
            if value not in (None, ())
        }
        own.pop(f"{PREFIX}WORKERS")
        number = len(started)
        log = (settings.logs_folder / f"test-worker-{number}.log").open("wb")
        started.append(
            subprocess.Popen(
                [sys.executable, str(script), stand_in],
                cwd=ROOT,
                env={**os.environ, **own, "PYTHONPATH": str(ROOT), **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        log.close()
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@pytest.fixture
def wait_for():
    """Waits until a condition holds, and says what it waited for where it never does."""

    def wait(condition, about=lambda: ""):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain; {about()}"
            time.sleep(0.05)

    return wait


@pytest.fixture
def state_of():
    """A study as it is now."""

    def read(workspace, study):
        with workspace.session() as session:
            return studies.get_study(session, study.id)

    return read


@pytest.fixture
def ended():
    """The trials of a study that used up a part of its budget."""

    def read(workspace, study):
        return [
            trial
            for trial in study_trials(workspace, study)
            if trial.state in ("completed", "pruned", "failed")
        ]

    return read
