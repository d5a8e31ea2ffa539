"""Helpers of the tests of studies that run: waiting for them, reading them, and studies left on the way."""

import dataclasses
import threading
import time

from storage import studies
from storage.records import StudyState, Wanted
from tuning.commands import launch_study, want
from tuning.worker import run_worker


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def study_now(workspace, study_id):
    with workspace.session() as session:
        return studies.get_study(session, study_id)


def paused_in_its_second_trial(workspace, spec):
    """A study of `parts` that a worker began and a person paused; answers its row."""
    study = launch_study(workspace, "parts", spec)
    kwargs = {"worker_id": "here", "stop": threading.Event(), "study_id": study.id}
    worker = threading.Thread(target=run_worker, args=(workspace,), kwargs=kwargs)
    worker.start()
    wait_for(lambda: study_now(workspace, study.id).progress.get("trial", 0) >= 2)
    want(workspace, study.id, Wanted.PAUSE)
    worker.join(30)
    study = study_now(workspace, study.id)
    assert study.state is StudyState.PAUSED
    return study


def watched(workspace):
    """The same installation with workers that are missed after a second."""
    settings = workspace.settings.model_copy(update={"lease_seconds": 1.0, "heartbeat_seconds": 0.2})
    return dataclasses.replace(workspace, settings=settings)
