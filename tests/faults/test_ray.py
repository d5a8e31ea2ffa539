"""Workers on a real Ray cluster of two nodes, on PostgreSQL: a node dies with all that it runs, the study goes on."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter

import psutil
import pytest

from storage import slots, workers
from storage.records import StudyState
from storage.settings import PREFIX
from tuning.commands import launch_study
from tuning.queries import live_workers, study_trials

pytestmark = [pytest.mark.slow, pytest.mark.postgres]
SIMPLENET = [sys.executable, "-m", "dashboard.cli"]


@pytest.fixture
def cluster(monkeypatch):
    """Ray's own cluster for tests: nodes on one machine, each with processes of its own."""
    pytest.importorskip("ray", reason="the ray extra is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "node_name": "one", "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


@pytest.fixture
def installation(make_installation, postgres, take_in):
    """One whose three databases are PostgreSQL, with a small dataset."""
    names = ("database_url", "optuna_url", "mlflow_database_url")
    made = make_installation(**{name: postgres.new_database() for name in names}, device="auto")
    take_in(made)
    return made


class Command:
    """`simplenet workers` as somebody runs it in a terminal."""

    def __init__(self, settings, address, *options):
        own = settings.environment()
        own.pop(f"{PREFIX}HOME")
        self.log = settings.home / "command.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*SIMPLENET, "--home", str(settings.home), "workers", "--ray", address, *options],
                env={**os.environ, **own, "PYTHONUNBUFFERED": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self, pattern):
        """Matches of a pattern in the lines of the command so far."""
        return re.findall(pattern, self.log.read_text(), flags=re.MULTILINE)

    def __str__(self):
        return self.log.read_text()


@pytest.fixture
def start_command(cluster):
    """Starts the command on the cluster: `start_command(settings, "--count", "2")`; it is ended with the test."""
    started = []

    def start(settings, *options):
        started.append(Command(settings, cluster.address, *options))
        return started[-1]

    yield start
    for command in started:
        if command.process.poll() is None:
            command.process.kill()
        command.process.wait(30)


def workers_on(installation, node):
    return [worker for worker in live_workers(installation) if worker.hostname.startswith(f"ray-{node}-")]


def holders(installation, study):
    with installation.session() as session:
        return {slot.worker_id for slot in slots.list_slots(session, study.id)} - {None}


def training(installation, study):
    """The workers that are in the middle of a trial."""
    running = [trial for trial in study_trials(installation, study) if trial.state == "running"]
    return {trial.worker for trial in running if trial.intermediate}


def lose_power(cluster, node, worker):
    """Kill a node, and the worker there with its actor and its children, none of whom can say a word any more."""
    process = psutil.Process(worker.pid)
    victims = [process.parent(), process, *process.children(recursive=True)]
    for victim in victims:
        victim.kill()
    cluster.remove_node(node, allow_graceful=False)
    psutil.wait_procs(victims, timeout=30)


def test_death_of_a_node_costs_one_trial_and_its_worker_comes_back_on_another(
    installation, cluster, start_command, make_spec, wait_for, state_of, ended
):
    second = cluster.add_node(num_cpus=1, node_name="two")
    study = launch_study(installation, "parts", make_spec(trials=8, epochs=8))
    command = start_command(installation.settings, "--gpus-per-worker", "0")
    wait_for(lambda: len(live_workers(installation)) == 2, lambda: command)
    (doomed,), (other,) = workers_on(installation, "two"), workers_on(installation, "one")
    wait_for(
        lambda: ended(installation, study) and training(installation, study) == {doomed.id, other.id},
        lambda: command,
    )
    assert not state_of(installation, study).state.finished
    lose_power(cluster, second, doomed)

    wait_for(lambda: command.said(r"^worker \d +lost .*node two"), lambda: command)
    cluster.add_node(num_cpus=1, node_name="three")
    wait_for(lambda: workers_on(installation, "three"), lambda: command)
    wait_for(lambda: state_of(installation, study).state.finished, lambda: command)
    study = state_of(installation, study)
    assert study.state is StudyState.COMPLETED, study.error
    trials = study_trials(installation, study)
    assert len(ended(installation, study)) == 8
    assert Counter(trial.state for trial in trials)["interrupted"] == 1
    assert len(trials) == 9, "the trial that died was tried again, and nothing beyond"
    interrupted = next(trial for trial in trials if trial.state == "interrupted")
    assert interrupted.worker == doomed.id
    assert [trial.params for trial in trials].count(interrupted.params) == 2
    assert {doomed.id, other.id} <= {trial.worker for trial in trials}
    with installation.session() as session:
        assert slots.list_slots(session, study.id) == []

    # The command told where each worker is and computes, and ends them in good order.
    assert command.said(
        rf"^worker \d +ready +on node two \(.{{6}}\): {re.escape(doomed.id)} on cpu, 1 thread$"
    )
    wait_for(lambda: command.said(r"^worker \d +ready +on node three .* on cpu, 1 thread$"), lambda: command)
    assert command.said(r"^node two \(.{6}\) +left +1 CPU, 0 GPUs$")
    assert command.said(r"^node three \(.{6}\) +joined +1 CPU, 0 GPUs$")
    pids = [worker.pid for node in ("one", "three") for worker in workers_on(installation, node)]
    assert len(pids) == 2
    command.process.send_signal(signal.SIGINT)
    assert command.process.wait(60) == 0, command
    assert len(command.said(r"^worker \d +stopped$")) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert workers_on(installation, "one") == workers_on(installation, "three") == []


def test_stopped_command_gives_the_study_back_at_once(
    installation, cluster, start_command, make_spec, wait_for, state_of
):
    study = launch_study(installation, "parts", make_spec(trials=2, epochs=200))
    command = start_command(installation.settings, "--gpus-per-worker", "0")
    wait_for(lambda: holders(installation, study), lambda: command)
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(60) == 0, command
    assert command.said(r"^worker 1 +stopped$")
    assert state_of(installation, study).state is StudyState.QUEUED
    with installation.session() as session:
        assert [slot.worker_id for slot in slots.list_slots(session, study.id)] == [None]
        assert workers.list_workers(session) == []


def test_worker_and_actor_that_are_killed_come_back(installation, cluster, start_command, wait_for):
    cluster.add_node(num_cpus=1, num_gpus=1, node_name="two")
    command = start_command(installation.settings, "--gpus-per-worker", "0.5", "--cpus-per-worker", "0.5")
    wait_for(lambda: len(workers_on(installation, "two")) == 2, lambda: command)
    wait_for(lambda: len(command.said(r"^worker \d +ready +on node two .*, GPU 0: ")) == 2, lambda: command)
    one, other = workers_on(installation, "two")
    assert psutil.Process(one.pid).environ()["CUDA_VISIBLE_DEVICES"] == "0", "the GPU that Ray chose"
    psutil.Process(one.pid).kill()
    wait_for(lambda: command.said(r"^worker \d +restarting .*ended with code -9; again in"), lambda: command)
    (shared_file,) = installation.settings.home.glob("ray-*")
    aside = shared_file.rename(shared_file.with_name("aside"))
    psutil.Process(other.pid).parent().kill()
    wait_for(
        lambda: command.said(r"^worker \d +refused .*Folder /.* on node two .* is not the installation's"),
        lambda: command,
    )
    aside.rename(shared_file)
    before = {one.id, other.id}
    wait_for(
        lambda: len({worker.id for worker in workers_on(installation, "two")} - before) == 2, lambda: command
    )


def test_workers_end_with_a_command_that_is_killed(
    installation, cluster, start_command, make_spec, wait_for, state_of
):
    study = launch_study(installation, "parts", make_spec(trials=2, epochs=200))
    command = start_command(installation.settings, "--gpus-per-worker", "0")
    wait_for(lambda: holders(installation, study), lambda: command)
    worker = psutil.Process(workers_on(installation, "one")[0].pid)
    processes = [worker, *worker.children(recursive=True)]
    command.process.kill()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []
    assert not state_of(installation, study).state.finished


def test_command_ends_with_an_error_when_the_cluster_has_lost_its_head(
    installation, cluster, start_command, wait_for
):
    command = start_command(installation.settings, "--gpus-per-worker", "0")
    wait_for(lambda: command.said(r"^worker 1 +ready"), lambda: command)
    worker = psutil.Process(workers_on(installation, "one")[0].pid)
    cluster.remove_node(cluster.head_node, allow_graceful=False)
    assert command.process.wait(240) == 1, command  # Ray gives up after 60 s, says so and ends the process
    psutil.wait_procs([worker], timeout=60)
    assert not worker.is_running()


def test_workers_without_room_are_refused_or_waited_for(installation, cluster, start_command, wait_for):
    refused = start_command(installation.settings)
    assert refused.process.wait(120) == 1
    assert refused.said(
        r"^error: No node has room for a worker with 1 CPU, 1 GPU. The cluster has one \(.{6}\): 1 CPU, 0 GPUs"
    )
    waiting = start_command(installation.settings, "--count", "1")
    wait_for(lambda: waiting.said(r"^worker 1 +waiting +for a node with 1 CPU, 1 GPU free$"), lambda: waiting)
    cluster.add_node(num_cpus=1, num_gpus=1, node_name="two")
    wait_for(lambda: waiting.said(r"^worker 1 +ready +on node two .*, GPU 0: "), lambda: waiting)
