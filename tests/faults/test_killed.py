"""kill -9 of workers, of the process that computes, and of the supervisor, in the middle of an epoch."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from storage import slots, workers
from storage.records import StudyState
from tests.faults.conftest import HEARTBEAT_SECONDS, LEASE_SECONDS
from tuning.commands import launch_study
from tuning.queries import study_trials
from tuning.worker import run_worker

pytestmark = pytest.mark.slow
SLOW_SAMPLER = Path(__file__).parent / "scripts" / "slow_sampler.py"
SUPERVISOR = Path(__file__).parent / "scripts" / "supervisor.py"
ROOT = Path(__file__).parents[2]
LATE_SECONDS = 3.0  # a worker looks every half second, and this machine may be loaded


def in_an_epoch(workspace, study, state_of, attempt=1):
    now = state_of(workspace, study)
    return now.attempt >= attempt and now.progress.get("epoch", 0) >= 1 and now.state is StudyState.RUNNING


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def open_runs(workspace, study, state_of):
    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    runs = [trial.run_id for trial in study_trials(workspace, study) if trial.run_id]
    parent = state_of(workspace, study).parent_run_id
    return [run for run in [*runs, parent] if client.get_run(run).info.status == "RUNNING"]


def workers_of(workspace):
    with workspace.session() as session:
        return workers.list_workers(session)


@pytest.fixture
def taken_over_after(wait_for, state_of):
    """Waits for the second attempt at a study, and asserts that it began in time."""

    def wait(killed_at, workspace, study):
        wait_for(lambda: state_of(workspace, study).attempt == 2, lambda: state_of(workspace, study))
        seconds = time.monotonic() - killed_at
        assert seconds <= LEASE_SECONDS + HEARTBEAT_SECONDS + LATE_SECONDS, f"after {seconds:.1f} s"

    return wait


def test_another_worker_takes_over_and_no_trial_is_counted_twice(
    workspace, take_in, make_spec, start_worker, wait_for, state_of, ended, taken_over_after
):
    take_in(workspace)
    study = launch_study(workspace, "parts", make_spec(trials=3, epochs=20))
    doomed = start_worker(workspace, "slowly")
    wait_for(lambda: in_an_epoch(workspace, study, state_of))
    start_worker(workspace, "run_trial")  # waits beside it
    wait_for(lambda: len(workers_of(workspace)) == 2)
    wait_for(lambda: in_an_epoch(workspace, study, state_of))
    children = psutil.Process(doomed.pid).children(recursive=True)
    assert children, "the worker computes in a process of its own"
    kill(doomed)
    taken_over_after(time.monotonic(), workspace, study)
    assert f"-{doomed.pid}-" not in state_of(workspace, study).worker_id
    wait_for(lambda: state_of(workspace, study).state.finished, lambda: state_of(workspace, study))
    study = state_of(workspace, study)
    assert study.state is StudyState.COMPLETED, study.error
    assert study.attempt == 2
    trials = study_trials(workspace, study)
    (lost,) = [trial for trial in trials if trial.state == "interrupted"]
    assert len(ended(workspace, study)) == 3
    repeated = [trial for trial in trials if trial.params == lost.params]
    assert [trial.state for trial in repeated] == ["interrupted", "completed"]
    assert open_runs(workspace, study, state_of) == []
    assert not any(child.is_running() and child.status() != "zombie" for child in children)


def test_worker_killed_while_its_sampler_computes_costs_no_part_of_the_budget(
    workspace, take_in, make_spec, start_worker, wait_for, state_of, ended
):
    take_in(workspace)
    study = launch_study(workspace, "parts", make_spec(trials=3))
    doomed = start_worker(workspace, script=SLOW_SAMPLER)
    wait_for((workspace.settings.home / "computing").exists)
    kill(doomed)
    with workspace.session() as session:
        (left,) = slots.list_slots(session, study.id)
    assert left.trial_number == 0, "a slot is never without its trial"
    run_worker(workspace, worker_id="next", stop=threading.Event(), study_id=study.id)
    study = state_of(workspace, study)
    assert (study.state, study.attempt) == (StudyState.COMPLETED, 2), study.error
    states = [trial.state for trial in study_trials(workspace, study)]
    assert states == ["interrupted", "completed", "completed", "completed"]
    assert len(ended(workspace, study)) == 3
    with workspace.session() as session:
        assert slots.list_slots(session, study.id) == []


def test_trial_under_which_workers_die_is_tried_again_twice_and_then_failed(
    workspace, take_in, make_spec, start_worker, wait_for, state_of
):
    take_in(workspace)
    study = launch_study(workspace, "parts", make_spec(trials=1, epochs=100))
    for attempt in (1, 2, 3):
        worker = start_worker(workspace, "slowly")
        wait_for(lambda attempt=attempt: in_an_epoch(workspace, study, state_of, attempt))
        wait_for(lambda attempt=attempt: len(study_trials(workspace, study)) == attempt)
        wait_for(lambda: any(trial.intermediate for trial in study_trials(workspace, study)[-1:]))
        kill(worker)
    run_worker(workspace, worker_id="last", stop=threading.Event(), study_id=study.id)
    study = state_of(workspace, study)
    assert study.state is StudyState.FAILED
    assert "the worker died during this trial" in study.error
    assert [trial.state for trial in study_trials(workspace, study)] == [
        "interrupted",
        "interrupted",
        "failed",
    ]


def test_process_that_computes_is_replaced_when_it_is_killed(
    workspace, take_in, make_spec, start_worker, wait_for, state_of, ended
):
    take_in(workspace)
    study = launch_study(workspace, "parts", make_spec(trials=2, epochs=4))
    worker = start_worker(workspace, "slowly")
    wait_for(lambda: in_an_epoch(workspace, study, state_of))
    # The last of its descendants computes; the others are multiprocessing's.
    max(psutil.Process(worker.pid).children(recursive=True), key=lambda child: child.create_time()).kill()
    wait_for(lambda: state_of(workspace, study).state.finished, lambda: state_of(workspace, study))
    study = state_of(workspace, study)
    assert study.state is StudyState.COMPLETED, study.error
    assert study.attempt == 1, "the worker itself lived on"
    assert len(ended(workspace, study)) == 2
    assert study_trials(workspace, study)[0].state == "interrupted"


def test_study_goes_on_after_kill_9_of_the_supervisor(
    workspace, take_in, make_spec, wait_for, state_of, ended
):
    take_in(workspace)
    study = launch_study(workspace, "parts", make_spec(trials=2, epochs=4))

    def supervise():
        return subprocess.Popen(
            [sys.executable, str(SUPERVISOR), str(workspace.settings.home)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    first = supervise()
    try:
        wait_for(lambda: in_an_epoch(workspace, study, state_of))
        workers = psutil.Process(first.pid).children()
    finally:
        kill(first)
    psutil.wait_procs(workers, timeout=60)
    assert not any(worker.is_running() for worker in workers)
    assert not state_of(workspace, study).state.finished
    second = supervise()
    try:
        wait_for(lambda: state_of(workspace, study).state.finished, lambda: state_of(workspace, study))
    finally:
        second.terminate()
        second.wait(60)
    study = state_of(workspace, study)
    assert study.state is StudyState.COMPLETED, study.error
    assert len(ended(workspace, study)) == 2
