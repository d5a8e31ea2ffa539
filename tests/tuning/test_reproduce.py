"""A trial is trained again from its MLflow run alone: equal here, refused with the reason where it can't be."""

import dataclasses
import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from engine.checkpoint import load_head
from storage import datasets, studies
from storage.errors import RunNotFound
from storage.settings import Settings
from storage.tracking import Tracking
from storage.workspace import open_workspace
from tests.conftest import FolderFactory
from tuning import heads, jobs, queries
from tuning.commands import launch_study
from tuning.errors import BackboneChanged, DatasetChanged, NotRepeatable, TrialNotFound
from tuning.ingest import ingest_folder
from tuning.provenance import weights_digest
from tuning.repeating import job_key, start
from tuning.reproduce import find_run, reproduce
from tuning.run_files import RECIPE
from tuning.spec import StudySpec
from tuning.worker import run_worker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A workspace with a completed study of two trials, of which only the best keeps its head; and the trials."""
    folder = tmp_path_factory.mktemp("studied")
    workspace = open_workspace(Settings(home=folder / "home", device="cpu", precision="fp32", kept_heads=1))
    ingest_folder(workspace, FolderFactory(folder)(defects={"dent": 6}), "parts")
    spec = StudySpec(trials=2, height=64, width=64, epochs=2, layers=((1, 2), (2,)))
    study = launch_study(workspace, "parts", spec)
    run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
    with workspace.session() as session:
        study = studies.get_study(session, study.id)
    assert study.error is None
    yield workspace, study, queries.study_trials(workspace, study)
    workspace.close()


@pytest.fixture
def changed_recipe(studied):
    """Change the recipe of the first trial's run for the time of a test; answers the run's id."""
    workspace, _, trials = studied
    tracking, run_id = Tracking(workspace.settings), trials[0].run_id
    recipe = tracking.read_dict(run_id, RECIPE)

    def change(**changes):
        tracking.log_dict(run_id, {**recipe, **changes}, RECIPE)
        return run_id

    change.recipe = recipe
    yield change
    change()


def test_repeated_trial_is_equal_to_the_last_bit(studied):
    workspace, study, trials = studied
    found = reproduce(workspace, f"{study.id}.1")
    assert found.equal, found
    assert found.value.recorded == found.value.repeated == trials[0].value
    assert {figure.name for figure in found.figures} >= {"image_auroc", "aupro", "escapes"}
    assert found.recorded_weights == found.repeated_weights
    assert found.reasons == ()
    assert "to the last bit" in found.verdict


@pytest.mark.slow
def test_threads_of_this_process_are_as_before(studied):
    workspace, study, _ = studied
    torch.set_num_threads(1)
    reproduce(workspace, f"{study.id}.2")
    assert torch.get_num_threads() == 1


def test_other_seed_is_told_as_not_equal_with_how_far(studied, changed_recipe):
    workspace, _, _ = studied
    config = {**changed_recipe.recipe["config"], "seed": 77, "epochs": 1}
    found = reproduce(workspace, changed_recipe(config=config))
    assert not found.equal
    assert found.recorded_weights != found.repeated_weights
    assert "training is not repeatable here" in found.verdict


def test_what_differs_here_is_named_as_a_reason(studied, changed_recipe):
    workspace, _, _ = studied
    was = {**changed_recipe.recipe["surroundings"], "device": "cuda:7", "code_version": "0.0.1"}
    config = {**changed_recipe.recipe["config"], "seed": 5}
    found = reproduce(workspace, changed_recipe(surroundings=was, config=config))
    assert "another device, cpu instead of cuda:7" in found.verdict
    assert "another version of the code" in found.verdict
    assert found.value.difference is not None


def test_head_of_a_trial_that_has_none_is_made_and_put_into_its_run(studied):
    workspace, study, trials = studied
    tracking = Tracking(workspace.settings)
    worse = min(reversed(trials), key=lambda trial: trial.value)  # of equal ones the later
    where = {"study_id": study.id, "number": worse.number, "run_id": worse.run_id}
    assert heads.find(workspace, tracking, **where) is None
    assert tracking.tags(worse.run_id)["weights"] in (heads.NEVER["weights"], heads.REMOVED["weights"])
    found = reproduce(workspace, worse.run_id, keep=True)
    assert found.kept
    head, config = load_head(heads.find(workspace, tracking, **where))
    assert weights_digest(head) == found.recorded_weights
    assert config.to_json() == dict(worse.config)
    assert "equal to the recorded ones" in tracking.tags(worse.run_id)["weights"]


@pytest.mark.slow
def test_job_in_the_background_tells_the_verdict(studied, monkeypatch):
    workspace, _, trials = studied
    monkeypatch.setenv("SIMPLENET_DEVICE", "cpu")
    start(workspace.settings, trials[0].run_id)
    while jobs.is_running(workspace.settings, job_key(trials[0].run_id)):
        time.sleep(0.2)
    job = jobs.status(workspace.settings, job_key(trials[0].run_id))
    assert job.state is jobs.JobState.DONE, job.error
    assert job.result["equal"] is True


@pytest.mark.slow
def test_command_ends_with_the_verdict_as_its_exit_code(studied, changed_recipe):
    workspace, study, _ = studied
    environment = {**os.environ, "SIMPLENET_HOME": str(workspace.settings.home), "SIMPLENET_DEVICE": "cpu"}

    def call(*arguments):
        command = [sys.executable, "-m", "dashboard.cli", "reproduce", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    equal = call(f"{study.id}.2")
    assert (equal.returncode, "Equal" in equal.stdout) == (0, True), equal.stderr
    changed_recipe(config={**changed_recipe.recipe["config"], "seed": 9})
    differs = call(f"{study.id}.1", "--json")
    assert differs.returncode == 7, differs.stderr
    assert '"equal": false' in differs.stdout
    assert call(f"{study.id}.9").returncode == 3


def test_changed_dataset_is_refused_with_both_digests(studied, changed_recipe):
    workspace, _, _ = studied
    with pytest.raises(
        DatasetChanged, match=r"digest ffffffffffff; here it has versions 1 \(\w{12}\)\. Ingest"
    ):
        reproduce(workspace, changed_recipe(dataset_digest="f" * 64))
    with pytest.raises(DatasetChanged, match="dataset 'screws', which is not here"):
        reproduce(workspace, changed_recipe(dataset="screws"))


def test_changed_picture_file_is_refused_by_name(studied):
    workspace, study, _ = studied
    with workspace.session() as session:
        image = datasets.list_images(session, study.dataset_version_id)[0]
    file = workspace.blobs.path(image.digest)
    kept, mode = file.read_bytes(), file.stat().st_mode
    file.chmod(0o644)
    try:
        file.write_bytes(kept + b" ")
        with pytest.raises(DatasetChanged, match=f"'{image.name}' is not as it was.*ingest"):
            reproduce(workspace, f"{study.id}.1")
    finally:
        file.write_bytes(kept)
        file.chmod(mode)


def test_changed_backbone_is_refused_with_both_digests(studied, changed_recipe):
    workspace, _, _ = studied
    had = {**changed_recipe.recipe["backbone"], "digest": "e" * 64}
    with pytest.raises(BackboneChanged, match=r"weights eeeeeeeeeeee\); here is drawnet"):
        reproduce(workspace, changed_recipe(backbone=had))


def test_backbone_that_is_not_to_be_had_is_refused(studied, changed_recipe):
    workspace, _, _ = studied
    had = {**changed_recipe.recipe["backbone"], "name": "no_such_net"}
    with pytest.raises(BackboneChanged, match=r"no_such_net.*not to be had here"):
        reproduce(workspace, changed_recipe(backbone=had))


def test_run_of_a_study_and_unknown_runs_are_refused(studied):
    workspace, study, _ = studied
    with pytest.raises(NotRepeatable, match="is a study; only a trial"):
        reproduce(workspace, study.parent_run_id)
    with pytest.raises(RunNotFound, match="no run 'ffff'"):
        reproduce(workspace, "ffff")
    with pytest.raises(TrialNotFound, match="no trial 9; it has trials 1 to 2"):
        find_run(workspace, f"{study.id}.9")
    with pytest.raises(TrialNotFound, match="no trial 1; it has none"):
        find_run(workspace, "99.1")


def test_run_without_a_recipe_or_a_value_is_refused(studied):
    workspace, _, _ = studied
    tracking = Tracking(workspace.settings)
    bare = tracking.start_run("parts", "bare", tags={"kind": "trial"})
    with pytest.raises(NotRepeatable, match="did not complete"):
        reproduce(workspace, bare)
    tracking.log_metrics(bare, {"value": 0.5})
    tracking.log_dict(bare, {}, "validation.json")
    with pytest.raises(NotRepeatable, match=r"holds no recipe\.json"):
        reproduce(workspace, bare)


def test_reproduction_knows_that_a_missing_figure_is_no_equal_one(studied):
    workspace, study, _ = studied
    found = reproduce(workspace, f"{study.id}.1")
    lacking = dataclasses.replace(found.figures[0], recorded=None)
    assert not dataclasses.replace(found, figures=(lacking,)).equal
    assert lacking.difference is None
