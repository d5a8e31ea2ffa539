"""Clocks that are moved by an hour: they free nobody who lives and keep nobody who is dead."""

import signal
import threading
from datetime import timedelta

import pytest

from dashboard.following import orphaned
from storage import workers
from storage.records import StudyState, now
from tuning import queries
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


@pytest.mark.postgres
@pytest.mark.parametrize("seconds", [-40, -3600, 3600])
def test_worker_whose_clock_differs_from_the_viewers_is_seen_alive(
    shared_workspace, take_in, make_spec, wait_for, state_of, monkeypatch, seconds
):
    """Else its study would be said to wait for a worker, and another would be started beside it."""
    for module in ("tuning.worker", "tuning.lease"):
        monkeypatch.setattr(f"{module}.now", lambda: now() + timedelta(seconds=seconds))
    take_in(shared_workspace)
    study = launch_study(shared_workspace, "parts", make_spec(trials=2, epochs=16))
    stop = threading.Event()
    kwargs = {"worker_id": "moved", "stop": stop, "study_id": study.id}
    thread = threading.Thread(target=run_worker, args=(shared_workspace,), kwargs=kwargs)
    thread.start()
    try:
        wait_for(lambda: state_of(shared_workspace, study).state is StudyState.RUNNING)
        assert queries.worker_alive(shared_workspace)
        assert not orphaned(state_of(shared_workspace, study), queries.common_now(shared_workspace))
    finally:
        stop.set()
        thread.join(60)
    moment = queries.common_now(shared_workspace)
    with shared_workspace.session() as session:  # a worker that is dead is seen as that
        workers.register_worker(
            session,
            worker_id="dead",
            hostname="h",
            pid=1,
            device="cpu",
            now=moment - timedelta(seconds=queries.ALIVE_SECONDS + 1),
        )
    assert not queries.worker_alive(shared_workspace)
