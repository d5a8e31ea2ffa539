"""What can be searched: every setting with its range or choices and what it means, in one table for all who ask."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from engine.config import ACTIVATIONS, LOSSES, NOISES, STAGE_CHOICES, SimpleNetConfig
from engine.errors import InvalidConfig
from engine.geometry import MIRRORS
from tuning.errors import BadSpec


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers to search between two ends, both included.

    Raises:
        BadSpec: the ends are no numbers in order, or don't suit the scale.
    """

    low: float
    high: float
    log: bool = False  # equal steps are equal factors
    integer: bool = False  # whole numbers alone

    def __post_init__(self) -> None:
        """Check the ends."""
        for end in (self.low, self.high):
            if isinstance(end, bool) or not isinstance(end, int | float) or not np.isfinite(end):
                raise BadSpec(f"End {end!r} of a range: it must be a finite number. Give for instance 0.1.")
            if self.integer and end != int(end):
                raise BadSpec(
                    f"End {end!r} of a range of whole numbers: it must be whole. Give {round(end)}."
                )
        if self.low > self.high:
            raise BadSpec(f"Range {self}: the low end must not lie above the high end. Swap them.")
        if self.log and self.low <= 0:
            raise BadSpec(
                f"Range {self} on a log scale: the low end must lie above 0. Raise it, or search on a linear scale."
            )
        kind = int if self.integer else float
        object.__setattr__(self, "low", kind(self.low))
        object.__setattr__(self, "high", kind(self.high))

    def __contains__(self, value: object) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return (
            number and self.low <= value <= self.high and (not self.integer or value == int(value))  # type: ignore[operator, call-overload]
        )

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"

    def clip(self, value: float) -> float:
        """A value inside, in the range's own type."""
        return int(value) if self.integer else float(value)

    def values(self, count: int) -> tuple[float, ...]:
        """Evenly spaced values on the range's scale, ends included; fewer where whole numbers fall together."""
        space = np.geomspace if self.log else np.linspace
        spaced = [float(value) for value in space(self.low, self.high, count)]
        spaced[0], spaced[-1] = self.low, self.high  # what powers and logarithms round off
        if self.integer:
            return tuple(dict.fromkeys(round(value) for value in spaced))
        return tuple(dict.fromkeys(spaced))

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)


Values = tuple[Any, ...] | Range
"""What to search of a knob: choices, or a range of numbers. One choice alone is fixed."""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A setting that a study can search."""

    meaning: str  # one sentence, as people read it
    choices: tuple[Any, ...]  # values worth offering; the engine's default is among them
    range: Range | None = (
        None  # of a number: what is worth searching in between; None: only choices make sense
    )


SEARCHED: Mapping[str, Knob] = MappingProxyType(
    {
        "noise_std": Knob(
            meaning="Strength σ of the noise that stands for anomalies in training.",
            choices=(0.005, 0.015, 0.05, 0.15, 0.5),
            range=Range(low=0.005, high=0.5, log=True),
        ),
        "layers": Knob(
            meaning="Stages of the backbone, or blocks of a transformer, whose features are judged; lower ones see "
            "finer detail and take longer.",
            choices=STAGE_CHOICES,
        ),
        "adaptor_depth": Knob(
            meaning="Linear layers between backbone and discriminator; 0 leaves the features as they are.",
            choices=(0, 1, 2),
        ),
        "backbone": Knob(
            meaning="The pretrained network whose features are judged; several are compared trial by trial.",
            choices=("auto",),
        ),
    }
)
"""What every study searches; fields of its specification say where."""

KNOBS: Mapping[str, Knob] = MappingProxyType(
    {
        "adaptor_activation": Knob(
            meaning="What follows each layer of the adaptor; the paper's are linear.", choices=ACTIVATIONS
        ),
        "adaptor_lr": Knob(
            meaning="Learning rate of the adaptor at the start of training.",
            choices=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
            range=Range(low=1e-4, high=1e-2, log=True),
        ),
        "adaptor_residual": Knob(
            meaning="Add the backbone's features to what the adaptor makes of them.", choices=(False, True)
        ),
        "adaptor_weight_decay": Knob(
            meaning="How strongly the adaptor's weights are pulled to zero.",
            choices=(0.0, 1e-3, 1e-2, 1e-1),
            range=Range(low=1e-4, high=1e-1, log=True),
        ),
        "average_decay": Knob(
            meaning="How slowly the average of the weights, which scores, follows them; 0 takes the last weights.",
            choices=(0.0, 0.9, 0.99, 0.999),
            range=Range(low=0.0, high=0.999),
        ),
        "batch_patches": Knob(
            meaning="Patches that each member sees in a step; more are steadier and take longer.",
            choices=(64, 128, 256, 512, 1024),
            range=Range(low=64, high=1024, log=True, integer=True),
        ),
        "discriminator_depth": Knob(
            meaning="Hidden layers of the discriminator; the paper has one.",
            choices=(1, 2, 3, 4),
            range=Range(low=1, high=4, integer=True),
        ),
        "discriminator_lr": Knob(
            meaning="Learning rate of the discriminator at the start of training.",
            choices=(2e-4, 6e-4, 2e-3, 6e-3, 2e-2),
            range=Range(low=2e-4, high=2e-2, log=True),
        ),
        "discriminator_width": Knob(
            meaning="Units of each hidden layer, per member.",
            choices=(64, 128, 256, 1024),
            range=Range(low=32, high=1024, log=True, integer=True),
        ),
        "feature_dim": Knob(
            meaning="Length that patch features are pooled to, as in the paper; none keeps the layers' channels.",
            choices=(None, 128, 256, 512, 1536),
        ),
        "final_lr": Knob(
            meaning="Fraction of themselves to which the learning rates fall; 1 keeps them constant.",
            choices=(0.0, 0.1, 1.0),
            range=Range(low=0.0, high=1.0),
        ),
        "loss": Knob(
            meaning="What training minimises; the paper compares its truncated L1 with cross-entropy.",
            choices=LOSSES,
        ),
        "margin": Knob(
            meaning="Of the truncated L1 loss: outputs beyond it cost nothing.",
            choices=(0.25, 0.5, 1.0),
            range=Range(low=0.1, high=2.0, log=True),
        ),
        "members": Knob(
            meaning="Adaptor and discriminator pairs trained apart and averaged; the paper has one.",
            choices=(1, 4, 8, 16),
            range=Range(low=1, high=16, log=True, integer=True),
        ),
        "mirror": Knob(
            meaning="Training pictures count turned over as well, left to right (horizontal), top to bottom (vertical) "
            "or both, for parts that are as good then; training reads more pictures, scoring takes no longer.",
            choices=tuple(MIRRORS),
        ),
        "noise": Knob(
            meaning="Kind of the noise: "
            + "; ".join(f"{name.replace('_', ' ')}: {what}" for name, what in NOISES.items())
            + ".",
            choices=tuple(NOISES),
        ),
        "patch_size": Knob(
            meaning="Side of the neighbourhood that a patch feature averages over; odd.", choices=(1, 3, 5, 7)
        ),
        "smoothing_std": Knob(
            meaning="Blur σ of the anomaly map in pixels of the network's picture; image scores don't feel it.",
            choices=(0.0, 2.0, 4.0, 8.0),
            range=Range(low=0.0, high=12.0),
        ),
        "steps_per_epoch": Knob(
            meaning="Steps of training between two looks at the validation pictures; a trial takes as much longer.",
            choices=(25, 50, 100, 200),
            range=Range(low=20, high=200, log=True, integer=True),
        ),
        "top_patches": Knob(
            meaning="A picture's score is the mean of so many highest patch scores; 1 is the maximum.",
            choices=(1, 5, 20, 100),
            range=Range(low=1, high=200, log=True, integer=True),
        ),
        "weight_decay": Knob(
            meaning="How strongly the discriminator's weights are pulled to zero.",
            choices=(0.0, 1e-6, 1e-5, 1e-4, 1e-3),
            range=Range(low=1e-6, high=1e-3, log=True),
        ),
    }
)
"""What a study searches on request; what it does not name keeps the engine's default.

Epochs, size and seed are missing on purpose: the first is the budget of a trial and what pruning counts in, pictures
of another size have other features, and a seed that is searched finds luck.
"""


def read_knobs(wanted: Mapping[str, Any]) -> dict[str, Values]:
    """Check what to search of which knobs.

    Args:
        wanted: by knob: choices; or a range, as `Range` or as a mapping of its fields, of which only the ends are
            needed.
    Raises:
        BadSpec: a knob is unknown, or a value can not be used.
    """
    return {name: _values(name, values) for name, values in wanted.items()}


def _values(name: str, wanted: Any) -> Values:
    if name not in KNOBS:
        raise BadSpec(f"Knob '{name}' is unknown. Choose one of {', '.join(KNOBS)}.")
    values = _range(name, wanted) if isinstance(wanted, Range | Mapping) else _choices(name, wanted)
    for value in (values.low, values.high) if isinstance(values, Range) else values:
        try:
            replace(SimpleNetConfig(), **{name: value})
        except InvalidConfig as error:
            raise BadSpec(f"A value to search can not be used: {error}") from error
    return values


def _range(name: str, wanted: Range | Mapping[str, Any]) -> Range:
    offered = KNOBS[name].range
    if offered is None:
        raise BadSpec(
            f"Knob '{name}' has no range: only single values make sense. "
            f"Give for instance {','.join(map(str, KNOBS[name].choices))}."
        )
    if isinstance(wanted, Range):
        given = wanted.to_json()
    else:
        unknown = set(wanted) - {field.name for field in fields(Range)}
        if unknown or not {"low", "high"} <= set(wanted):
            raise BadSpec(
                f"Range {dict(wanted)} of knob '{name}': it must have low and high, and may have log and integer. "
                f"Give for instance {offered}."
            )
        given = {"log": offered.log and wanted["low"] != 0, "integer": offered.integer, **wanted}
    if offered.integer and not given["integer"]:
        given["integer"] = True  # the engine takes nothing else
    return Range(**given)


def _choices(name: str, wanted: Sequence[Any]) -> tuple[Any, ...]:
    choices = tuple(None if value == "none" and None in KNOBS[name].choices else value for value in wanted)
    if not choices or len(set(choices)) < len(choices):
        raise BadSpec(
            f"Values {list(choices)} of knob '{name}': each may come once and one is needed. "
            f"Give for instance {','.join(map(str, KNOBS[name].choices))}."
        )
    return choices
