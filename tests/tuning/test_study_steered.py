"""A running study that a person pauses, cancels, or gives more to try."""

import dataclasses
import sqlite3
import threading
import time

import pytest
from mlflow import MlflowClient

from storage import models, slots, studies
from storage.records import StudyState, Wanted, now
from storage.study_edits import extend_study
from tests.tuning import stand_ins
from tests.tuning.running import paused_in_its_second_trial, study_now, wait_for, watched
from tuning import queries, steering
from tuning import search as searching
from tuning import study as leading
from tuning.commands import (
    launch_study,
    want,
)
from tuning.queries import study_trials
from tuning.worker import run_worker

SOON_SECONDS = 10.0  # from a person's wish to what the database says; a worker listens every second


def test_cancelling_a_paused_study_ends_its_runs(workspace, parts, make_spec):
    study = launch_study(workspace, "parts", make_spec(epochs=500))
    kwargs = {"worker_id": "here", "stop": threading.Event(), "study_id": study.id}
    worker = threading.Thread(target=run_worker, args=(workspace,), kwargs=kwargs)
    worker.start()
    wait_for(lambda: study_now(workspace, study.id).progress.get("epoch", 0) >= 1)
    want(workspace, study.id, Wanted.PAUSE)
    worker.join(60)
    assert "queued" in {trial.state for trial in study_trials(workspace, study)}
    assert want(workspace, study.id, Wanted.CANCEL).state is StudyState.CANCELLED
    assert {trial.state for trial in study_trials(workspace, study)} <= {"completed", "pruned", "interrupted"}
    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    parent = study_now(workspace, study.id).parent_run_id
    assert client.get_run(parent).info.status == "KILLED"


def test_cancelled_study_keeps_the_plots_of_what_it_tried_and_no_weights(workspace, parts, make_spec):
    study = paused_in_its_second_trial(workspace, make_spec(trials=15))
    kept = workspace.settings.checkpoints_folder / f"study-{study.id}"
    assert kept.exists()
    assert want(workspace, study.id, Wanted.CANCEL).state is StudyState.CANCELLED
    assert not kept.exists()
    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    parent = study_now(workspace, study.id).parent_run_id
    plots = {file.path for file in client.list_artifacts(parent, "plots")}
    assert {"plots/history.png", "plots/curves.png", "plots/timeline.png"} <= plots


def test_configuration_enqueued_while_the_champion_is_made_is_tried_all_the_same(
    workspace, parts, make_spec, run_to_end, monkeypatch
):
    make = leading._make_champion
    enqueued = []

    def enqueue_once(context, bench, search):
        if not enqueued:
            enqueued.append(steering.enqueue(workspace, context.lease.study.id, {"noise_std": 0.123}))
        make(context, bench, search)

    monkeypatch.setattr(leading, "_make_champion", enqueue_once)
    study = run_to_end(make_spec(trials=None, patience=1, tolerance=0.5))
    assert study.state is StudyState.COMPLETED, study.error
    tried = [trial for trial in study_trials(workspace, study) if trial.params.get("noise_std") == 0.123]
    assert [trial.state in ("completed", "pruned") for trial in tried] == [True]


def cancelled_after(workspace, study, worker):
    """Cancel a running study; answers after how many seconds the database said so, and its worker had tidied up."""
    wanted_at = time.monotonic()
    want(workspace, study.id, Wanted.CANCEL)
    wait_for(lambda: study_now(workspace, study.id).state is StudyState.CANCELLED)
    told = time.monotonic() - wanted_at
    worker.join(30)
    assert not worker.is_alive()
    return told, time.monotonic() - wanted_at


def test_cancel_stops_within_a_trial_and_leaves_nothing_running(workspace, parts, make_spec):
    assert (workspace.settings.lease_seconds, workspace.settings.heartbeat_seconds) == (60, 5), "as shipped"
    study = launch_study(workspace, "parts", make_spec(trials=3, epochs=12, pruner="none"))
    kwargs = {"worker_id": "here", "stop": threading.Event(), "study_id": study.id, "run": stand_ins.slowly}
    worker = threading.Thread(target=run_worker, args=(workspace,), kwargs=kwargs)
    worker.start()
    wait_for(lambda: study_now(workspace, study.id).progress.get("ended") == 1)
    kept = workspace.settings.checkpoints_folder / f"study-{study.id}"
    assert list(kept.iterdir()), "the head of the first trial"
    wait_for(lambda: study_now(workspace, study.id).progress.get("epoch", 0) >= 1)
    steering.enqueue(workspace, study.id, {"noise_std": 0.1})
    assert max(cancelled_after(workspace, study, worker)) < SOON_SECONDS
    study = study_now(workspace, study.id)
    trials = study_trials(workspace, study)
    assert [trial.state for trial in trials] == ["completed", "interrupted", "interrupted"], (
        "the one that ran, and the one that waited; none is enqueued again"
    )
    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    runs = client.search_runs([client.get_experiment_by_name("parts").experiment_id])
    assert len(runs) == 3
    assert "RUNNING" not in {run.info.status for run in runs}
    assert client.get_run(study.parent_run_id).info.status == "KILLED"
    assert not kept.exists()
    with workspace.session() as session:
        assert models.list_models(session, "parts") == []
        assert slots.list_slots(session, study.id) == []
    assert client.search_registered_models() == []


def test_cancel_of_a_study_whose_worker_died_leaves_nothing_open_either(workspace, parts, make_spec):
    spec = make_spec()
    study = launch_study(workspace, "parts", spec)
    with workspace.session() as session:
        studies.claim(session, worker_id="dead", now=now(), lease_seconds=60)
    search = searching.open_search(workspace.settings.optuna_url, study.id, spec)
    steering.enqueue(workspace, study.id, {"noise_std": 0.1})
    searching.ask(search, spec)  # what its worker ran
    assert want(workspace, study.id, Wanted.CANCEL).state is StudyState.RUNNING
    run_worker(watched(workspace), worker_id="other", stop=threading.Event(), study_id=study.id)
    assert study_now(workspace, study.id).state is StudyState.CANCELLED
    assert [trial.state for trial in study_trials(workspace, study)] == ["interrupted", "interrupted"]


def test_paused_study_goes_on_where_it_stopped(workspace, parts, make_spec):
    study = paused_in_its_second_trial(workspace, make_spec(trials=15))
    want(workspace, study.id, Wanted.RUN)
    run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
    study = study_now(workspace, study.id)
    assert study.state is StudyState.COMPLETED, study.error
    ended = [trial for trial in study_trials(workspace, study) if trial.state in ("completed", "pruned")]
    assert len(ended) == 15


def test_others_write_while_the_sampler_computes(workspace, parts, make_spec, tmp_path, monkeypatch):
    """A person's wish, a label or a heartbeat: on SQLite one lock is for all that write."""
    mark = tmp_path / "computing"
    monkeypatch.setattr(searching, "make_sampler", lambda *_, **__: stand_ins.SlowSampler(mark))
    study = launch_study(workspace, "parts", make_spec())
    kwargs = {"worker_id": "here", "stop": threading.Event(), "study_id": study.id}
    worker = threading.Thread(target=run_worker, args=(workspace,), kwargs=kwargs)
    worker.start()
    wait_for(mark.exists)
    with sqlite3.connect(workspace.settings.database_url.removeprefix("sqlite:///"), timeout=1) as other:
        other.execute("UPDATE studies SET name = 'renamed'")
    other.close()
    began = time.monotonic()
    want(workspace, study.id, Wanted.PAUSE)
    assert time.monotonic() - began < 1
    assert mark.exists(), "the sampler had ended before"
    worker.join(30)
    assert not worker.is_alive()
    study = study_now(workspace, study.id)
    assert (study.state, study.name) == (StudyState.PAUSED, "renamed")
    with workspace.session() as session:
        assert [slot.worker_id for slot in slots.list_slots(session, study.id)] == [None]

    monkeypatch.undo()
    want(workspace, study.id, Wanted.RUN)
    run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
    study = study_now(workspace, study.id)
    assert study.state is StudyState.COMPLETED, study.error
    ended = [trial for trial in study_trials(workspace, study) if trial.state in ("completed", "pruned")]
    assert len(ended) == 2


def test_cancel_ends_a_trial_that_never_looks_up(workspace, parts, make_spec):
    study = launch_study(workspace, "parts", make_spec())
    kwargs = {"worker_id": "here", "stop": threading.Event(), "study_id": study.id, "run": stand_ins.deaf}
    worker = threading.Thread(target=run_worker, args=(workspace,), kwargs=kwargs)
    worker.start()
    wait_for(lambda: study_trials(workspace, study))
    assert max(cancelled_after(workspace, study, worker)) < SOON_SECONDS
    assert "running" not in {trial.state for trial in study_trials(workspace, study)}
    with workspace.session() as session:
        assert slots.list_slots(session, study.id) == []


def test_trials_are_added_while_the_study_runs(workspace, parts, make_spec):
    spec = make_spec(trials=1)
    study = launch_study(workspace, "parts", spec)
    kwargs = {"worker_id": "here", "stop": threading.Event(), "study_id": study.id, "run": stand_ins.slowly}
    worker = threading.Thread(target=run_worker, args=(workspace,), kwargs=kwargs)
    worker.start()
    wait_for(lambda: study_now(workspace, study.id).progress.get("epoch", 0) >= 1)
    assert study_now(workspace, study.id).progress["elapsed"] > 0
    with workspace.session() as session:
        more = dataclasses.replace(spec, trials=2)
        extend_study(session, study.id, more.to_json(), was=study.spec)
    worker.join(120)
    study = study_now(workspace, study.id)
    assert study.state is StudyState.COMPLETED, study.error
    ended = [trial for trial in study_trials(workspace, study) if trial.state in ("completed", "pruned")]
    assert len(ended) == 2
    search = queries.opened(workspace, study.id)
    assert all(trial.user_attrs["seconds"] > 0 for trial in search.trials)
    assert study.progress["ended"] == 2
    spent = sum(trial.duration_seconds for trial in ended)
    assert study.progress["searched"] == pytest.approx(spent, abs=0.01)
