"""A disk that fills up under a study: it pauses with the reason, and goes on once there is room."""

import mmap
import shutil
import threading
from io import BytesIO

import numpy as np
import pytest

from engine.checkpoint import load_head
from storage.records import StudyState, Wanted
from tests.tuning import stand_ins
from tuning.commands import launch_study, want
from tuning.queries import study_trials
from tuning.trial import run_trial
from tuning.worker import run_worker

pytestmark = pytest.mark.slow
PAGE_BYTES = mmap.PAGESIZE  # a file takes whole ones


@pytest.fixture
def cramped(make_installation, small_disk, tmp_path):
    """An installation on a small disk, its databases on another: they are not what this is about."""
    disk = small_disk(64)
    urls = {
        name: f"sqlite:///{tmp_path / name}.db"
        for name in ("database_url", "optuna_url", "mlflow_database_url")
    }
    return make_installation(home=disk / "home", **urls)


@pytest.fixture
def apart(make_installation, small_disk, tmp_path):
    """Factory of installations with one folder of theirs on a small disk: `apart("features")`."""

    def make(name):
        home = tmp_path / "home"
        home.mkdir()
        (home / name).symlink_to(small_disk(64), target_is_directory=True)
        return make_installation(home=home)

    return make


def run(workspace, study, how=run_trial):
    run_worker(workspace, worker_id="here", stop=threading.Event(), study_id=study.id, run=how)


def test_study_pauses_where_its_features_do_not_fit(cramped, take_in, make_spec, state_of, ended):
    take_in(cramped)
    study = launch_study(cramped, "parts", make_spec())
    filler = stand_ins.fill(cramped.settings.home, 100_000)
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


def test_study_pauses_where_the_disk_fills_up_while_its_features_are_written(
    apart, take_in, make_spec, state_of, ended
):
    workspace = apart("features")
    folder = workspace.settings.features_folder
    take_in(workspace)
    run(workspace, launch_study(workspace, "parts", make_spec()))
    (whole,) = folder.iterdir()
    content = {file.name: file.read_bytes() for file in whole.iterdir()}
    shutil.rmtree(whole)  # which may be done at any time
    study = launch_study(workspace, "parts", make_spec())
    # Room for the numbers to the last page, as is looked at before the work; none for what stands before them.
    numbers = sum(np.load(BytesIO(data)).nbytes for name, data in content.items() if name.endswith(".npy"))
    filler = stand_ins.fill(folder, -(-numbers // PAGE_BYTES) * PAGE_BYTES)
    run(workspace, study)
    paused = state_of(workspace, study)
    assert paused.state is StudyState.PAUSED, paused.error
    assert "filled up. Free some space" in paused.error, "not refused before the first picture"
    assert ended(workspace, study) == []
    assert list(folder.iterdir()) == [filler], "neither an entry nor a part of one"
    filler.unlink()
    want(workspace, study.id, Wanted.RUN)
    run(workspace, study)
    assert state_of(workspace, study).state is StudyState.COMPLETED, state_of(workspace, study).error
    assert len(ended(workspace, study)) == 2
    (again,) = folder.iterdir()
    assert {file.name: file.read_bytes() for file in again.iterdir()} == content


@pytest.mark.parametrize(
    ("name", "stand_in"),
    [
        ("checkpoints", stand_ins.leaves_room_for_half_a_checkpoint),
        ("artifacts", stand_ins.leaves_room_for_half_an_artifact),
    ],
)
def test_study_pauses_where_half_a_head_fits_and_keeps_no_half(
    apart, take_in, make_spec, state_of, ended, name, stand_in
):
    workspace = apart(name)
    folder = workspace.settings.home / name
    take_in(workspace)
    study = launch_study(workspace, "parts", make_spec())
    run(workspace, study, stand_in)
    paused = state_of(workspace, study)
    assert paused.state is StudyState.PAUSED, paused.error
    assert "has no room left" in paused.error
    assert ended(workspace, study) == []
    assert weights_in(workspace.settings.home) == []
    (folder / "filler").unlink()
    want(workspace, study.id, Wanted.RUN)
    run(workspace, study)
    assert state_of(workspace, study).state is StudyState.COMPLETED, state_of(workspace, study).error
    assert len(ended(workspace, study)) == 2
    lost, *others = study_trials(workspace, study)
    assert (lost.state, {trial.state for trial in others}) == ("interrupted", {"completed"})
    kept = weights_in(workspace.settings.artifacts_folder)
    assert kept
    for file in kept:
        load_head(file.parent)  # raises where it is damaged


def weights_in(folder):
    """All files with the weights of a head below a folder, unfinished ones too."""
    places = [folder, *(path for path in folder.iterdir() if path.is_symlink())]
    return [path for place in places for path in place.rglob("head.safetensors")]
