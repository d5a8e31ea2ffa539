"""Several workers on one study, on PostgreSQL: an exact budget, whoever dies, and one champion."""

import signal
import socket
import time

import pytest
from mlflow import MlflowClient

from storage import models, slots
from storage.records import StudyState, Wanted
from storage.study_edits import extend_study
from tests.faults.conftest import HEARTBEAT_SECONDS, LEASE_SECONDS
from tuning.commands import launch_study, want
from tuning.queries import shares_studies, study_trials
from tuning.study_log import as_lines, last_entries, study_log

pytestmark = [pytest.mark.slow, pytest.mark.postgres]
TRIAL_SECONDS = 10.0  # that a helper may still be busy with its own; they take 3 where nothing else runs
SOON_SECONDS = 10.0  # from a person's wish to no worker having a trial; each listens every second


@pytest.fixture
def running(shared_workspace, take_in, make_spec, start_worker, wait_for):
    """A study that three workers run, each in the middle of a trial."""

    def run(**changes):
        take_in(shared_workspace)
        study = launch_study(shared_workspace, "parts", make_spec(**{"trials": 7, "epochs": 3, **changes}))
        workers = [start_worker(shared_workspace, "slowly") for _ in range(3)]

        def all_three():
            with shared_workspace.session() as session:
                return len({slot.worker_id for slot in slots.list_slots(session, study.id)} - {None}) == 3

        wait_for(all_three)
        return study, workers

    return run


def champions(workspace):
    with workspace.session() as session:
        return models.list_models(session, "parts")


def test_workers_share_a_study_and_keep_its_budget(shared_workspace, running, wait_for, state_of, ended):
    study, _ = running()
    wait_for(
        lambda: state_of(shared_workspace, study).state.finished, lambda: state_of(shared_workspace, study)
    )
    study = state_of(shared_workspace, study)
    assert study.state is StudyState.COMPLETED, study.error
    trials = study_trials(shared_workspace, study)
    assert len(ended(shared_workspace, study)) == len(trials) == 7
    assert len(champions(shared_workspace)) == 1
    configurations = [tuple(sorted(trial.params.items())) for trial in trials]
    assert len(set(configurations)) > 5, "workers propose on their own"
    with shared_workspace.session() as session:
        assert slots.list_slots(session, study.id) == []


@pytest.mark.parametrize("who", ["lead", "helper"])
def test_death_of_one_worker_costs_one_trial_and_nothing_else(
    shared_workspace, running, wait_for, state_of, ended, who
):
    study, workers = running()
    lead = state_of(shared_workspace, study).worker_id
    victim = next(worker for worker in workers if (f"-{worker.pid}-" in lead) == (who == "lead"))
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    wait_for(
        lambda: state_of(shared_workspace, study).state.finished, lambda: state_of(shared_workspace, study)
    )
    study = state_of(shared_workspace, study)
    assert study.state is StudyState.COMPLETED, study.error
    assert study.attempt == (2 if who == "lead" else 1)
    assert len(ended(shared_workspace, study)) == 7
    assert [trial.state for trial in study_trials(shared_workspace, study)].count("interrupted") == 1
    assert len(champions(shared_workspace)) == 1


def test_helper_takes_the_lead_while_trials_are_left(shared_workspace, running, wait_for, state_of):
    """Else nobody would show how far the study is, nor try the lost trial again, until all others had ended."""
    study, workers = running(trials=60)
    lead = state_of(shared_workspace, study).worker_id
    victim = next(worker for worker in workers if f"-{worker.pid}-" in lead)
    victim.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    victim.wait()
    wait_for(lambda: state_of(shared_workspace, study).attempt == 2)
    seconds = time.monotonic() - killed_at
    assert seconds <= LEASE_SECONDS + HEARTBEAT_SECONDS + TRIAL_SECONDS, f"after {seconds:.1f} s"

    def lost():
        trials = study_trials(shared_workspace, study)
        return [trial for trial in trials if trial.state == "interrupted" and "died" in (trial.error or "")]

    wait_for(lost)
    assert not state_of(shared_workspace, study).state.finished
    want(shared_workspace, study.id, Wanted.CANCEL)
    wait_for(lambda: state_of(shared_workspace, study).state is StudyState.CANCELLED)


@pytest.mark.parametrize(
    ("wanted", "state"), [(Wanted.CANCEL, StudyState.CANCELLED), (Wanted.PAUSE, StudyState.PAUSED)]
)
def test_wish_reaches_all_workers(shared_workspace, running, wait_for, state_of, wanted, state):
    study, _ = running(trials=50)
    wanted_at = time.monotonic()
    want(shared_workspace, study.id, wanted)
    wait_for(lambda: state_of(shared_workspace, study).state is state)

    def let_go():
        with shared_workspace.session() as session:
            return all(slot.worker_id is None for slot in slots.list_slots(session, study.id))

    wait_for(lambda: "running" not in {trial.state for trial in study_trials(shared_workspace, study)})
    wait_for(let_go)
    assert time.monotonic() - wanted_at < SOON_SECONDS
    if wanted is Wanted.CANCEL:
        client = MlflowClient(*[shared_workspace.settings.tracking_uri] * 2)
        experiment = client.get_experiment_by_name("parts").experiment_id
        wait_for(lambda: not client.search_runs([experiment], "attributes.status = 'RUNNING'"))
        assert champions(shared_workspace) == []
        folder = shared_workspace.settings.checkpoints_folder / f"study-{study.id}"
        wait_for(lambda: not folder.exists())


def test_trials_that_are_added_while_others_run_are_run_too(
    shared_workspace, running, wait_for, state_of, ended, make_spec
):
    study, _ = running(trials=5)
    with shared_workspace.session() as session:
        extend_study(session, study.id, {**study.spec, "trials": 8}, was=study.spec)
    wait_for(
        lambda: state_of(shared_workspace, study).state.finished, lambda: state_of(shared_workspace, study)
    )
    study = state_of(shared_workspace, study)
    assert study.state is StudyState.COMPLETED, study.error
    assert len(ended(shared_workspace, study)) == 8


def test_what_a_worker_logs_is_read_on_other_machines_and_stays_when_it_is_killed(
    shared_workspace, make_installation, take_in, make_spec, start_worker, wait_for, tmp_path
):
    """Two homes on one PostgreSQL."""
    take_in(shared_workspace)
    first = shared_workspace.settings
    second = make_installation(
        database_url=first.database_url,
        optuna_url=first.optuna_url,
        mlflow_database_url=first.mlflow_database_url,
        blobs_url=str(first.blobs_folder),
    )
    assert second.settings.home != first.home
    study = launch_study(shared_workspace, "parts", make_spec(trials=20))
    worker = start_worker(second, "slowly")

    def said():
        return "\n".join(as_lines(last_entries(shared_workspace, study.id)))

    wait_for(lambda: "trial 1 completed" in said(), said)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert "study claimed" in said()
    assert "trial 1 completed" in said()
    (writers,) = {(entry.worker_id, entry.hostname) for entry in last_entries(shared_workspace, study.id)}
    assert f"-{worker.pid}-" in writers[0]
    assert writers[1] == socket.gethostname()
    assert study_log(second.settings, study.id).exists()
    assert not study_log(first, study.id).exists()


def test_only_postgresql_shares(shared_workspace, make_installation):
    assert shares_studies(shared_workspace.settings)
    assert not shares_studies(make_installation().settings)
