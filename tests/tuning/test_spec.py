"""What a study searches: the specification, its knobs and objective, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import SimpleNetConfig
from tuning.errors import BadSpec
from tuning.knobs import SEARCHED
from tuning.spec import KNOBS, Figure, Objective, Pruner, Range, Sampler, StudySpec

choices = st.lists(
    st.sets(st.integers(1, 24), min_size=1).map(sorted).map(tuple), min_size=1, max_size=4, unique=True
)
objectives = st.dictionaries(
    st.sampled_from([figure.value for figure in Figure]), st.floats(0.01, 100), min_size=1
)
knobs = st.fixed_dictionaries(
    {},
    optional={
        name: st.one_of(
            st.sets(st.sampled_from(knob.choices), min_size=1).map(tuple),
            *([st.just(knob.range)] if knob.range else []),
        )
        for name, knob in KNOBS.items()
    },
)


@given(
    trials=st.one_of(st.none(), st.integers(1, 1000)),
    minutes=st.floats(0.1, 10_000),
    patience=st.one_of(st.none(), st.integers(1, 1000)),
    objective=objectives,
    low=st.floats(1e-4, 1),
    factor=st.floats(1, 10),
    layers=choices,
    depths=st.lists(st.integers(0, 8), min_size=1, unique=True),
    knobs=knobs,
    backbones=st.lists(st.sampled_from(["drawnet", "resnet18", "resnet34"]), min_size=1, unique=True),
    sampler=st.sampled_from([Sampler.TPE, Sampler.GP, Sampler.RANDOM]),
    pruner=st.sampled_from(Pruner),
    latency_ms=st.one_of(st.none(), st.floats(0.1, 1e4)),
)
def test_spec_survives_json(low, factor, layers, depths, backbones, **rest):
    spec = StudySpec(
        noise_std=(low, low * factor),
        layers=tuple(layers),
        adaptor_depths=tuple(depths),
        backbones=tuple(backbones),
        **rest,
    )
    assert StudySpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"trials": 0}, "study of 0 trials.*1..1000.*Choose another"),
        ({"minutes": 0}, "study of 0 minutes.*above 0"),
        ({"minutes": 1e6}, "within 10080"),
        ({"patience": 0}, "Patience of 0.*1..1000"),
        ({"trials": None}, "without an end.*Give for instance 20"),
        ({"tolerance": 1.0}, r"Tolerance 1\.0.*0..1"),
        ({"objective": "accuracy"}, "'accuracy' is unknown.*image_auroc"),
        ({"objective": {}}, "at least one"),
        ({"objective": {"f1": 0.0, "aupro": 1}}, r"Weight 0\.0 of objective 'f1'.*above 0"),
        ({"objective": {"f1": "much"}}, "Weight 'much'"),
        ({"noise_std": (0.0, 0.1)}, "0 < low"),
        ({"noise_std": (0.2, 0.1)}, "low ≤ high"),
        ({"layers": ()}, "at least one"),
        ({"layers": ((3, 2),)}, "rising"),
        ({"layers": ((2, 65),)}, "between 1 and 64"),
        ({"layers": ((2,), (2,))}, "each may come once"),
        ({"adaptor_depths": (1, 1)}, "each may come once"),
        ({"resize": "stretch"}, "squash, letterbox, crop"),
        ({"adaptor_depths": (-1,)}, "0..8"),
        ({"epochs": 0}, "1..1000"),
        ({"seed": -1}, "0.."),
        ({"seeds": 0}, "0 seeds per trial.*1..20"),
        ({"height": 16}, "32..2048"),
        ({"false_reject_rate": 1.0}, "between 0 and 1"),
        ({"latency_ms": 0.0}, "Latency limit of 0.0 ms.*above 0"),
        ({"priority": 2000}, "Priority 2000.*-1000..1000"),
        ({"follows": 0}, "begin at 1"),
        ({"backbones": ()}, "at least one"),
        ({"backbones": ("",)}, "none of them empty"),
        ({"backbones": ("auto", "drawnet")}, "auto stands alone"),
        ({"backbones": ("drawnet", "drawnet")}, "come once"),
        (
            {"backbones": ("drawnet", "resnet18"), "weights": "/a/other.safetensors"},
            "fits none of.*named after",
        ),
        ({"sampler": "bayes"}, "Sampler 'bayes' is unknown.*tpe, gp, cmaes, random, grid"),
        ({"pruner": "half"}, "Pruner 'half' is unknown.*median, hyperband, none"),
        ({"grid_steps": 1}, "1 grid steps.*2..50"),
        (
            {"sampler": "grid", "grid_steps": 50, "adaptor_depths": (0, 1, 2, 3, 4)},
            "grid of 1,250.*lower grid_steps",
        ),
        ({"sampler": "cmaes"}, r"needs two; this space has 1 \(noise_std\).*tpe or gp"),
        (
            {"sampler": "cmaes", "knobs": {"margin": {"low": 0.2, "high": 1}}, "latency_ms": 5},
            "knows no limits.*5 ms.*drop the limit",
        ),
        ({"knobs": {"sigma": (1,)}}, "'sigma' is unknown"),
        ({"knobs": {"patch_size": ()}}, "one is needed"),
        ({"knobs": {"patch_size": (3, 3)}}, "come once"),
        ({"knobs": {"patch_size": (3, 2)}}, "patch_size is 2; it must be odd"),
        ({"knobs": {"patch_size": Range(low=1, high=5)}}, "'patch_size' has no range.*1,3,5,7"),
        ({"knobs": {"loss": ("hinge",)}}, "truncated_l1, cross_entropy"),
        ({"knobs": {"members": ("many",)}}, "must be of type int"),
        ({"knobs": {"members": {"low": 1}}}, r"must have low and high.*1\.\.16"),
        ({"knobs": {"members": {"low": 1, "high": 4, "step": 2}}}, "must have low and high"),
        ({"knobs": {"members": {"low": 1.5, "high": 4}}}, "must be whole"),
        ({"knobs": {"members": {"low": 1, "high": 100}}}, "members is 100; it must be 1 to 64"),
        ({"knobs": {"margin": {"low": 2, "high": 1}}}, "must not lie above"),
        ({"knobs": {"margin": {"low": "a", "high": 1}}}, "must be a finite number"),
        (
            {"knobs": {"weight_decay": {"low": 0, "high": 1, "log": True}}},
            "log scale: the low end must lie above 0",
        ),
    ],
)
def test_bad_field_names_value_rule_and_remedy(changes, rule):
    with pytest.raises(BadSpec, match=rule):
        StudySpec(**changes)


def test_unknown_field_is_refused():
    with pytest.raises(BadSpec, match="sigma"):
        StudySpec.from_json({"sigma": 1})


def test_objective_is_one_figure_or_a_mean_whose_weights_need_not_sum_to_one():
    one, mixed = Objective.of("aupro"), Objective.of({"aupro": 3, "image_auroc": 1})
    assert (str(one), one.formula, one.to_json(), one.needs_masks) == ("aupro", "aupro", "aupro", True)
    assert (str(mixed), mixed.formula) == ("weighted_mean", "0.25 image_auroc + 0.75 aupro")
    assert Objective.of({"f1": 2}) == Objective.of("f1")
    assert not Objective.of({"f1": 1, "average_precision": 1}).needs_masks


def test_range_is_cut_into_values_on_its_scale_with_its_very_ends():
    assert Range(low=0.005, high=0.5, log=True).values(3) == pytest.approx((0.005, 0.05, 0.5))
    assert Range(low=0.005, high=0.3, log=True).values(4)[-1] == 0.3
    assert Range(low=1, high=3, integer=True).values(10) == (1, 2, 3)
    assert Range(low=2, high=2).values(5) == (2.0,)
    assert 2.5 in Range(low=1, high=3)
    assert 2.5 not in Range(low=1, high=3, integer=True)
    assert "2" not in Range(low=1, high=3)


def test_range_of_whole_numbers_stays_whole_whatever_is_asked():
    spec = StudySpec(knobs={"members": Range(low=1, high=8, log=True)})
    assert spec.knobs["members"] == Range(low=1, high=8, log=True, integer=True)


def test_range_takes_the_scale_that_suits_its_knob_unless_told_otherwise():
    spec = StudySpec(
        knobs={"margin": {"low": 0.2, "high": 1}, "adaptor_lr": {"low": 1e-4, "high": 1e-3, "log": False}}
    )
    assert spec.knobs["margin"] == Range(low=0.2, high=1, log=True)
    assert spec.knobs["adaptor_lr"] == Range(low=1e-4, high=1e-3)


def test_every_knob_says_in_a_sentence_what_it_means():
    for knob in (*SEARCHED.values(), *KNOBS.values()):
        assert knob.meaning.endswith(".")
        assert len(knob.meaning) > 20


def test_every_setting_of_the_engine_is_searched_on_request_or_left_out_on_purpose():
    left_out = {"backbone", "layers", "noise_std", "adaptor_depth"}  # searched by fields of their own
    left_out |= {"height", "width", "resize", "epochs", "seed"}  # shared by all trials; see tuning.knobs
    assert set(KNOBS) == set(SimpleNetConfig.__dataclass_fields__) - left_out


def test_several_backbones_are_a_choice_and_a_file_serves_the_one_it_is_named_after():
    one = StudySpec(backbones=("resnet18.tv_in1k",), weights="/w/any.safetensors")
    assert "backbone" not in one.space
    assert one.weights_of("resnet18.tv_in1k") == "/w/any.safetensors"
    two = StudySpec(backbones=("drawnet", "resnet18.tv_in1k"), weights="/w/resnet18.tv_in1k.safetensors")
    assert two.space["backbone"] == ("drawnet", "resnet18.tv_in1k")
    assert (two.weights_of("drawnet"), two.weights_of("resnet18.tv_in1k")) == (None, two.weights)


def test_grid_has_a_configuration_for_every_combination():
    spec = StudySpec(sampler="grid", grid_steps=3, layers=((2,), (2, 3)), adaptor_depths=(0, 1))
    assert spec.grid_size == 3 * 2 * 2
    fixed = StudySpec(sampler="grid", noise_std=(0.1, 0.1), layers=((2,),), adaptor_depths=(1,))
    assert fixed.grid_size == 1


def test_every_offered_value_of_a_knob_can_be_used_and_the_default_is_among_them():
    for name, knob in KNOBS.items():
        default = getattr(SimpleNetConfig, name)
        assert default in knob.choices
        assert StudySpec(knobs={name: knob.choices}).knobs[name] == knob.choices
        if knob.range is not None:
            assert default in knob.range
            assert StudySpec(knobs={name: knob.range}).knobs[name] == knob.range


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
    assert (spec.backbones, spec.sampler, spec.pruner, spec.seeds) == (("auto",), "tpe", "median", 1)
    assert (spec.trials, spec.minutes, spec.patience, spec.latency_ms) == (3, None, None, None)
    assert spec.objective == Objective.of("aupro")
    resnet = StudySpec.from_json({**old, "backbone": "resnet18", "knobs": {"members": [1, 8]}})
    assert (resnet.backbones, resnet.knobs) == (("resnet18",), {"members": (1, 8)})
