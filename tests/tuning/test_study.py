"""A whole study on real databases: trials, MLflow runs, champion; and everything that may go wrong on the way."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from safetensors.torch import load_file, save_file

from engine.backbones.resolve import resolve_backbone
from engine.images import decode
from storage import datasets, events, models, slots, studies
from storage.errors import (
    BlobsUnavailable,
    DatasetInUse,
    DatasetNotFound,
    ModelNotFound,
    TrackingError,
    TrackingUnavailable,
)
from storage.heartbeats import Watch
from storage.records import ModelState, Role, StudyState, Wanted, now
from storage.study_edits import extend_study
from storage.tracking import Tracking
from tests.tuning import stand_ins
from tuning import queries, retries, steering
from tuning import search as searching
from tuning import study as leading
from tuning.commands import (
    delete_dataset,
    launch_study,
    promote,
    restore_dataset,
    want,
    withdraw_champion,
)
from tuning.errors import BadSpec, NoChampion, StudyCancelled, StudyPaused
from tuning.ingest import ingest_folder
from tuning.lease import Lease, TrialTaken, WorkerStopping
from tuning.predictor import champion, detector, score_images
from tuning.queries import study_trials
from tuning.study import lead_study
from tuning.study_log import study_log
from tuning.worker import run_worker


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


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


def study_now(workspace, study_id):
    with workspace.session() as session:
        return studies.get_study(session, study_id)


def alias(workspace):
    """The version that MLflow serves as champion."""
    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    return int(client.get_model_version_by_alias("parts", "champion").version)


def test_study_ends_with_a_champion_that_mlflow_serves(workspace, parts, make_spec, run_to_end):
    study = run_to_end(make_spec(trials=3))
    assert study.error is None
    assert study.state is StudyState.COMPLETED

    trials = study_trials(workspace, study)
    assert [trial.state in ("completed", "pruned") for trial in trials] == [True] * 3
    with workspace.session() as session:
        champion = models.champion(session, "parts")
        readings = models.list_test_readings(session, study_id=study.id)
        test = datasets.list_images(session, parts.id, role=Role.TEST)
    best = max((trial for trial in trials if trial.value is not None), key=lambda trial: trial.value)
    assert champion.trial_number == best.number
    assert champion.figures["objective_value"] == best.value
    assert [reading.trial_number for reading in readings] == [best.number]
    assert champion.figures["test"]["images"] == len(test)

    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    assert alias(workspace) == champion.version
    parent = client.get_run(study.parent_run_id)
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{study.parent_run_id}'"
    )
    assert {child.info.run_id for child in children} == {trial.run_id for trial in trials}
    assert {child.info.run_name[:8] for child in children} == {"trial 01", "trial 02", "trial 03"}
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}

    # Both: what an earlier test logged in this process has set the registry apart from the tracking.
    mlflow.set_tracking_uri(workspace.settings.tracking_uri)
    mlflow.set_registry_uri(workspace.settings.tracking_uri)
    served = mlflow.pyfunc.load_model("models:/parts@champion")
    pictures = pd.DataFrame({"image": [workspace.blobs.get(image.digest) for image in test]})
    answered = served.predict(pictures, params={"maps": True})
    cached = list(score_images(workspace, champion, test))
    assert answered["score"].tolist() == [scored.score for scored in cached]
    assert answered["decision"].tolist() == [scored.decision for scored in cached]
    fresh = detector(workspace, champion).score([decode(workspace.blobs.get(test[0].digest), "first")])[0]
    assert np.array_equal(fresh.anomaly_map, cached[0].anomaly_map)


def test_study_never_computes_features_of_test_pictures(workspace, parts, make_spec, run_to_end):
    run_to_end(make_spec(trials=1))
    with workspace.session() as session:
        test = {image.pixel_digest for image in datasets.list_images(session, parts.id, role=Role.TEST)}
    rows = "".join(path.read_text() for path in workspace.settings.features_folder.rglob("*.json"))
    assert rows
    assert not any(digest in rows for digest in test)


def test_same_seed_gives_the_same_trials(workspace, parts, make_spec, run_to_end):
    first, second = (study_trials(workspace, run_to_end(make_spec(trials=2))) for _ in range(2))
    assert [trial.params for trial in first] == [trial.params for trial in second]
    assert [trial.value for trial in first] == [trial.value for trial in second]


def test_equal_candidate_does_not_replace_the_champion(workspace, parts, make_spec, run_to_end):
    for _ in range(2):
        study = run_to_end(make_spec(trials=1))
        assert study.state is StudyState.COMPLETED, study.error
    with workspace.session() as session:
        states = {model.version: model.state for model in models.list_models(session, "parts")}
    assert states == {1: ModelState.CHAMPION, 2: ModelState.CANDIDATE}
    assert alias(workspace) == 1

    assert promote(workspace, "parts", 2, who="tester", why="to see it") is not None
    assert alias(workspace) == 2
    with workspace.session() as session:
        assert models.champion(session, "parts").version == 2
        assert [promotion.who for promotion in models.list_promotions(session, "parts")].count("tester") == 1
    with pytest.raises(ModelNotFound, match="no model version 7"):
        promote(workspace, "parts", 7, who="tester", why="?")


def test_withdrawn_champion_serves_nobody_until_it_is_promoted_again(workspace, parts, make_spec, run_to_end):
    run_to_end(make_spec(trials=1))
    with pytest.raises(DatasetInUse, match="Withdraw the champion first"):
        delete_dataset(workspace, "parts", who="tester")
    withdrawn = withdraw_champion(workspace, "parts", who="tester", why="misses dents")
    assert (withdrawn.version, withdrawn.state) == (1, ModelState.RETIRED)
    with pytest.raises(MlflowException, match="champion"):
        alias(workspace)
    with pytest.raises(NoChampion):
        champion(workspace, "parts")
    with pytest.raises(ModelNotFound, match="Dataset 'parts' has no champion"):
        withdraw_champion(workspace, "parts", who="tester", why="again")
    with pytest.raises(DatasetNotFound, match="Did you mean 'parts'"):
        withdraw_champion(workspace, "part", who="tester", why="?")
    delete_dataset(workspace, "parts", who="tester")
    assert restore_dataset(workspace, "parts", who="tester").latest == parts
    promote(workspace, "parts", 1, who="tester", why="better than none")
    assert alias(workspace) == 1
    with workspace.session() as session:
        said = [(event.who, event.what) for event in events.list_events(session, "parts")]
    assert said[:3] == [
        ("tester", "restored the dataset"),
        ("tester", "deleted the dataset"),
        ("tester", "withdrew the champion, model version 1: misses dents"),
    ]

    # The next study fills the place, and its record says so.
    withdraw_champion(workspace, "parts", who="tester", why="once more")
    run_to_end(make_spec(trials=1))
    assert alias(workspace) == 2
    with workspace.session() as session:
        assert models.list_promotions(session, "parts")[0].why == "the dataset had no champion"


def test_alias_is_taken_only_from_the_version_that_is_withdrawn(workspace, parts, make_spec, run_to_end):
    run_to_end(make_spec(trials=1))
    tracking = Tracking(workspace.settings)
    tracking.clear_champion("parts", 2)
    assert alias(workspace) == 1
    tracking.clear_champion("never-registered", 1)
    for _ in range(2):
        tracking.clear_champion("parts", 1)
    with pytest.raises(MlflowException, match="champion"):
        alias(workspace)


def test_withdrawal_while_mlflow_is_away_changes_nothing(workspace, parts, make_spec, run_to_end, free_port):
    run_to_end(make_spec(trials=1))
    settings = workspace.settings.model_copy(update={"tracking_uri": f"http://127.0.0.1:{free_port}"})
    away = dataclasses.replace(workspace, settings=settings)
    with pytest.raises(TrackingError, match="could not withdraw version 1"):
        withdraw_champion(away, "parts", who="tester", why="?")
    with workspace.session() as session:
        assert models.champion(session, "parts").version == 1
        assert not any("withdrew" in event.what for event in events.list_events(session, "parts"))


def test_without_labelled_defects_the_figures_are_called_synthetic(
    workspace, make_folder, make_spec, run_to_end
):
    ingest_folder(workspace, make_folder(train=40, flat=True), "parts")
    study = run_to_end(make_spec(trials=1))
    assert study.state is StudyState.COMPLETED, study.error
    with workspace.session() as session:
        champion = models.champion(session, "parts")
    assert champion.figures["validation"]["synthetic"] is True
    assert champion.figures["test"]["synthetic"] is True


@pytest.mark.parametrize("resize", ["letterbox", "crop"])
def test_study_in_other_proportions_ends_with_maps_in_the_pictures_own_pixels(
    workspace, parts, make_spec, run_to_end, resize
):
    """Height and width of the canvas differ, the objective is on pixels, and the served model scores alike."""
    spec = make_spec(trials=1, height=64, width=96, resize=resize, objective="aupro")
    study = run_to_end(spec)
    assert study.state is StudyState.COMPLETED, study.error
    model = champion(workspace, "parts")
    assert model.config["resize"] == resize
    with workspace.session() as session:
        image = datasets.list_images(session, model.dataset_version_id, role=Role.TEST)[0]
    scored = next(iter(score_images(workspace, model, [image])))
    assert scored.anomaly_map.shape == (image.height, image.width)
    again = detector(workspace, model).score([decode(workspace.blobs.get(image.digest), image.name)])[0]
    assert scored.score == again.score
    np.testing.assert_array_equal(scored.anomaly_map, again.anomaly_map)


def test_objective_on_pixels_needs_masks(workspace, make_folder, make_spec):
    folder = make_folder(defects={"dent": 4})
    for mask in folder.rglob("*_mask.png"):
        mask.unlink()
    ingest_folder(workspace, folder, "parts")
    with pytest.raises(BadSpec, match="needs masks"):
        launch_study(workspace, "parts", make_spec(objective="aupro"))


def test_half_done_promotion_can_be_repeated(workspace, parts, make_spec, run_to_end):
    for _ in range(2):
        run_to_end(make_spec(trials=1))
    # What a crash between the record and the alias leaves behind.
    with workspace.session() as session:
        second = next(model for model in models.list_models(session, "parts") if model.version == 2)
        models.promote(session, model_id=second.id, who="tester", why="crash", now=now())
    assert alias(workspace) == 1
    assert promote(workspace, "parts", 2, who="tester", why="again") is None
    assert alias(workspace) == 2


def test_objective_on_pixels_asks_the_validation_pictures(workspace, make_folder, make_spec):
    # Masks only where no validation picture has one: every trial's objective would be undefined.
    folder = make_folder(defects={"dent": 2})
    report = ingest_folder(workspace, folder, "probe")
    with workspace.session() as session:
        validation = datasets.list_images(session, report.version.id, role=Role.VALIDATION)
    for image in validation:
        name = image.name.removeprefix("test/").replace(".png", "_mask.png")
        (folder / "ground_truth" / name).unlink(missing_ok=True)
    ingest_folder(workspace, folder, "parts")
    with pytest.raises(BadSpec, match="validation pictures"):
        launch_study(workspace, "parts", make_spec(objective="aupro"))


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


def watched(workspace):
    """The same installation with workers that are missed after a second."""
    settings = workspace.settings.model_copy(update={"lease_seconds": 1.0, "heartbeat_seconds": 0.2})
    return dataclasses.replace(workspace, settings=settings)


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


def test_worker_for_one_study_leaves_older_ones_alone(workspace, parts, make_spec, run_to_end):
    older = launch_study(workspace, "parts", make_spec())
    assert run_to_end(make_spec(trials=1)).state is StudyState.COMPLETED
    assert study_now(workspace, older.id).state is StudyState.QUEUED


def test_missing_weights_fail_the_study_with_both_ways_out(workspace, parts, make_spec, run_to_end, tmp_path):
    weights = tmp_path / "drawnet.mine.safetensors"
    weights.write_bytes(resolve_backbone("drawnet").weights.read_bytes())
    spec = make_spec(weights=str(weights))
    study = launch_study(workspace, "parts", spec)
    weights.unlink()
    run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
    study = study_now(workspace, study.id)
    assert study.state is StudyState.FAILED
    assert "SIMPLENET_WEIGHTS" in study.error
    assert "hub" in study.error


def test_study_does_not_go_on_with_another_backbone_of_equal_width(workspace, parts, make_spec, tmp_path):
    """Features of another network would fit the head and give scores that mean nothing."""
    weights = tmp_path / "drawnet.mine.safetensors"
    weights.write_bytes(resolve_backbone("drawnet").weights.read_bytes())
    study = paused_in_its_second_trial(workspace, make_spec(trials=15, weights=str(weights)))
    save_file({key: value + 1 for key, value in load_file(weights).items()}, weights)
    want(workspace, study.id, Wanted.RUN)
    run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
    study = study_now(workspace, study.id)
    assert study.state is StudyState.FAILED
    assert "A study keeps its backbone" in study.error


def test_study_does_not_go_on_with_weights_that_were_set_after_it_began(
    workspace, parts, make_spec, tiny_weights
):
    """What "auto" comes to may change between two workers; the study's backbone does not."""
    study = paused_in_its_second_trial(workspace, make_spec(trials=15))
    want(workspace, study.id, Wanted.RUN)
    elsewhere = dataclasses.replace(
        workspace, settings=workspace.settings.model_copy(update={"weights": tiny_weights})
    )
    run_worker(elsewhere, worker_id="here", stop=threading.Event(), study_id=study.id)
    study = study_now(workspace, study.id)
    assert study.state is StudyState.FAILED
    assert "began with drawnet" in study.error
    assert "test_resnet" in study.error


def test_launch_refuses_layers_that_the_backbone_lacks(workspace, parts, make_spec):
    with pytest.raises(BadSpec, match="Layer 4: backbone 'drawnet' has 1, 2, 3"):
        launch_study(workspace, "parts", make_spec(layers=((2, 3), (3, 4))))
    with pytest.raises(BadSpec, match=r"Layer 12: .* has 1, 2, 3, 4"):
        launch_study(workspace, "parts", make_spec(layers=((12,),), backbones=("resnet18.tv_in1k",)))
    assert launch_study(workspace, "parts", make_spec(layers=((3, 4),), backbones=("resnet18.tv_in1k",)))


@pytest.mark.parametrize("wish", [{"backbones": ("resnte18",)}, {"weights": "cut"}])
def test_launch_refuses_what_no_worker_could_load(workspace, parts, make_spec, tmp_path, wish):
    cut = tmp_path / "drawnet.cut.safetensors"
    cut.write_bytes(b"half")
    with pytest.raises(BadSpec, match=r"resnet18|Copy it again"):
        launch_study(
            workspace, "parts", make_spec(**wish | ({"weights": str(cut)} if "weights" in wish else {}))
        )


def test_launch_refuses_a_weights_file_that_is_not_there(workspace, parts, make_spec):
    with pytest.raises(BadSpec, match=r"nowhere\.safetensors"):
        launch_study(workspace, "parts", make_spec(weights="/nowhere.safetensors"))


def test_cancel_stops_within_a_trial_and_leaves_nothing_running(workspace, parts, make_spec):
    study = launch_study(workspace, "parts", make_spec(epochs=500))
    stop = threading.Event()
    worker = threading.Thread(
        target=run_worker, args=(workspace,), kwargs={"worker_id": "here", "stop": stop, "study_id": study.id}
    )
    worker.start()
    wait_for(lambda: study_now(workspace, study.id).progress.get("epoch", 0) >= 1)
    steering.enqueue(workspace, study.id, {"noise_std": 0.1})
    want(workspace, study.id, Wanted.CANCEL)
    worker.join(30)
    assert not worker.is_alive()
    study = study_now(workspace, study.id)
    assert study.state is StudyState.CANCELLED
    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    trials = study_trials(workspace, study)
    assert {trial.state for trial in trials} <= {"completed", "pruned", "interrupted"}
    asked = [trial for trial in trials if trial.state == "interrupted"]
    assert len(asked) == 2, "the one that ran, and the one that waited; none is enqueued again"
    statuses = {client.get_run(trial.run_id).info.status for trial in trials if trial.run_id}
    assert "RUNNING" not in statuses
    assert client.get_run(study.parent_run_id).info.status == "KILLED"


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


def test_cancel_ends_a_trial_that_never_looks_up(workspace, parts, make_spec):
    study = launch_study(workspace, "parts", make_spec())
    kwargs = {"worker_id": "here", "stop": threading.Event(), "study_id": study.id, "run": stand_ins.deaf}
    worker = threading.Thread(target=run_worker, args=(workspace,), kwargs=kwargs)
    worker.start()
    wait_for(lambda: study_trials(workspace, study))
    want(workspace, study.id, Wanted.CANCEL)
    worker.join(30)
    assert not worker.is_alive()
    assert study_now(workspace, study.id).state is StudyState.CANCELLED
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


def test_several_backbones_are_compared_in_one_study(workspace, parts, make_spec, run_to_end, tiny_weights):
    spec = make_spec(
        trials=4, backbones=("drawnet", "test_resnet"), weights=str(tiny_weights), sampler="random"
    )
    study = run_to_end(spec)
    assert study.state is StudyState.COMPLETED, study.error
    used = {trial.params["backbone"]: trial.config["backbone"] for trial in study_trials(workspace, study)}
    assert used == {"drawnet": "drawnet", "test_resnet": "test_resnet"}
    tags = MlflowClient(*[workspace.settings.tracking_uri] * 2).get_run(study.parent_run_id).data.tags
    assert tags["backbone"] == "drawnet, test_resnet"
    model = champion(workspace, "parts")
    assert model.config["backbone"] in used


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


def test_study_keeps_a_log_of_its_own(workspace, parts, make_spec, run_to_end, caplog):
    caplog.set_level("INFO")
    study = run_to_end(make_spec(trials=1))
    lines = study_log(workspace.settings, study.id).read_text().splitlines()
    for said in ("study claimed", "trial 1 begins", "trial 1 completed", "study completed"):
        assert any(said in line and "here" in line for line in lines), said
