"""A smaller space around a study's best trials, for a study that goes on from there."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tuning.budget import feasible
from tuning.errors import BadSpec
from tuning.spec import Range, StudySpec, Values

LEAST = 3  # completed trials without which there is nothing to narrow around
MOST = 10  # best trials looked at
SHARE = 4  # of the completed trials, one in so many counts as among the best
MARGIN = 0.1  # of the old range, kept beyond the best trials on either side


def narrowed(spec: StudySpec, trials: Sequence[FrozenTrial], study_id: int) -> StudySpec:
    """The specification of a study that goes on around the best trials of another and starts from its trials.

    A range shrinks to what the best quarter of the completed trials spans and a tenth beyond, on the range's scale;
    of choices those stay that are among them. What trials above the latency limit say is left out.

    Args:
        spec, trials, study_id: of the study to go on from.
    Raises:
        BadSpec: too few trials completed to say where the best ones lie.
    """
    completed = [
        trial
        for trial in trials
        if trial.state is TrialState.COMPLETE and trial.value is not None and feasible(trial)
    ]
    if len(completed) < LEAST:
        raise BadSpec(
            f"Study {study_id} has {len(completed)} completed trials within its limits; narrowing needs {LEAST}. "
            "Add trials to it first."
        )
    ranked = sorted(completed, key=lambda trial: (-(trial.value or 0.0), trial.number))
    top = ranked[: min(MOST, max(LEAST, len(ranked) // SHARE))]
    space = {
        name: _around(values, [trial.params[name] for trial in top if name in trial.params])
        for name, values in spec.space.items()
    }
    noise, layers = space.pop("noise_std"), space.pop("layers")
    depths, backbones = space.pop("adaptor_depth"), _choices(space.pop("backbone", spec.backbones))
    return replace(
        spec,
        # Of several backbones a file may be of one alone, and that need not be the one that is left.
        weights=spec.weights_of(backbones[0]) if len(backbones) == 1 else spec.weights,
        noise_std=(noise.low, noise.high) if isinstance(noise, Range) else spec.noise_std,
        layers=tuple(tuple(map(int, str(choice).split("+"))) for choice in _choices(layers)),
        adaptor_depths=_choices(depths),
        backbones=backbones,
        knobs=space,
        follows=study_id,
    )


def _choices(values: Values) -> tuple[Any, ...]:
    return () if isinstance(values, Range) else values


def _around(values: Values, found: Sequence[Any]) -> Values:
    if not found:
        return values
    if not isinstance(values, Range):
        return tuple(value for value in values if value in found)
    if values.low == values.high:
        return values
    scale, back = (math.log, math.exp) if values.log else (float, float)
    margin = MARGIN * (scale(values.high) - scale(values.low))
    low = max(values.low, back(scale(min(found)) - margin))
    high = min(values.high, back(scale(max(found)) + margin))
    if values.integer:
        low, high = math.floor(low), math.ceil(high)
    return replace(values, low=max(values.low, low), high=min(values.high, high))
