"""A worker on another machine: a home of its own, and one or another thing that it does not share."""

import shutil

import optuna
import pytest

from storage import studies
from storage.errors import BlobsUnavailable
from storage.records import StudyState, now
from storage.settings import Settings
from storage.tracking import Tracking
from storage.workspace import open_workspace
from tests.postgres import running_postgres
from tuning.commands import launch_study
from tuning.errors import NotJoined
from tuning.ingest import ingest_folder
from tuning.joining import check_addresses, check_joined
from tuning.search import open_storage, study_name

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture
def shared_things(postgres, tmp_path):
    """Settings that two machines have in common."""
    (tmp_path / "share").mkdir()
    return {
        "database_url": postgres.new_database(),
        "optuna_url": postgres.new_database(),
        "mlflow_database_url": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "blobs_url": str(tmp_path / "share"),
    }


@pytest.fixture
def machine(shared_things, tmp_path):
    """Factory of machines, each with a home of its own: `machine("b", optuna_url=…)`."""
    opened = []

    def make(name, **own):
        opened.append(
            open_workspace(Settings(**{"home": tmp_path / name, "device": "cpu", **shared_things, **own}))
        )
        return opened[-1]

    yield make
    for workspace in opened:
        workspace.close()
    for url in {workspace.settings.optuna_url for workspace in opened}:
        storage = open_storage(url)  # held for the whole process: its connections would end with the server
        storage.remove_session()
        storage.engine.dispose()
    open_storage.cache_clear()


@pytest.fixture
def first(machine, make_folder, made_databases):
    """The machine that took pictures in, without any study yet."""
    workspace = machine("a")
    made_databases(workspace.settings)
    ingest_folder(workspace, make_folder(defects={"dent": 6}), "parts")
    return workspace


@pytest.fixture
def studied(first, make_spec):
    """The same with what a completed study leaves behind."""
    tracking = Tracking(first.settings)
    study = launch_study(first, "parts", make_spec())
    run_id = tracking.start_run("parts", "study 1")
    tracking.log_dict(run_id, {"a": 1}, "study.json")
    optuna.create_study(storage=open_storage(first.settings.optuna_url), study_name=study_name(study.id))
    with first.session() as session:
        held = studies.claim(session, worker_id="a", now=now(), lease_seconds=60)
        hold = {"study_id": held.id, "worker_id": "a", "attempt": held.attempt}
        studies.set_parent_run(session, **hold, parent_run_id=run_id)
        studies.finish(session, **hold, state=StudyState.COMPLETED, now=now())
    return first


def test_worker_joins_where_it_finds_what_the_database_speaks_of(studied, machine):
    check_joined(studied)
    check_joined(machine("b"))


def test_worker_joins_an_empty_installation_whatever_it_is_given(machine):
    check_joined(machine("b"))


def test_worker_without_the_pictures_is_refused_with_both_places(first, machine, tmp_path):
    with pytest.raises(
        NotJoined, match=rf"None of the pictures of 'parts' is in {tmp_path}/b/blobs.*--blobs"
    ):
        check_joined(machine("b", blobs_url=""))
    shutil.rmtree(first.blobs.folder)
    with pytest.raises(BlobsUnavailable, match="Mount the disk"):
        check_joined(first)


def test_one_lost_picture_keeps_no_worker_out(first, machine):
    next(iter(first.blobs.folder.glob("??/*"))).unlink()
    check_joined(machine("b"))


def test_worker_with_another_optuna_is_refused(studied, machine, postgres):
    with pytest.raises(NotJoined, match=r"Optuna's database here holds no trial of study 1.*--optuna"):
        check_joined(machine("b", optuna_url=postgres.new_database()))


def test_worker_with_another_mlflow_is_refused(studied, machine, made_databases, tmp_path):
    other = machine("b", mlflow_database_url=f"sqlite:///{tmp_path / 'other.db'}")
    made_databases(other.settings)
    with pytest.raises(NotJoined, match=r"MLflow as it is set here holds no run of study 1.*--tracking"):
        check_joined(other)


def test_worker_that_would_write_models_into_a_folder_of_its_own_is_refused(studied, machine, tmp_path):
    (tmp_path / "a" / "artifacts").rename(tmp_path / "elsewhere")  # as seen from another machine
    with pytest.raises(NotJoined, match=rf"{tmp_path}/a/artifacts/parts.*models would be lost"):
        check_joined(machine("b"))


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({}, "installation's database is an SQLite file.*--database"),
        ({"database_url": "postgresql://u@h/d"}, "Optuna's database is an SQLite file.*--optuna"),
        (
            {"database_url": "postgresql://u@h/d", "optuna_url": "postgresql://u@h/o"},
            "MLflow is a database.*--tracking",
        ),
    ],
)
def test_addresses_of_one_machine_are_no_addresses_to_join_by(tmp_path, own, said):
    with pytest.raises(NotJoined, match=said):
        check_addresses(Settings(home=tmp_path, **own))


def test_addresses_that_can_be_shared_are_taken(tmp_path):
    url = "postgresql://u@h/d"
    check_addresses(Settings(home=tmp_path, database_url=url, optuna_url=url, tracking_uri="http://h:5000"))
