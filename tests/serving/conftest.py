"""An installation with champions, and a model server on it."""

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import studies
from storage.listing import SourceFile
from storage.records import StudyState
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tests.serving.client import Client, model_server
from tuning import predictor
from tuning.commands import launch_study, promote
from tuning.ingest import ingest_folder
from tuning.operating_points import threshold_of
from tuning.spec import StudySpec
from tuning.worker import run_worker


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with `parts` (two model versions, the first is champion), `plates` (one) and `empty` (none)."""
    from engine.demo import draw_demo

    home = tmp_path_factory.mktemp("served")
    workspace = open_workspace(Settings(home=home, device="cpu", precision="fp32"))
    draw_demo(home / "pictures", size=64)
    for name in ("parts", "plates", "empty"):
        ingest_folder(workspace, home / "pictures", name)
    for name, layers in (("parts", (1, 2)), ("parts", (2, 3)), ("plates", (1, 2))):
        spec = StudySpec(trials=1, epochs=1, height=64, width=64, layers=(layers,))
        study = launch_study(workspace, name, spec)
        run_worker(workspace, worker_id="test", stop=threading.Event(), study_id=study.id)
        with workspace.session() as session:
            ended = studies.get_study(session, study.id)
        assert ended.state is StudyState.COMPLETED, ended.error
    promote(workspace, "parts", 1, who="test", why="the first")
    workspace.close()
    return home


@pytest.fixture
def own_home(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` that a test may change; MLflow's files of the models stay where they are."""
    home = tmp_path / "home"
    shutil.copytree(made, home, ignore=shutil.ignore_patterns("artifacts", "*.log"))
    # With a server running on the original, its databases have more than their main file: copied as databases are.
    for name in ("app.db", "mlflow.db", "optuna.db"):
        for leftover in home.glob(f"{name}*"):
            leftover.unlink()
        with sqlite3.connect(made / name) as source, sqlite3.connect(home / name) as copy:
            source.backup(copy)
        source.close()
        copy.close()
    return home


@pytest.fixture
def own_workspace(own_home: Path) -> Iterator[Workspace]:
    """The copy, opened."""
    opened = open_workspace(Settings(home=own_home, device="cpu", precision="fp32"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def shared_server(made: Path) -> Iterator[Client]:
    """A server on `made`, for tests that change nothing."""
    with model_server(made, serve_max_request_mb=2, serve_max_megapixels=1) as (client, _):
        yield client


@pytest.fixture(scope="session")
def made_workspace(made: Path) -> Iterator[Workspace]:
    """`made`, opened; tests must not change it."""
    opened = open_workspace(Settings(home=made, device="cpu", precision="fp32"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def pictures(made: Path) -> list[Path]:
    """Test pictures of `parts`."""
    return sorted((made / "pictures" / "test").rglob("*.png"))


@pytest.fixture
def scored_here(made_workspace):
    """The pictures' scores as the command line computes them: `scored_here(paths)`."""

    def score(paths):
        model = predictor.champion(made_workspace, "parts")
        scorer, threshold = predictor.scorer(made_workspace, model), threshold_of(made_workspace, model)
        return [
            one
            for path in paths
            for one in predictor.score_file(scorer, SourceFile(name=path.name, path=path), threshold)
        ]

    return score
