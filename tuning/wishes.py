"""Configurations that are not left to a sampler: known good ones, those asked for by hand, retries, a grid's points."""

import itertools
import random
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from engine.config import SimpleNetConfig
from tuning.errors import BadSpec
from tuning.knobs import KNOBS
from tuning.spec import Range, StudySpec, Values

PAPER = {"noise_std": 0.015, "layers": "2+3", "adaptor_depth": 1}
"""The settings of SimpleNet, Liu et al., CVPR 2023, section 4.1: the first configuration that every study tries."""

DIFFERENCES = {"noise": "differences", "noise_std": 0.15, "margin": 1.0}
"""What differs from the paper's settings in the configuration tried second where this kind of noise is searched: the
middle of a wide range of σ that is good on patches of many kinds, such as a texture's; docs/log.md has the figures."""

# User attributes of a trial.
LOST = "lost"  # why it was given up unfinished; `given_up` says whether it was
ERROR = "error"  # why it failed
SURPRISE = "surprise"  # kind of the error where nobody foresaw it
RETRY_OF = "retry_of"  # number of the lost trial that this one repeats
ORIGIN = "origin"  # who asked for it, if not the sampler: one of the next three
PAPERS, KNOWN, BY_HAND = "paper", "known good", "by hand"
FROM_STUDY = "from_study"  # number of the study that ran it; it came along as knowledge and counts nowhere
FROM_TRIAL = "from_trial"  # its number there


def given_up(trial: FrozenTrial) -> bool:
    """Whether a trial was given up unfinished; one that ended in the same moment after all was not."""
    return trial.state is TrialState.FAIL and LOST in trial.user_attrs


def configuration(trial: FrozenTrial) -> dict[str, Any]:
    """What is known of a trial's parameters, those included that were enqueued for it and that it never asked for."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def inside(spec: StudySpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that lie in the space, the others left out."""
    return {
        name: _own_value(spec.space[name], value)
        for name, value in params.items()
        if name in spec.space and value in spec.space[name]
    }


def first_wish(spec: StudySpec) -> tuple[dict[str, Any], bool]:
    """What of the paper's settings lies in the space, and whether that is all of them."""
    wanted = _paper(spec)
    wish = inside(spec, wanted)
    return wish, wish == wanted


def second_wish(spec: StudySpec) -> dict[str, Any] | None:
    """What of the known good settings of "differences" lies in the space; None where that noise isn't searched."""
    noises = spec.space.get("noise", ())
    if isinstance(noises, Range) or DIFFERENCES["noise"] not in noises:
        return None
    return inside(spec, _paper(spec) | DIFFERENCES)


def _paper(spec: StudySpec) -> dict[str, Any]:
    return PAPER | {name: getattr(SimpleNetConfig, name) for name in spec.knobs}


def read_wish(spec: StudySpec, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Check a configuration that a person asks for. What it leaves out, the sampler chooses.

    Args:
        wanted: by parameter; layers as '2+3' or numbers.
    Raises:
        BadSpec: a parameter is not searched or its value lies outside the space, or all is left to the sampler.
    """
    if not wanted:
        raise BadSpec(
            f"A configuration without a value: give at least one of {', '.join(spec.space)}, "
            "for instance noise_std=0.02."
        )
    wish = {}
    for name, value in wanted.items():
        if name not in spec.space:
            raise BadSpec(
                f"'{name}' is not searched by this study; it searches {', '.join(spec.space)}. Choose one of these, or "
                "clone the study and search it there."
            )
        values = spec.space[name]
        if name == "layers" and not isinstance(value, str):
            value = "+".join(map(str, (value,) if isinstance(value, int) else value))
        if value not in values:
            rule = str(values) if isinstance(values, Range) else ", ".join(map(str, values))
            raise BadSpec(
                f"{name} = {value} lies outside of what this study searches: {rule}. Choose a value inside, or clone "
                "the study with a larger space."
            )
        wish[name] = _own_value(values, value)
    return wish


def _own_value(values: Values, value: Any) -> Any:
    """The value as the space has it: 1 for 1.0, True for 1."""
    return values.clip(value) if isinstance(values, Range) else values[values.index(value)]


def grid(spec: StudySpec) -> list[dict[str, Any]]:
    """Every combination of the space's values in an order shuffled by the seed: half a grid covers the space evenly."""
    axes = [
        values.values(spec.grid_steps) if isinstance(values, Range) else values
        for values in spec.space.values()
    ]
    points = [dict(zip(spec.space, point, strict=True)) for point in itertools.product(*axes)]
    random.Random(spec.seed).shuffle(points)
    return points


def taken_over(trial: FrozenTrial, spec: StudySpec) -> dict[str, Any] | None:
    """The parameters in this study's space of a trial that another one ran; None where it lies outside."""
    config = trial.user_attrs.get("config")
    if config is None:
        return None
    had = {
        **{name: getattr(SimpleNetConfig, name) for name in KNOBS},  # for settings younger than that trial
        **config,
        "layers": "+".join(map(str, config["layers"])),
        "backbone": trial.params.get("backbone", config["backbone"]),
    }
    params = inside(spec, had)
    # What this study does not search stands still in it; there it must have stood at the same value.
    still = all(had[name] == getattr(SimpleNetConfig, name) for name in KNOBS if name not in spec.knobs)
    return params if still and set(params) == set(spec.space) and _is_ours(had["backbone"], spec) else None


def _is_ours(backbone: str, spec: StudySpec) -> bool:
    return spec.backbone == "auto" or backbone.split(".")[0] in {
        name.split(".")[0] for name in spec.backbones
    }
