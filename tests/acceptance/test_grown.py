"""An installation that began on one machine and is shared later: what docs/machines.md tells to do, done."""

import re
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from storage import models, studies
from storage.records import StudyState
from storage.settings import Settings
from storage.tracking import Tracking
from storage.workspace import open_workspace
from tests.mlflow_server import running_mlflow
from tuning.commands import launch_study
from tuning.ingest import ingest_folder
from tuning.spec import StudySpec
from tuning.worker import run_worker

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "machines.md"
SPEC = StudySpec(trials=1, height=64, width=64, epochs=2, layers=((1, 2),))


def run(workspace, worker_id, event):
    study = launch_study(workspace, "parts", SPEC)
    run_worker(workspace, worker_id=worker_id, stop=event, study_id=study.id)
    with workspace.session() as session:
        study = studies.get_study(session, study.id)
    assert study.state is StudyState.COMPLETED, study.error
    return study


def test_files_of_runs_of_before_are_handed_out_once_their_addresses_are_changed(
    workspace, make_folder, made_databases, free_port, tmp_path
):
    stop = threading.Event()
    made_databases(workspace.settings)
    ingest_folder(workspace, make_folder(defects={"dent": 6}), "parts")
    old = run(workspace, "a", stop)
    with workspace.session() as session:
        champion = models.champion(session, "parts")
    artifacts = workspace.settings.artifacts_folder
    (sql,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    with closing(sqlite3.connect(workspace.settings.home / "mlflow.db")) as database:
        database.executescript(sql.replace("file:///home/me/.simplenet/artifacts", artifacts.as_uri()))
    with running_mlflow(workspace.settings.model_copy(update={"mlflow_port": free_port})) as address:
        other = open_workspace(
            Settings(
                home=tmp_path / "b",
                device="cpu",
                precision="fp32",
                database_url=workspace.settings.database_url,
                optuna_url=workspace.settings.optuna_url,
                tracking_uri=address,
                blobs_url=str(workspace.blobs.folder),
            )
        )
        tracking = Tracking(other.settings)
        assert tracking.folder_out_of_reach(old.parent_run_id) is None
        folder = tracking.checkpoint_folder("parts", champion.version)
        assert folder.is_relative_to(other.settings.home)
        assert any(folder.iterdir())
        new = run(other, "b", stop)
        kept = artifacts / "parts" / new.parent_run_id / "artifacts"
        assert any(kept.iterdir()), "the other machine's files lie with the server, beside those of before"
        other.close()
