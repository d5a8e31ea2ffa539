"""A whole study on real databases: trials, MLflow runs, champion, and what launching one refuses."""

import dataclasses
import threading

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from safetensors.torch import load_file, save_file

from engine.backbones.resolve import resolve_backbone
from engine.images import decode
from storage import datasets, events, models
from storage.errors import (
    DatasetInUse,
    DatasetNotFound,
    ModelNotFound,
    TrackingError,
)
from storage.records import ModelState, Role, StudyState, Wanted, now
from storage.tracking import Tracking
from tests.tuning.running import paused_in_its_second_trial, study_now
from tuning.commands import (
    delete_dataset,
    launch_study,
    promote,
    restore_dataset,
    want,
    withdraw_champion,
)
from tuning.errors import BadSpec, NoChampion
from tuning.ingest import ingest_folder
from tuning.predictor import champion, detector, score_images
from tuning.queries import study_trials
from tuning.study_log import as_lines, last_entries, study_log
from tuning.worker import run_worker


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


def test_study_keeps_a_log_of_its_own(workspace, parts, make_spec, run_to_end, caplog):
    caplog.set_level("INFO")
    study = run_to_end(make_spec(trials=1))
    lines = study_log(workspace.settings, study.id).read_text().splitlines()
    for said in ("study claimed", "trial 1 begins", "trial 1 completed", "study completed"):
        assert any(said in line and "here" in line for line in lines), said
        assert any(said in line for line in as_lines(last_entries(workspace, study.id))), said
