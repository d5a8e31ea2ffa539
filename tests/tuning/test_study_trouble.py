"""A study whose trials fail, whose workers die, or whose servers are away: what ends it, and what does not."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading

import pytest
from mlflow import MlflowClient

from storage import models, slots, studies
from storage.errors import (
    BlobsUnavailable,
    TrackingError,
    TrackingUnavailable,
)
from storage.heartbeats import Watch
from storage.records import StudyState, now
from storage.tracking import Tracking
from tests.tuning import stand_ins
from tests.tuning.running import study_now, wait_for, watched
from tuning import retries, steering
from tuning import search as searching
from tuning.commands import (
    launch_study,
)
from tuning.errors import StudyCancelled, StudyPaused
from tuning.lease import Lease, TrialTaken, WorkerStopping
from tuning.queries import study_trials
from tuning.study import lead_study
from tuning.worker import run_worker


def test_study_whose_trials_all_fail_is_failed_and_says_why(workspace, parts, make_spec, run_to_end):
    study = run_to_end(make_spec(), run=stand_ins.diverge)
    assert study.state is StudyState.FAILED
    assert "None of the 2 trials completed" in study.error
    assert "the loss is nan" in study.error
    trials = study_trials(workspace, study)
    assert [trial.state for trial in trials] == ["failed", "failed"]
    assert all("the loss is nan" in trial.error for trial in trials)
    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    assert {client.get_run(trial.run_id).info.status for trial in trials} == {"FAILED"}
    assert client.get_run(study.parent_run_id).info.status == "FAILED"
    with workspace.session() as session:
        assert models.list_models(session, "parts") == []
    said = Tracking(workspace.settings).read_dict(trials[0].run_id, "error.json")
    assert "in diverge" in said["traceback"], "where it was raised, in the process that computed"


def test_one_failed_trial_does_not_fail_its_study(workspace, parts, make_spec, run_to_end):
    study = run_to_end(make_spec(trials=2), run=stand_ins.first_diverges)
    assert study.state is StudyState.COMPLETED
    assert [trial.state for trial in study_trials(workspace, study)] == ["failed", "completed"]


def test_unexpected_error_of_one_configuration_fails_its_trial_and_not_its_study(
    workspace, parts, make_spec, run_to_end
):
    study = run_to_end(make_spec(trials=2), run=stand_ins.first_breaks_down)
    assert study.state is StudyState.COMPLETED, study.error
    trials = study_trials(workspace, study)
    assert [trial.state for trial in trials] == ["failed", "completed"]
    assert trials[0].error == "KeyError: 'surprise'"


def test_unexpected_error_leaves_no_trial_or_run_open(workspace, parts, make_spec, run_to_end):
    study = run_to_end(make_spec(trials=20), run=stand_ins.break_down)
    assert study.state is StudyState.FAILED
    assert "The last 3 trials failed alike and none has completed: KeyError: 'surprise'" in study.error
    assert "add trials" in study.error
    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    trials = study_trials(workspace, study)
    assert [trial.state for trial in trials] == ["failed"] * 3
    assert {trial.error for trial in trials} == {"KeyError: 'surprise'"}
    runs = [study.parent_run_id, *(trial.run_id for trial in trials)]
    assert {client.get_run(run_id).info.status for run_id in runs} <= {"FAILED", "KILLED"}


def test_mlflow_that_refuses_once_delays_a_study_but_does_not_fail_it(
    workspace, parts, make_spec, run_to_end, monkeypatch
):
    real, refusals = Tracking.log_history, []

    def refuse_once(self, *arguments, **keywords):
        if not refusals:
            refusals.append(1)
            raise TrackingError("MLflow does not know this run")
        return real(self, *arguments, **keywords)

    monkeypatch.setattr(Tracking, "log_history", refuse_once)
    monkeypatch.setattr("tuning.worker.OUTAGE_SECONDS", 0.1)
    study = run_to_end(make_spec(trials=2))
    assert study.state is StudyState.COMPLETED, study.error
    assert study.attempt == 2
    states = [trial.state for trial in study_trials(workspace, study)]
    assert states.count("completed") + states.count("pruned") == 2


def test_mlflow_out_of_reach_for_a_moment_is_waited_for(workspace, parts, make_spec, run_to_end, monkeypatch):
    real, outages = Tracking.log_history, []

    def unreachable_twice(self, *arguments, **keywords):
        if len(outages) < 2:
            outages.append(1)
            raise TrackingUnavailable("MLflow is out of reach")
        return real(self, *arguments, **keywords)

    monkeypatch.setattr(Tracking, "log_history", unreachable_twice)
    study = run_to_end(make_spec(trials=2))
    assert study.state is StudyState.COMPLETED, study.error
    assert study.attempt == 1
    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    for trial in study_trials(workspace, study):
        history = client.get_metric_history(trial.run_id, "loss")
        assert [one.step for one in history] == list(range(1, len(trial.intermediate) + 1))


def test_study_that_never_ends_is_failed_at_last(workspace, parts, make_spec, run_to_end, monkeypatch):
    def unreachable(*_, **__):
        raise TrackingError("MLflow is out of reach")

    monkeypatch.setattr(Tracking, "start_run", unreachable)  # for good: it refuses
    monkeypatch.setattr("tuning.worker.OUTAGE_SECONDS", 0.0)
    monkeypatch.setattr("tuning.worker.MAX_ATTEMPTS", 3)
    study = run_to_end(make_spec())
    assert study.state is StudyState.FAILED
    assert study.attempt == 3
    assert "out of reach" in study.error


class Death(BaseException):
    """Ends a worker as kill -9 does: nothing is recorded."""


@pytest.fixture
def lead_ends(workspace, monkeypatch):
    """Has the next attempts to lead a study end like this; those after them are real."""
    ends = []

    def lead(*arguments):
        if ends:
            raise ends.pop(0)
        return lead_study(*arguments)

    monkeypatch.setattr("tuning.worker.lead_study", lead)
    monkeypatch.setattr("tuning.worker.OUTAGE_SECONDS", 0.0)
    monkeypatch.setattr("tuning.worker.MAX_ATTEMPTS", 2)
    return ends


def test_study_under_which_worker_after_worker_dies_is_failed_and_goes_on_with_more_trials(
    workspace, parts, make_spec, lead_ends
):
    study = launch_study(workspace, "parts", make_spec(trials=1))
    for name in ("first", "second"):
        lead_ends.append(Death())
        with pytest.raises(Death):
            run_worker(watched(workspace), worker_id=name, stop=threading.Event(), study_id=study.id)
    run_worker(watched(workspace), worker_id="third", stop=threading.Event(), study_id=study.id)
    failed = study_now(workspace, study.id)
    assert failed.state is StudyState.FAILED
    assert "begun 2 times in a row without ending one trial" in failed.error
    steering.add_trials(workspace, study.id, 1)
    run_worker(workspace, worker_id="fourth", stop=threading.Event(), study_id=study.id)
    again = study_now(workspace, study.id)
    assert again.state is StudyState.COMPLETED, again.error


def test_trial_that_ended_meanwhile_lets_deaths_be_counted_anew(
    workspace, parts, make_spec, lead_ends, run_one
):
    spec = make_spec(trials=4)
    study = launch_study(workspace, "parts", spec)
    for name in ("first", "second", "third"):
        lead_ends.append(Death())
        with pytest.raises(Death):
            run_worker(watched(workspace), worker_id=name, stop=threading.Event(), study_id=study.id)
        run_one(searching.open_search(workspace.settings.optuna_url, study.id, spec), spec)
    lead_ends.append(StudyCancelled("enough"))
    run_worker(watched(workspace), worker_id="fourth", stop=threading.Event(), study_id=study.id)
    assert study_now(workspace, study.id).state is StudyState.CANCELLED


def test_outages_pauses_and_workers_that_stop_never_fail_a_study(
    workspace, parts, make_spec, run_to_end, lead_ends
):
    lead_ends += [BlobsUnavailable("the bucket is away")] * 3
    lead_ends += [StudyPaused("paused"), WorkerStopping("stopping")] * 2
    study = run_to_end(make_spec(trials=1))
    assert study.state is StudyState.COMPLETED, study.error
    assert study.attempt == 8


def test_reason_of_an_outage_is_shown_while_the_study_waits(
    workspace, parts, make_spec, lead_ends, monkeypatch
):
    study = launch_study(workspace, "parts", make_spec(trials=1))
    monkeypatch.setattr("tuning.worker.OUTAGE_SECONDS", 60.0)
    lead_ends.append(BlobsUnavailable("the bucket is away"))
    stop = threading.Event()
    kwargs = {"worker_id": "here", "stop": stop, "study_id": study.id}
    worker = threading.Thread(target=run_worker, args=(workspace,), kwargs=kwargs)
    worker.start()
    try:
        wait_for(lambda: study_now(workspace, study.id).error == "the bucket is away")
    finally:
        stop.set()
        worker.join(30)


def test_another_worker_resumes_after_kill_9(workspace, parts, make_spec):
    study = launch_study(workspace, "parts", make_spec(trials=3))
    settings = workspace.settings.model_copy(update={"lease_seconds": 3.0, "heartbeat_seconds": 1.0})
    environment = {
        **os.environ,
        "SIMPLENET_HOME": str(settings.home),
        "SIMPLENET_DEVICE": "cpu",
        "SIMPLENET_PRECISION": "fp32",
        "SIMPLENET_LEASE_SECONDS": "3",
        "SIMPLENET_HEARTBEAT_SECONDS": "1",
    }
    doomed = subprocess.Popen([sys.executable, "-m", "dashboard.cli", "worker"], env=environment)
    try:
        wait_for(lambda: study_now(workspace, study.id).progress.get("trial", 0) >= 2)
    finally:
        doomed.send_signal(signal.SIGKILL)
        doomed.wait()
    assert study_now(workspace, study.id).state is StudyState.RUNNING
    watching = dataclasses.replace(workspace, settings=settings)
    run_worker(watching, worker_id="other", stop=threading.Event(), study_id=study.id)
    study = study_now(workspace, study.id)
    assert study.state is StudyState.COMPLETED, study.error
    trials = study_trials(workspace, study)
    ended = [trial for trial in trials if trial.state in ("completed", "pruned")]
    assert len(ended) == 3
    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    assert "RUNNING" not in {client.get_run(trial.run_id).info.status for trial in trials if trial.run_id}


def test_worker_asked_to_end_leaves_the_study_to_others(workspace, parts, make_spec):
    study = launch_study(workspace, "parts", make_spec(trials=100))
    stop = threading.Event()
    worker = threading.Thread(
        target=run_worker, args=(workspace,), kwargs={"worker_id": "here", "stop": stop}
    )
    worker.start()
    wait_for(lambda: study_now(workspace, study.id).progress.get("epoch", 0) >= 1)
    stop.set()
    worker.join(30)
    assert not worker.is_alive()
    study = study_now(workspace, study.id)
    assert study.worker_id is None
    assert not study.state.finished
    with workspace.session() as session:
        assert studies.claim(session, worker_id="other", now=study.created_at, lease_seconds=60) is not None
        assert [slot.worker_id for slot in slots.list_slots(session, study.id)] == [None]


def test_configuration_that_crashes_the_process_fails_its_trial_and_not_the_study(
    workspace, parts, make_spec, run_to_end
):
    study = run_to_end(make_spec(trials=2), run=stand_ins.first_crashes)
    assert study.state is StudyState.COMPLETED, study.error
    trials = study_trials(workspace, study)
    poisoned = [trial for trial in trials if trial.params["noise_std"] == stand_ins.PAPERS_NOISE]
    assert [trial.state for trial in poisoned] == ["interrupted", "interrupted", "failed"]
    assert "crashed (SIGSEGV)" in poisoned[-1].error
    assert "Leave this configuration out" in poisoned[-1].error
    assert [trial.state for trial in trials if trial not in poisoned] == ["completed"]
    assert study.attempt == 1


def test_trial_whose_process_is_killed_is_tried_again_with_smaller_batches(
    workspace, parts, make_spec, run_to_end
):
    study = run_to_end(make_spec(trials=1), run=stand_ins.killed_once)
    assert study.state is StudyState.COMPLETED, study.error
    killed, again = study_trials(workspace, study)
    assert (killed.state, again.state) == ("interrupted", "completed")
    assert "as happens when memory runs out" in killed.error
    assert again.config["batch_patches"] == killed.config["batch_patches"] // 4
    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    assert client.get_run(again.run_id).data.tags["batches_divided_by"] == "4"
    assert client.get_run(killed.run_id).info.status == "FAILED"


def test_trial_without_memory_shrinks_its_batches_until_they_fit(workspace, parts, make_spec, run_to_end):
    study = run_to_end(make_spec(trials=1), run=stand_ins.needs_small_batches)
    assert study.state is StudyState.COMPLETED, study.error
    first, again = study_trials(workspace, study)
    assert "OutOfMemoryError" in first.error
    assert again.config["batch_patches"] == 64


def test_trial_that_never_has_enough_memory_fails_with_a_remedy(workspace, parts, make_spec, run_to_end):
    study = run_to_end(make_spec(trials=1), run=stand_ins.never_enough_memory)
    assert study.state is StudyState.FAILED
    trials = study_trials(workspace, study)
    assert [trial.state for trial in trials] == ["interrupted", "interrupted", "failed"]
    assert "Smaller batches did not help" in study.error


def test_write_to_a_trial_that_somebody_ended_is_no_failure_of_its_training(workspace, parts, make_spec):
    """After a network's partition: another worker ended the trial, and this one goes on training."""
    spec = make_spec()
    launch_study(workspace, "parts", spec)
    with workspace.session() as session:
        study = studies.claim(session, worker_id="here", now=now(), lease_seconds=60)
    lease = Lease(workspace, study, "here", threading.Event(), watch=Watch(60))
    url = workspace.settings.optuna_url
    search = searching.open_search(url, study.id, spec)
    trial = searching.ask(search, spec)
    retries.try_again(url, search, trial.number, "the worker died during this trial")
    with pytest.raises(TrialTaken, match="ended elsewhere"):
        lease.patiently(lambda: trial.report(0.5, 1))
