"""Fixtures of the tests of studies: a dataset that the tiny backbone can learn, and a worker that runs here."""

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from optuna.trial import TrialState

from engine.config import SimpleNetConfig
from storage import studies
from tuning import search as searching
from tuning.commands import launch_study
from tuning.ingest import ingest_folder
from tuning.spec import StudySpec
from tuning.trial import run_trial
from tuning.worker import run_worker


@pytest.fixture
def parts(workspace, made_databases, make_folder):
    """A dataset `parts` with two kinds of bright squares."""
    made_databases(workspace.settings)
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

    def run(spec, dataset="parts", run=run_trial):
        study = launch_study(workspace, dataset, spec)
        run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id, run=run)
        with workspace.session() as session:
            return studies.get_study(session, study.id)

    return run


@dataclass
class Found:
    """What a trial found, as far as a search looks at it."""

    value: float
    latency_ms: float = 1.0
    spread: None = None

    @property
    def values(self):
        return (self.value,)

    @property
    def figures(self):
        return self

    calibration = figures

    def to_json(self):
        return {}


@pytest.fixture
def found():
    """Factory of results: a value, and the milliseconds of a picture."""
    return Found


@pytest.fixture
def run_one():
    """Ask for a trial and end it without training; its value falls with σ's distance from 0.1 unless one is given."""

    def run(search, spec, value=None, *, latency_ms=1.0, prune=False):
        trial = searching.ask(search, spec)
        config = {**SimpleNetConfig().to_json(), **trial.params}
        layers = [int(stage) for stage in trial.params["layers"].split("+")]
        trial.set_user_attr("config", {**config, "layers": layers})
        if prune:
            trial.report(0.1, 1)
            search.tell(trial, state=TrialState.PRUNED)
            return trial
        value = 1 - abs(trial.params["noise_std"] - 0.1) if value is None else value
        searching.note_result(trial, spec, Found(value, latency_ms))
        search.tell(trial, value)
        return trial

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
