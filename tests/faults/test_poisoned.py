"""A configuration that takes its process with it every time: it fails its trial, never its study or a worker."""

import pytest
from mlflow import MlflowClient

from storage.records import StudyState
from tests.tuning import stand_ins
from tuning.commands import launch_study
from tuning.queries import study_trials

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("installation", "workers"),
    [("workspace", 1), pytest.param("shared_workspace", 2, marks=pytest.mark.postgres)],
)
def test_poisoned_configuration_fails_its_trial_and_the_study_and_its_workers_go_on(
    request, installation, workers, take_in, make_spec, start_worker, wait_for, state_of, ended
):
    workspace = request.getfixturevalue(installation)
    take_in(workspace)
    study = launch_study(workspace, "parts", make_spec(trials=4))
    processes = [start_worker(workspace, "first_crashes") for _ in range(workers)]
    wait_for(lambda: state_of(workspace, study).state.finished, lambda: state_of(workspace, study))
    study = state_of(workspace, study)
    assert study.state is StudyState.COMPLETED, study.error
    assert study.attempt == 1
    assert all(process.poll() is None for process in processes), "what crashed was never a worker"
    trials = study_trials(workspace, study)
    poisoned = [trial for trial in trials if trial.params["noise_std"] == stand_ins.PAPERS_NOISE]
    assert [trial.state for trial in poisoned] == ["interrupted", "interrupted", "failed"]
    assert all("crashed (SIGSEGV)" in trial.error for trial in poisoned)
    assert [trial.state for trial in trials if trial not in poisoned] == ["completed"] * 3
    assert len(ended(workspace, study)) == 4, "the poisoned one is counted once"
    client = MlflowClient(*[workspace.settings.tracking_uri] * 2)
    assert {client.get_run(trial.run_id).info.status for trial in poisoned} == {"FAILED"}
    assert client.get_run(study.parent_run_id).info.status == "FINISHED"
