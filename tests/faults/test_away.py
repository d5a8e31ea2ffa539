"""Servers that go away for a while under a running study: MLflow's, and PostgreSQL."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from mlflow import MlflowClient

from storage.records import StudyState
from tuning.commands import launch_study
from tuning.queries import study_trials
from tuning.supervisor import mlflow_command, mlflow_environment

pytestmark = pytest.mark.slow
MLFLOW_AWAY_SECONDS = 60.0
POSTGRES_AWAY_SECONDS = 6.0  # longer than a lease
START_SECONDS = 120.0


class MlflowServer:
    """An MLflow server that can be killed and started again on its port."""

    def __init__(self, settings):
        self.settings = settings
        self.process = None

    def start(self):
        with (self.settings.logs_folder / "mlflow.log").open("ab") as log:
            self.process = subprocess.Popen(
                mlflow_command(self.settings),
                env={**os.environ, **mlflow_environment(self.settings)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self.process.poll() is None
            assert time.monotonic() < deadline, "the MLflow server did not start"
            time.sleep(0.2)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self):
        try:
            with urllib.request.urlopen(f"{self.settings.tracking_uri}/health", timeout=2) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False


def test_trial_goes_on_while_mlflow_is_away_and_its_metrics_arrive_later(
    make_installation, take_in, make_spec, start_worker, wait_for, state_of, ended, free_port
):
    workspace = make_installation(mlflow_port=free_port, tracking_uri=f"http://127.0.0.1:{free_port}")
    server = MlflowServer(workspace.settings)
    server.start()
    try:
        take_in(workspace)
        study = launch_study(workspace, "parts", make_spec(trials=2, epochs=12))
        start_worker(workspace, "slowly")
        wait_for(lambda: state_of(workspace, study).progress.get("epoch", 0) >= 2)
        server.kill()
        gone = time.monotonic()
        killed_at = state_of(workspace, study).progress["epoch"]
        wait_for(lambda: state_of(workspace, study).progress.get("epoch", 0) >= min(12, killed_at + 3))
        # It comes to the end of the trial and says what it waits for.
        wait_for(lambda: state_of(workspace, study).progress.get("waiting"))
        assert "MLflow could not" in state_of(workspace, study).progress["waiting"]
        time.sleep(max(0.0, gone + MLFLOW_AWAY_SECONDS - time.monotonic()))
        assert len(ended(workspace, study)) == 0, "its value is not told before its run is whole"
        server.start()
        wait_for(lambda: state_of(workspace, study).state.finished, lambda: state_of(workspace, study))
        study = state_of(workspace, study)
        assert study.state is StudyState.COMPLETED, study.error
        assert study.attempt == 1
        assert study.progress.get("waiting") is None
        client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
        trials = study_trials(workspace, study)
        assert [trial.state for trial in trials] == ["completed", "completed"]
        for trial in trials:
            steps = [one.step for one in client.get_metric_history(trial.run_id, "loss")]
            assert steps == list(range(1, 13)), "every epoch, in order, once"
            assert client.get_run(trial.run_id).info.status == "FINISHED"
    finally:
        server.kill()


@pytest.mark.postgres
@pytest.mark.parametrize("workers", [1, 2])
def test_study_waits_for_postgresql_and_goes_on(
    shared_workspace, postgres, take_in, make_spec, start_worker, wait_for, state_of, ended, workers
):
    workspace = shared_workspace
    take_in(workspace)
    study = launch_study(workspace, "parts", make_spec(trials=4, epochs=6))
    processes = [start_worker(workspace, "slowly") for _ in range(workers)]
    wait_for(lambda: state_of(workspace, study).progress.get("epoch", 0) >= 2)
    postgres.stop()
    time.sleep(POSTGRES_AWAY_SECONDS)
    postgres.start()
    wait_for(lambda: state_of(workspace, study).state.finished, lambda: state_of(workspace, study))
    study = state_of(workspace, study)
    assert study.state is StudyState.COMPLETED, study.error
    assert study.attempt == 1, "nobody took it from a worker that could not be heard"
    assert len(ended(workspace, study)) == 4
    assert all(process.poll() is None for process in processes)
