"""Clocks that are moved by an hour: they free nobody who lives and keep nobody who is dead."""

import signal
import threading
from datetime import timedelta

import pytest

from storage.records import StudyState, now
from tuning.commands import launch_study
from tuning.worker import run_worker

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("hours", [1, -1])
def test_clock_of_another_worker_is_moved(
    workspace, take_in, make_spec, start_worker, wait_for, state_of, ended, monkeypatch, hours
):
    """This process's clock is off by an hour, against that of the worker that holds the study."""
    for module in ("tuning.worker", "tuning.lease"):
        monkeypatch.setattr(f"{module}.now", lambda: now() + timedelta(hours=hours))
    take_in(workspace)
    study = launch_study(workspace, "parts", make_spec(trials=2, epochs=16))
    holder = start_worker(workspace, "slowly")
    wait_for(lambda: state_of(workspace, study).progress.get("epoch", 0) >= 1)
    thread = threading.Thread(
        target=run_worker,
        args=(workspace,),
        kwargs={"worker_id": "moved", "stop": threading.Event(), "study_id": study.id},
    )
    thread.start()
    wait_for(lambda: state_of(workspace, study).progress.get("trial", 0) == 2)  # longer than a lease
    assert state_of(workspace, study).attempt == 1
    assert f"-{holder.pid}-" in state_of(workspace, study).worker_id
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    thread.join(240)
    study = state_of(workspace, study)
    assert study.state is StudyState.COMPLETED, study.error
    assert study.attempt == 2
    assert len(ended(workspace, study)) == 2
