"""A disk that fills up under a study: it pauses with the reason, and goes on once there is room."""

import os
import threading

import pytest

from storage.records import StudyState, Wanted
from storage.room import free_bytes
from tests.tuning import stand_ins
from tuning.commands import launch_study, want
from tuning.queries import study_trials
from tuning.trial import run_trial
from tuning.worker import run_worker

pytestmark = pytest.mark.slow


@pytest.fixture
def cramped(make_installation, small_disk, tmp_path):
    """An installation on a small disk, its databases on another: they are not what this is about."""
    disk = small_disk(192)
    urls = {
        name: f"sqlite:///{tmp_path / name}.db"
        for name in ("database_url", "optuna_url", "mlflow_database_url")
    }
    return make_installation(home=disk / "home", **urls)


def fill(home, leave, name="filler"):
    """Take all room on a disk but so many bytes."""
    filler = home / name
    with filler.open("wb") as file:
        status = os.statvfs(home)
        rest = max(0, status.f_bavail * status.f_frsize - leave)
        while rest and file.write(bytes(min(rest, 65_536))):
            rest -= min(rest, 65_536)
    return filler


def run(workspace, study, how=run_trial):
    run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id, run=how)


def test_study_pauses_where_its_features_do_not_fit(cramped, take_in, make_spec, state_of, ended):
    take_in(cramped)
    study = launch_study(cramped, "parts", make_spec())
    filler = fill(cramped.settings.home, 100_000)
    run(cramped, study)
    paused = state_of(cramped, study)
    assert paused.state is StudyState.PAUSED
    assert "Free some space" in paused.error
    assert list(cramped.settings.features_folder.iterdir()) == []
    filler.unlink()
    assert want(cramped, study.id, Wanted.RUN).error is None
    run(cramped, study)
    assert state_of(cramped, study).state is StudyState.COMPLETED
    assert len(ended(cramped, study)) == 2


def test_study_pauses_where_the_disk_fills_up_while_its_features_are_written(
    cramped, take_in, make_spec, wait_for, state_of, ended
):
    take_in(cramped)
    study = launch_study(cramped, "parts", make_spec(height=512, width=512, layers=((2,),)))
    home, folder = cramped.settings.home, cramped.settings.features_folder
    # Enough for the features, so they are begun; the rest is filled at once then.
    fillers = [fill(home, 90_000_000, "most")]
    worker = threading.Thread(target=run, args=(cramped, study))
    worker.start()
    wait_for(lambda: free_bytes(home) < 88_000_000 and any(folder.glob("*/*.npy")))
    fillers.append(fill(home, 0, "rest"))
    worker.join(120)
    assert not worker.is_alive()
    paused = state_of(cramped, study)
    assert paused.state is StudyState.PAUSED, "it was written before the disk was full"
    assert "Free some space" in paused.error
    assert list(folder.iterdir()) == [], "nothing is taken for features that are not whole"
    for filler in fillers:
        filler.unlink()
    want(cramped, study.id, Wanted.RUN)
    run(cramped, study)
    assert state_of(cramped, study).state is StudyState.COMPLETED, state_of(cramped, study).error
    assert len(ended(cramped, study)) == 2


def test_study_pauses_where_a_head_does_not_fit_and_the_trial_is_repeated(
    cramped, take_in, make_spec, state_of, ended
):
    take_in(cramped)
    study = launch_study(cramped, "parts", make_spec())
    run(cramped, study, stand_ins.fills_the_disk)
    paused = state_of(cramped, study)
    assert paused.state is StudyState.PAUSED, paused.error
    assert "has no room left" in paused.error
    assert ended(cramped, study) == []
    (cramped.settings.home / "filler").unlink()
    want(cramped, study.id, Wanted.RUN)
    run(cramped, study)
    assert state_of(cramped, study).state is StudyState.COMPLETED, state_of(cramped, study).error
    assert len(ended(cramped, study)) == 2
    assert [trial.state for trial in study_trials(cramped, study)].count("interrupted") == 1
