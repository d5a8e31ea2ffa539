"""A real SQLite file and a real PostgreSQL for every test that wants a database, and factories of what lies in them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from storage.database import create_database, migrate, session
from storage.datasets import create_version
from storage.records import DatasetVersion, Label, NewImage, Role, Study
from storage.studies import create_study
from tests.postgres import Postgres, running_postgres

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
START = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a developer has set for their own installation must not reach the tests, nor the tests it."""
    for name in os.environ:
        if name.startswith("SIMPLENET_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SIMPLENET_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of our own on a free port, stopped and deleted at the end."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database; a test that uses it runs once per backend."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'app.db'}"
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture
def open_database() -> Iterator[Callable[[str], Engine]]:
    """Opens databases that are closed when the test ends."""
    with ExitStack() as stack:

        def make(url: str) -> Engine:
            engine = create_database(url)
            stack.callback(engine.dispose)
            return engine

        yield make


@pytest.fixture
def engine(database_url: str, open_database: Callable[[str], Engine]) -> Engine:
    """A migrated database; a test that uses it runs once per backend."""
    engine = open_database(database_url)
    migrate(engine)
    return engine


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def new_image(of: str, **changes: Any) -> NewImage:
    """An image named `of`, whose bytes and pixels depend on that name alone."""
    values: dict[str, Any] = {
        "digest": digest(f"file {of}"),
        "pixel_digest": digest(f"pixels {of}"),
        "name": of,
        "height": 120,
        "width": 160,
        "role": Role.TRAIN,
        "label": Label.NORMAL,
    }
    return NewImage(**values | changes)


@pytest.fixture(name="new_image")
def new_image_factory() -> Callable[..., NewImage]:
    """Makes images for a version: `new_image("a.png", role=Role.TEST)`."""
    return new_image


@pytest.fixture
def make_version(engine: Engine) -> Callable[..., DatasetVersion]:
    """Commits a dataset version: `make_version("plates", "a.png", "b.png")`."""

    def make(name: str = "plates", *image_names: str) -> DatasetVersion:
        with session(engine) as opened:
            return create_version(
                opened,
                name=name,
                source="a test",
                source_split=False,
                images=[new_image(image_name) for image_name in image_names or ("a.png",)],
                now=START,
            )

    return make


@pytest.fixture
def make_study(engine: Engine, make_version: Callable[..., DatasetVersion]) -> Callable[..., Study]:
    """Commits a queued study of a dataset."""

    def make(dataset: str = "plates") -> Study:
        version = make_version(dataset)
        with session(engine) as opened:
            return create_study(
                opened, name=f"of {dataset}", dataset_version_id=version.id, spec={"trials": 3}, now=START
            )

    return make


@pytest.fixture
def start_script() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts a file of scripts/ as a process of its own, which is killed at the latest when the test ends."""
    with ExitStack() as stack:

        def start(name: str, *arguments: object) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-W", "error", SCRIPTS / name, *map(str, arguments)],
                cwd=REPOSITORY,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)  # closes its pipes and waits
            stack.callback(process.kill)
            return process

        yield start
