"""Real workspaces for pages and commands: pictures ingested, and one study run by a real worker."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner, Result

APP = Path(__file__).parents[2] / "dashboard" / "app.py"
TRIALS = 2

Page = Callable[..., AppTest]
Simplenet = Callable[..., Result]


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with this machine's speed for the usual study, measured once instead of by every page of a test."""
    from storage.settings import Settings
    from tuning.spec import StudySpec
    from tuning.speed import FILE, measured_speed

    home = tmp_path_factory.mktemp("measured")
    assert measured_speed(Settings(home=home, device="cpu", precision="fp32"), StudySpec()) is not None
    return home / FILE


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: Path) -> Path:
    """An empty installation, found through the environment as every process finds it."""
    (tmp_path / "home").mkdir()
    shutil.copy(measured, tmp_path / "home")
    return _use(tmp_path / "home", monkeypatch)


@pytest.fixture
def bare_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty installation set to a backbone whose weights are out of reach: no file, no cache, no hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-cache"))
    monkeypatch.setenv("SIMPLENET_BACKBONE", "resnet18")
    return _use(tmp_path / "home", monkeypatch)


@pytest.fixture
def studied_home(studied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with the dataset `parts`, a completed study and its champion; tests must not change it."""
    return _use(studied, monkeypatch)


@pytest.fixture
def own_studied_home(studied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `studied_home` that a test may change; MLflow's files of the model stay where they are."""
    return _use(Path(shutil.copytree(studied, tmp_path / "own")), monkeypatch)


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a real study of two trials on 64-pixel pictures once per session."""
    import threading

    from engine.demo import draw_demo
    from storage import studies
    from storage.records import StudyState
    from storage.settings import Settings
    from storage.workspace import open_workspace
    from tuning.commands import ingest_folder, launch_study
    from tuning.spec import StudySpec
    from tuning.worker import run_worker

    home = tmp_path_factory.mktemp("studied")
    settings = Settings(home=home, device="cpu", precision="fp32")
    workspace = open_workspace(settings)
    draw_demo(home / "pictures", size=64)
    ingest_folder(workspace, home / "pictures", "parts")
    spec = StudySpec(trials=TRIALS, epochs=2, height=64, width=64, layers=((2, 3), (1, 2)))
    study = launch_study(workspace, "parts", spec)
    run_worker(workspace, worker_id="test", stop=threading.Event(), study_id=study.id)
    with workspace.session() as session:
        ended = studies.get_study(session, study.id)
    assert ended.state is StudyState.COMPLETED, ended.error
    workspace.close()
    return home


@pytest.fixture
def page() -> Iterator[Page]:
    """Open a page as a browser would: `page("views/studies.py", study=1)`."""
    import streamlit as st

    def clear() -> None:
        # The workspace of another test must not be shown in this one.
        st.cache_resource.clear()
        st.cache_data.clear()

    def open_page(view: str = "views/home.py", **parameters: Any) -> AppTest:
        app = AppTest.from_file(str(APP), default_timeout=120)
        app.run()
        app.switch_page(view)
        for key, value in parameters.items():
            app.query_params[key] = str(value)
        return app.run()

    clear()
    yield open_page
    clear()


@pytest.fixture
def simplenet() -> Simplenet:
    """Run a command in this process: `simplenet("datasets", "--json")`."""
    from dashboard.cli import app

    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def _use(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIMPLENET_HOME", str(home))
    monkeypatch.delenv("SIMPLENET_WEIGHTS", raising=False)
    monkeypatch.setenv("SIMPLENET_DEVICE", "cpu")
    monkeypatch.setenv("SIMPLENET_PRECISION", "fp32")
    return home
