"""Two machines, as far as one can play both: two homes that share PostgreSQL, MLflow's server and a bucket."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from storage import datasets, models, studies
from storage.records import Role, StudyState
from storage.settings import PREFIX, Settings
from storage.workspace import open_workspace
from tests.mlflow_server import running_mlflow
from tests.postgres import running_postgres
from tuning.commands import launch_study
from tuning.ingest import ingest_folder
from tuning.predictor import map_of, score_images
from tuning.spec import StudySpec

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300.0
SPEC = StudySpec(trials=2, height=64, width=64, epochs=2, layers=((1, 2), (2,)))


@pytest.fixture
def first(s3, tmp_path, free_port):
    """The machine with the dashboard: its home, MLflow's server there, pictures in the emulated S3."""
    with running_postgres() as postgres:
        settings = Settings(
            home=tmp_path / "a",
            device="cpu",
            precision="fp32",
            database_url=postgres.new_database(),
            optuna_url=postgres.new_database(),
            mlflow_database_url=postgres.new_database(),
            mlflow_port=free_port,
            tracking_uri=f"http://127.0.0.1:{free_port}",
            blobs_url="s3://parts/line-3",
        )
        workspace = open_workspace(settings)
        with running_mlflow(settings):
            yield workspace
        workspace.close()


def wait_for(condition, log):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def study_of(workspace, study):
    with workspace.session() as session:
        return studies.get_study(session, study.id)


@contextmanager
def worker_elsewhere(first, home, *more):
    """A worker as somebody starts it on another machine, with a home of its own; gives the process and its log."""
    settings, log = first.settings, home.with_suffix(".log")
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [
                *(sys.executable, "-m", "dashboard.cli", "--home", home, "worker", *more),
                *("--database", settings.database_url, "--optuna", settings.optuna_url),
                *("--tracking", settings.tracking_uri, "--blobs", settings.blobs_url),
            ],
            cwd=ROOT,
            env={**os.environ, f"{PREFIX}DEVICE": "cpu", f"{PREFIX}PRECISION": "fp32"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield worker, log
    finally:
        worker.kill()
        worker.wait()


def test_worker_elsewhere_runs_the_study_and_its_champion_scores_here(first, make_folder, tmp_path):
    version = ingest_folder(first, make_folder(defects={"dent": 6}), "parts").version
    study = launch_study(first, "parts", SPEC)
    home, settings = tmp_path / "b", first.settings
    with worker_elsewhere(first, home, "--study", str(study.id)) as (worker, log):
        wait_for(lambda: worker.poll() is not None, log)
    assert worker.returncode == 0, log.read_text()
    ended = study_of(first, study)
    assert ended.state is StudyState.COMPLETED, f"{ended.error}\n{log.read_text()}"
    assert "secret-of-the-tests" not in log.read_text()
    with first.session() as session:
        champion = models.champion(session, "parts")
        images = datasets.list_images(session, version.id)
        test = datasets.list_images(session, version.id, role=Role.TEST)
    # All that was computed lies with the worker, all pictures in the bucket, and both homes hold no blobs.
    assert not any((settings.home / "features").iterdir())
    assert any((home / "features").iterdir())
    assert {file.name for file in (home / "fetched").glob("??/*")} >= {image.digest for image in test}
    assert not (home / "blobs").exists()
    assert not (settings.home / "blobs").exists()
    assert set(first.blobs.sizes(image.digest for image in images)) == {image.digest for image in images}
    scored = list(score_images(first, champion, test))
    assert len(scored) == len(test)
    _, found = map_of(first, champion, test[0])
    assert found.shape == (test[0].height, test[0].width)
    assert np.isfinite(found).all()


def test_study_waits_while_the_bucket_is_away(first, s3, make_folder, tmp_path):
    ingest_folder(first, make_folder(defects={"dent": 6}), "parts")
    with worker_elsewhere(first, tmp_path / "b") as (_, log):
        wait_for(lambda: "worker started" in log.read_text(), log)
        s3.pause()
        try:
            study = launch_study(first, "parts", SPEC)
            wait_for(lambda: "BlobsUnavailable" in log.read_text(), log)
            assert not study_of(first, study).state.finished
        finally:
            s3.go_on()
        wait_for(lambda: study_of(first, study).state.finished, log)
    assert study_of(first, study).state is StudyState.COMPLETED, study_of(first, study).error
