"""A study that reports to an MLflow server over HTTP, as where several machines share one."""

import dataclasses
import threading

import pytest

from engine.checkpoint import load_head
from storage import datasets, models, studies
from storage.records import Role, StudyState
from storage.tracking import Tracking
from tests.mlflow_server import running_mlflow
from tuning import queries
from tuning.commands import launch_study
from tuning.ingest import ingest_folder
from tuning.predictor import score_images
from tuning.run_files import RECIPE, WEIGHTS
from tuning.worker import run_worker


@pytest.fixture
def served_workspace(workspace, free_port):
    """The workspace with its own MLflow server, spoken to over HTTP only."""
    address = f"http://127.0.0.1:{free_port}"
    settings = workspace.settings.model_copy(update={"mlflow_port": free_port, "tracking_uri": address})
    with running_mlflow(settings):
        yield dataclasses.replace(workspace, settings=settings)


def test_study_registers_its_champion_through_the_server(served_workspace, make_folder, make_spec):
    parts = ingest_folder(served_workspace, make_folder(defects={"dent": 6}), "parts").version
    study = launch_study(served_workspace, "parts", make_spec(trials=1))
    run_worker(served_workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
    with served_workspace.session() as session:
        study = studies.get_study(session, study.id)
        champion = models.champion(session, "parts")
        test = datasets.list_images(session, parts.id, role=Role.TEST)
    assert study.error is None
    assert study.state is StudyState.COMPLETED
    tracking = Tracking(served_workspace.settings)
    assert tracking.registered_version("parts", champion.run_id) == champion.version
    # The weights come back over the server as well.
    assert tracking.checkpoint_folder("parts", champion.version).is_dir()
    assert len(list(score_images(served_workspace, champion, test))) == len(test)


def test_artifacts_come_through_a_server_too(served_workspace, make_folder, make_spec):
    ingest_folder(served_workspace, make_folder(defects={"dent": 6}), "parts")
    study = launch_study(served_workspace, "parts", make_spec(trials=1))
    run_worker(served_workspace, worker_id="here", stop=threading.Event(), study_id=study.id)
    (trial,) = queries.study_trials(served_workspace, study)
    tracking = Tracking(served_workspace.settings)
    assert tracking.read_dict(trial.run_id, RECIPE)["trial"] == 1
    assert tracking.read_dict(trial.run_id, "nothing.json") is None
    folder = tracking.artifact_folder(trial.run_id, WEIGHTS)
    assert load_head(folder)[1].to_json() == dict(trial.config)
    tracking.delete_artifacts(trial.run_id, WEIGHTS)
    assert tracking.artifact_folder(trial.run_id, WEIGHTS) is None
