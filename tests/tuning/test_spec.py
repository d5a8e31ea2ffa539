"""What a study searches: the specification and the search space made of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import LOSSES, SimpleNetConfig
from tuning import search as searching
from tuning.errors import BadSpec
from tuning.spec import KNOBS, Objective, StudySpec

choices = st.lists(
    st.sets(st.integers(1, 24), min_size=1).map(sorted).map(tuple), min_size=1, max_size=4, unique=True
)


@given(
    trials=st.integers(1, 1000),
    objective=st.sampled_from(Objective),
    low=st.floats(1e-4, 1),
    factor=st.floats(1, 10),
    layers=choices,
    depths=st.lists(st.integers(0, 8), min_size=1, unique=True),
)
def test_spec_survives_json(trials, objective, low, factor, layers, depths):
    spec = StudySpec(
        trials=trials,
        objective=objective,
        noise_std=(low, low * factor),
        layers=tuple(layers),
        adaptor_depths=tuple(depths),
    )
    assert StudySpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("trials", 0, "1..1000"),
        ("objective", "accuracy", "image_auroc"),
        ("noise_std", (0.0, 0.1), "0 < low"),
        ("noise_std", (0.2, 0.1), "low ≤ high"),
        ("layers", (), "at least one"),
        ("layers", ((3, 2),), "rising"),
        ("layers", ((2, 65),), "between 1 and 64"),
        ("resize", "stretch", "squash, letterbox, crop"),
        ("adaptor_depths", (-1,), "0..8"),
        ("epochs", 0, "1..1000"),
        ("seed", -1, "0.."),
        ("height", 16, "32..2048"),
        ("false_reject_rate", 1.0, "between 0 and 1"),
        ("knobs", {"sigma": (1,)}, "'sigma' is unknown"),
        ("knobs", {"patch_size": ()}, "one is needed"),
        ("knobs", {"patch_size": (3, 3)}, "come once"),
        ("knobs", {"patch_size": (3, 2)}, "patch_size is 2; it must be odd"),
        ("knobs", {"loss": ("hinge",)}, "truncated_l1, cross_entropy"),
        ("knobs", {"members": ("many",)}, "must be of type int"),
    ],
)
def test_bad_field_names_value_and_rule(field, value, rule):
    with pytest.raises(BadSpec, match=rule):
        StudySpec(**{field: value})


def test_unknown_field_is_refused():
    with pytest.raises(BadSpec, match="sigma"):
        StudySpec.from_json({"sigma": 1})


def test_paper_settings_are_tried_first(tmp_path: Path):
    search = searching.open_search(f"sqlite:///{tmp_path}/optuna.db", 1, StudySpec())
    trial = search.ask(searching.distributions(StudySpec()))
    assert trial.params == searching.PAPER


def test_knobs_are_searched_from_the_engines_defaults_on(tmp_path: Path):
    spec = StudySpec(knobs={"patch_size": (1, 3), "adaptor_residual": (True,), "loss": LOSSES})
    search = searching.open_search(f"sqlite:///{tmp_path}/optuna.db", 1, spec)
    first = search.ask(searching.distributions(spec))
    assert (first.params["patch_size"], first.params["loss"]) == (3, "truncated_l1")
    assert first.params["adaptor_residual"] is True
    assert "origin" not in first.user_attrs  # the paper has no residual
    assert StudySpec.from_json(spec.to_json()) == spec


def test_every_offered_value_of_a_knob_can_be_used_and_the_default_is_among_them():
    for name, values in KNOBS.items():
        assert getattr(SimpleNetConfig, name) in values
        assert StudySpec(knobs={name: values}).knobs[name] == values


def test_paper_settings_outside_the_space_are_left_to_the_sampler(tmp_path: Path):
    spec = StudySpec(noise_std=(0.1, 0.2), layers=((1, 2),), adaptor_depths=(1,))
    search = searching.open_search(f"sqlite:///{tmp_path}/optuna.db", 1, spec)
    trial = search.ask(searching.distributions(spec))
    assert trial.params["adaptor_depth"] == 1
    assert trial.params["layers"] == "1+2"
    assert 0.1 <= trial.params["noise_std"] <= 0.2


def test_trial_of_a_dead_worker_is_repeated_twice_and_then_counts_as_failed(tmp_path: Path):
    url, spec = f"sqlite:///{tmp_path}/optuna.db", StudySpec()
    for death in range(searching.RETRIES + 2):
        search = searching.open_search(url, 1, spec)
        searching.recover(url, search)
        assert searching.counted(search.trials) == (death > searching.RETRIES)
        trial = search.ask(searching.distributions(spec))
        assert (trial.params == searching.PAPER) == (death <= searching.RETRIES)


def test_restart_does_not_enqueue_the_paper_settings_again(tmp_path: Path):
    url, spec = f"sqlite:///{tmp_path}/optuna.db", StudySpec()
    search = searching.open_search(url, 1, spec)
    search.tell(search.ask(searching.distributions(spec)), 0.5)
    again = searching.open_search(url, 1, spec)
    assert again.ask(searching.distributions(spec)).params != searching.PAPER
    assert searching.counted(again.trials) == 1


def test_best_is_the_earliest_of_equals(tmp_path: Path):
    url, spec = f"sqlite:///{tmp_path}/optuna.db", StudySpec()
    search = searching.open_search(url, 1, spec)
    for value in (0.5, 0.9, 0.9):
        search.tell(search.ask(searching.distributions(spec)), value)
    best = searching.best(search.trials)
    assert best is not None
    assert best.number == 1


def test_trial_lost_before_it_had_parameters_is_tried_again_with_those_enqueued_for_it(tmp_path: Path):
    """A worker may die between taking a trial and sampling for it: nothing ran, so nothing failed."""
    url = f"sqlite:///{tmp_path}/optuna.db"
    search = searching.open_search(url, 1, StudySpec())
    assert search.ask().params == {}
    searching.recover(url, search)
    assert searching.counted(search.get_trials()) == 0
    again = search.ask(searching.distributions(StudySpec()))
    assert again.params == searching.PAPER
    assert again.user_attrs["origin"] == "paper"


def test_specification_written_before_there_were_knobs_is_read_with_their_defaults() -> None:
    old = {
        "trials": 3,
        "objective": "aupro",
        "noise_std": [0.01, 0.1],
        "layers": [[2], [2, 3]],
        "adaptor_depths": [1],
    }
    old |= {"backbone": "auto", "weights": None, "height": 64, "width": 64, "epochs": 2, "seed": 0}
    spec = StudySpec.from_json({**old, "false_reject_rate": 0.05})
    assert (spec.knobs, spec.resize, spec.layers) == ({}, "squash", ((2,), (2, 3)))
