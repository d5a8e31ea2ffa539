"""Fixtures of the tests of studies: a dataset that the tiny backbone can learn, and a worker that runs here."""

import os
import signal
import threading
from pathlib import Path

import pytest

from storage import studies
from tuning.commands import launch_study
from tuning.ingest import ingest_folder
from tuning.spec import StudySpec
from tuning.worker import run_worker


@pytest.fixture
def parts(workspace, make_folder):
    """A dataset `parts` with two kinds of bright squares."""
    return ingest_folder(workspace, make_folder(defects={"dent": 6, "scratch": 6}), "parts").version


@pytest.fixture
def make_spec():
    """Factory of specifications that take seconds."""

    def make(**changes):
        return StudySpec(
            **{"trials": 2, "height": 64, "width": 64, "epochs": 2, "layers": ((1, 2), (2,)), **changes}
        )

    return make


@pytest.fixture
def run_to_end(workspace):
    """Launch a study and run it in this process until it ends; answers its row."""

    def run(spec, dataset="parts"):
        study = launch_study(workspace, dataset, spec)
        run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
        with workspace.session() as session:
            return studies.get_study(session, study.id)

    return run


@pytest.fixture
def kill_job():
    """Kill -9 the process of a job: `kill_job("tuning.exports", 7)`."""

    def kill(module, *arguments):
        wanted = [module, *map(str, arguments)]
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and _command(entry)[-len(wanted) :] == wanted:
                os.kill(int(entry), signal.SIGKILL)

    return kill


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:  # ended meanwhile
        return []
