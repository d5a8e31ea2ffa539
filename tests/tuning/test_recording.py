"""What a study leaves in a real MLflow: an experiment, a parent run, nested runs with names and all of theirs."""

import io
import json
import threading

import pytest
from PIL import Image

from engine.checkpoint import load_head
from storage import datasets, studies
from storage.records import Role
from storage.settings import Settings
from storage.tracking import Tracking
from storage.workspace import open_workspace
from tests.conftest import FolderFactory
from tuning import heads, plots, queries
from tuning.commands import launch_study
from tuning.ingest import ingest_folder
from tuning.insight import Importance, Method
from tuning.provenance import code_version, weights_digest
from tuning.recording import EpochMetrics
from tuning.run_files import CALIBRATION, FIGURES, RECIPE, SCORES, WEIGHTS
from tuning.spec import StudySpec
from tuning.worker import run_worker

pytestmark = pytest.mark.slow

TRIALS, KEPT = 4, 2


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A completed study of four trials, of which two keep their heads: workspace, study, trials, MLflow's client."""
    folder = tmp_path_factory.mktemp("recorded")
    workspace = open_workspace(
        Settings(home=folder / "home", device="cpu", precision="fp32", kept_heads=KEPT)
    )
    ingest_folder(workspace, FolderFactory(folder)(defects={"dent": 6, "scratch": 4}), "parts")
    spec = StudySpec(trials=TRIALS, height=64, width=64, epochs=2, layers=((1, 2), (2,)))
    study = launch_study(workspace, "parts", spec)
    run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
    with workspace.session() as session:
        study = studies.get_study(session, study.id)
    assert study.error is None
    yield workspace, study, queries.study_trials(workspace, study), Tracking(workspace.settings).client
    workspace.close()


def _files(client, run_id, path=None):
    found = []
    for item in client.list_artifacts(run_id, path):
        found += _files(client, run_id, item.path) if item.is_dir else [item.path]
    return found


def test_dataset_is_an_experiment_and_study_a_run_above_its_trials(studied):
    _, study, trials, client = studied
    experiment = client.get_experiment_by_name("parts")
    runs = client.search_runs([experiment.experiment_id])
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == study.parent_run_id]
    assert len(runs) == TRIALS + 1
    assert {run.info.run_id for run in nested} == {trial.run_id for trial in trials}
    assert client.get_run(study.parent_run_id).info.run_name == study.name
    config = trials[1].config
    layers = "+".join(map(str, config["layers"]))
    name = f"trial 02 · σ {config['noise_std']:.3g} · layers {layers} · adaptor {config['adaptor_depth']}"
    assert client.get_run(trials[1].run_id).info.run_name == name
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_every_run_says_what_it_was_made_of_and_where(studied):
    workspace, study, trials, client = studied
    with workspace.session() as session:
        version = datasets.get_version(session, study.dataset_version_id)
    for run_id in (study.parent_run_id, trials[0].run_id):
        tags = client.get_run(run_id).data.tags
        assert tags["dataset_version"] == "1"
        assert tags["dataset_digest"] == version.digest
        assert tags["backbone"] == "drawnet"
        assert len(tags["weights_digest"]) == 64
        assert tags["code_version"] == code_version()
        assert (tags["device"], tags["precision"], tags["protocol"]) == ("cpu", "fp32", "sealed")
        assert tags["device_name"]
        assert int(tags["threads"]) >= 1
        assert tags["sampler"] == "tpe"


def test_trial_has_parameters_and_a_curve_by_epoch(studied):
    _, _, trials, client = studied
    run = client.get_run(trials[1].run_id)
    assert float(run.data.params["noise_std"]) == pytest.approx(trials[1].params["noise_std"])
    assert run.data.params["seed"] == "0"
    curve = client.get_metric_history(trials[1].run_id, "validation.image_auroc")
    told = {metric.step: metric.value for metric in curve if metric.step > 0}
    assert told == dict(trials[1].intermediate)
    assert {metric.step for metric in client.get_metric_history(trials[1].run_id, "loss")} == {1, 2}
    assert run.data.metrics["value"] == trials[1].value


def test_trial_holds_all_that_repeating_takes_and_scores_of_validation_alone(studied):
    workspace, study, trials, client = studied
    files = _files(client, trials[0].run_id)
    assert {RECIPE, CALIBRATION, FIGURES, SCORES} <= set(files)
    tracking = Tracking(workspace.settings)
    recipe = tracking.read_dict(trials[0].run_id, RECIPE)
    assert recipe["config"] == dict(trials[0].config)
    assert recipe["spec"] == dict(study.spec)
    scored = set(tracking.read_dict(trials[0].run_id, SCORES))
    with workspace.session() as session:
        images = datasets.list_images(session, study.dataset_version_id)
    assert scored == {image.pixel_digest for image in images if image.role is Role.VALIDATION}


def test_heatmaps_of_the_same_validation_pictures_stand_in_the_image_grid_of_every_trial(studied):
    _, _, trials, client = studied
    grids = []
    for trial in trials:
        files = [path for path in _files(client, trial.run_id) if path.startswith("images/")]
        assert client.get_run(trial.run_id).data.tags["mlflow.loggedImages"] == "True"
        grids.append({path.split("+step+")[0] for path in files})
    assert all(grid == grids[0] for grid in grids)
    named = " ".join(grids[0])
    assert all(kind in named for kind in ("dent", "scratch", "normal"))
    assert all(path.startswith("images/validation ") for path in grids[0])


def test_only_the_best_keep_their_weights(studied):
    workspace, _, trials, client = studied
    best = sorted(trials, key=lambda trial: (-trial.value, trial.number))
    tracking = Tracking(workspace.settings)
    for place, trial in enumerate(best):
        folder = tracking.artifact_folder(trial.run_id, WEIGHTS)
        tag = client.get_run(trial.run_id).data.tags["weights"]
        if place < KEPT:
            assert tag == "kept"
            head, config = load_head(folder)
            assert weights_digest(head) == client.get_run(trial.run_id).data.tags["head_digest"]
            assert config.to_json() == dict(trial.config)
        else:
            assert folder is None
            assert tag in (heads.NEVER["weights"], heads.REMOVED["weights"])


def test_study_run_has_its_plots_and_its_best(studied):
    _, study, trials, client = studied
    files = set(_files(client, study.parent_run_id))
    wanted = {f"plots/{name}.png" for name in ("history", "curves", "slices", "timeline", "latency")}
    assert wanted <= files
    run = client.get_run(study.parent_run_id)
    assert run.data.metrics["best.image_auroc"] == max(trial.value for trial in trials)
    assert json.loads(run.data.params["trials"]) == TRIALS


def test_sealed_pictures_stand_in_no_trial_but_the_champion(studied):
    _, study, trials, client = studied
    tested = [trial for trial in trials if "test.json" in _files(client, trial.run_id)]
    assert len(tested) == 1
    assert tested[0].number + 1 == int(client.get_run(study.parent_run_id).data.tags["best_trial"])


def test_metrics_of_epochs_go_in_batches(studied):
    workspace, _, _, client = studied
    tracking = Tracking(workspace.settings)
    run_id = tracking.start_run("parts", "batches")
    metrics = EpochMetrics(tracking, run_id)
    for epoch in range(1, 6):
        metrics.add(epoch, {"loss": 1 / epoch})
    assert client.get_metric_history(run_id, "loss") == []
    metrics.flush()
    assert [metric.step for metric in client.get_metric_history(run_id, "loss")] == [1, 2, 3, 4, 5]
    metrics.flush()
    assert len(client.get_metric_history(run_id, "loss")) == 5


def test_plots_are_pictures_also_of_a_study_without_a_value(studied):
    _, _, trials, _ = studied
    important = Importance(method=Method.PED_ANOVA, shares={"noise_std": 1.0}, trials=4)
    for drawn in (plots.study_plots(trials, important, "image_auroc"), plots.study_plots([], None, "f1")):
        for name, data in drawn.items():
            with Image.open(io.BytesIO(data)) as picture:
                assert picture.format == "PNG", name
                assert picture.width > 300
    assert "importance" in plots.study_plots(trials, important, "image_auroc")
