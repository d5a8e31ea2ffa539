"""Several machines on one study, on PostgreSQL: what one of them lacks costs no other one the study."""

import dataclasses
import threading
import time

import pytest

from storage import studies
from storage.errors import DiskFull
from storage.records import StudyState, Wanted
from storage.settings import Settings
from storage.workspace import open_workspace
from tests.postgres import running_postgres
from tuning.commands import launch_study, want
from tuning.ingest import ingest_folder
from tuning.queries import study_trials
from tuning.search import open_storage
from tuning.study import help_study
from tuning.worker import run_worker

pytestmark = pytest.mark.postgres
PATIENCE_SECONDS = 120.0


@pytest.fixture
def workspace(tmp_path):
    """An installation that machines share."""
    with running_postgres() as postgres:
        settings = Settings(
            home=tmp_path / "home",
            device="cpu",
            precision="fp32",
            database_url=postgres.new_database(),
            optuna_url=postgres.new_database(),
        )
        opened = open_workspace(settings)
        yield opened
        opened.close()
        storage = open_storage(settings.optuna_url)  # held for the whole process
        storage.remove_session()
        storage.engine.dispose()
        open_storage.cache_clear()


@pytest.fixture
def parts(workspace, made_databases, make_folder):
    made_databases(workspace.settings)
    return ingest_folder(workspace, make_folder(defects={"dent": 6}), "parts").version


@pytest.fixture
def start():
    """Starts workers as threads: `start(workspace, "a")`; answers what ends one and waits for it."""
    ends = []

    def begin(workspace, name, **keywords):
        stop = threading.Event()
        kwargs = {"worker_id": name, "stop": stop, **keywords}
        thread = threading.Thread(target=run_worker, args=(workspace,), kwargs=kwargs)
        thread.start()

        def end():
            stop.set()
            thread.join(60)
            assert not thread.is_alive()

        ends.append(end)
        return end

    yield begin
    for end in ends:
        end()


def now_of(workspace, study):
    with workspace.session() as session:
        return studies.get_study(session, study.id)


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_study_waits_for_a_machine_that_can_go_on_with_it(workspace, parts, make_spec, start, tiny_weights):
    study = launch_study(workspace, "parts", make_spec(trials=6))
    end = start(workspace, "a")
    wait_for(lambda: now_of(workspace, study).progress.get("trial", 0) >= 2)
    want(workspace, study.id, Wanted.PAUSE)
    end()
    assert now_of(workspace, study).state is StudyState.PAUSED
    want(workspace, study.id, Wanted.RUN)

    settings = workspace.settings.model_copy(update={"weights": tiny_weights})
    start(dataclasses.replace(workspace, settings=settings), "b")
    wait_for(lambda: now_of(workspace, study).error)
    time.sleep(2.5)  # it would take it again within a second
    waiting = now_of(workspace, study)
    assert (waiting.state, waiting.attempt) == (StudyState.QUEUED, 2)
    assert "Worker 'b' can't go on" in waiting.error
    assert "began with drawnet" in waiting.error

    start(workspace, "a again")
    wait_for(lambda: now_of(workspace, study).state.finished)
    study = now_of(workspace, study)
    assert (study.state, study.error) == (StudyState.COMPLETED, None)


def test_trials_that_helpers_ended_last_are_counted_on_the_study_that_is_done(
    workspace, parts, make_spec, start
):
    for _ in range(2):  # whose trial is the last is left to chance
        study = launch_study(workspace, "parts", make_spec(trials=6))
        start(workspace, f"lead of {study.id}")
        start(workspace, f"helper of {study.id}")
        wait_for(lambda study=study: now_of(workspace, study).state.finished)
        ended = now_of(workspace, study)
        assert (ended.state, ended.progress["ended"]) == (StudyState.COMPLETED, 6)


def test_study_that_no_machine_began_fails_with_its_reason(workspace, parts, make_spec, start, tiny_weights):
    weights = tiny_weights.parent / "drawnet.gone.safetensors"
    weights.write_bytes(tiny_weights.read_bytes())
    study = launch_study(workspace, "parts", make_spec())
    settings = workspace.settings.model_copy(update={"weights": weights})
    weights.unlink()
    start(dataclasses.replace(workspace, settings=settings), "b")
    wait_for(lambda: now_of(workspace, study).state.finished)
    study = now_of(workspace, study)
    assert study.state is StudyState.FAILED
    assert "SIMPLENET_WEIGHTS" in study.error


def test_worker_that_could_not_help_tries_again_after_some_minutes(
    workspace, parts, make_spec, start, tiny_weights, monkeypatch
):
    monkeypatch.setattr("tuning.worker.UNABLE_SECONDS", 2.0)
    study = launch_study(workspace, "parts", make_spec(trials=60))
    start(workspace, "lead")
    wait_for(lambda: now_of(workspace, study).progress.get("trial", 0) >= 2)
    room = []

    def help_once_there_is_room(*arguments):
        room.append(time.monotonic())
        if len(room) == 1:
            raise DiskFull("No room on the disk for a head. Free some space.")
        return help_study(*arguments)

    monkeypatch.setattr("tuning.worker.help_study", help_once_there_is_room)
    start(workspace, "helper")

    def helped():
        return any(trial.worker == "helper" for trial in study_trials(workspace, study))

    wait_for(helped)
    assert room[1] - room[0] >= 2.0
    want(workspace, study.id, Wanted.CANCEL)
