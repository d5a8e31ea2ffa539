"""How long a study will take: measured once, taken from trials where there are some, and by the budget that ends it."""

import json
from dataclasses import replace

import pytest

from storage.records import Role
from storage.settings import Settings
from storage.workspace import open_workspace
from tuning import speed
from tuning.errors import BadSpec
from tuning.estimate import Estimate, estimate, expected_trials
from tuning.presets import NOISE_AND_MARGIN, PRESETS, preset_spec
from tuning.spec import StudySpec


def test_estimate_is_measured_where_nothing_ran_and_the_measurement_kept(workspace, parts, make_spec):
    spec = make_spec(trials=10)
    assert estimate(workspace, parts, spec, measure=False) is None
    found = estimate(workspace, parts, spec)
    assert (found.from_trials, found.count) == (0, 10)
    assert found.features > 0
    assert found.trials > 0
    assert found.champion > 0
    file = workspace.settings.home / speed.FILE
    kept = file.read_bytes()
    assert estimate(workspace, parts, spec, measure=False) == found
    assert file.read_bytes() == kept
    estimate(workspace, parts, replace(spec, height=96))
    assert len(json.loads(file.read_bytes())) == 2


def test_estimate_grows_with_trials_seeds_epochs_and_work(workspace, parts, make_spec):
    spec = make_spec(trials=10)
    once = estimate(workspace, parts, spec)
    assert estimate(workspace, parts, replace(spec, trials=20)).trials == pytest.approx(2 * once.trials)
    for more in ({"seeds": 3}, {"epochs": 20}, {"knobs": {"members": (8, 64)}}, {"pruner": "none"}):
        assert estimate(workspace, parts, replace(spec, **more)).trials > once.trials
    turned = estimate(workspace, parts, replace(spec, knobs={"mirror": ("none", "both")}))
    pictures = {role: parts.count(role=role) for role in (Role.TRAIN, Role.CALIBRATION, Role.VALIDATION)}
    more = 1 + 3 * pictures[Role.TRAIN] / sum(pictures.values())  # each turned over in three ways
    assert turned.features == pytest.approx(more * once.features)


def test_estimate_does_not_exceed_the_time_that_ends_the_search_by_more_than_a_trial(
    workspace, parts, make_spec
):
    found = estimate(workspace, parts, make_spec(trials=1000, minutes=0.5))
    one = found.trials / found.count
    assert 30 - one < found.trials <= 30 + one
    assert 1 <= found.count < 1000


def test_estimate_comes_from_trials_that_ran_here(workspace, parts, make_spec, run_to_end):
    spec = make_spec(trials=4, pruner="none")
    run_to_end(spec)
    found = estimate(workspace, parts, spec)
    assert (found.from_trials, found.count) == (4, 4)
    other = estimate(workspace, parts, replace(spec, height=96))
    assert other.from_trials == 0
    twice = estimate(workspace, parts, replace(spec, epochs=4, seeds=2))
    assert twice.trials == pytest.approx(4 * found.trials)


def test_measurement_that_was_cut_short_is_made_again(workspace, parts, make_spec):
    (workspace.settings.home / speed.FILE).write_text('{"half')
    assert isinstance(estimate(workspace, parts, make_spec()), Estimate)


def test_measurement_in_a_process_of_its_own_is_found_by_this_one(workspace, make_spec):
    spec = make_spec()
    assert speed.measured_speed(workspace.settings, spec, measure=False) is None
    speed.measure_apart(workspace.settings, spec)
    kept = json.loads((workspace.settings.home / speed.FILE).read_text())
    assert all(seconds > 0 for seconds in next(iter(kept.values())).values())


def test_oldest_measurements_make_room(workspace, parts, make_spec):
    file = workspace.settings.home / speed.FILE
    old = {str(number): {} for number in range(speed.KEPT)}
    file.write_text(json.dumps(old))
    estimate(workspace, parts, make_spec())
    kept = json.loads(file.read_text())
    assert len(kept) == speed.KEPT
    assert "0" not in kept


@pytest.mark.parametrize("wish", [{"backbone": "resnet34"}, {"device": "cuda:7"}])
def test_nothing_is_estimated_without_the_backbone_or_its_device(tmp_path, parts, make_spec, wish):
    elsewhere = open_workspace(Settings(home=tmp_path / "other", **wish))
    assert estimate(elsewhere, parts, make_spec(layers=((2,),))) is None
    elsewhere.close()


def test_expected_trials_are_those_that_the_limits_leave():
    assert expected_trials(StudySpec(trials=12)) == 12
    assert expected_trials(StudySpec(trials=None, patience=10)) == 20
    assert expected_trials(StudySpec(trials=12, patience=10)) == 12
    assert expected_trials(StudySpec(trials=None, minutes=5)) == 1000
    grid = StudySpec(trials=100, sampler="grid", grid_steps=2, layers=((2,),), adaptor_depths=(1,))
    assert expected_trials(grid) == 2


def test_every_preset_is_a_specification_and_takes_longer_than_the_one_before(workspace, parts, make_spec):
    small = {"height": 64, "width": 64, "epochs": 2, "layers": ((1, 2), (2,))}
    seconds = [estimate(workspace, parts, preset_spec(name, **small)).seconds for name in PRESETS]
    assert list(PRESETS) == ["quick", "standard", "thorough"]
    assert seconds == sorted(seconds)
    assert preset_spec("standard") == StudySpec(knobs=NOISE_AND_MARGIN)
    assert preset_spec("quick", trials=3).trials == 3


def test_unknown_preset_is_refused_with_those_that_there_are():
    with pytest.raises(BadSpec, match=r"'slow' is unknown.*quick, standard, thorough"):
        preset_spec("slow")
