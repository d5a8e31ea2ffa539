"""The one description of a model: a study samples it, training obeys it, a saved model carries it.

Paper: SimpleNet, Liu et al., CVPR 2023. Where a default differs from the published code, docs/log.md has the
    figures.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from engine.backbones.resolve import SHIPPED
from engine.errors import InvalidConfig
from engine.geometry import MIRRORS, RESIZES

MAX_LAYER = 64  # blocks of a transformer; other backbones have up to 4 stages
STAGE_CHOICES: tuple[tuple[int, ...], ...] = ((2,), (3,), (1, 2), (2, 3), (1, 2, 3))  # that a study compares
ACTIVATIONS = ("none", "leaky_relu")
LOSSES = ("truncated_l1", "cross_entropy")
NOISES = {
    "gaussian": "the same σ everywhere, as published",
    "scaled": "σ times the deviation of each adapted channel in the batch",
    "mixed": "every patch a σ of its own, from a quarter of σ to four times σ on a log scale",
    "differences": "the difference of two other patches at a deviation of σ: ways in which normal ones differ",
    "low_frequency": "smooth over squares of 4 × 4 neighbouring patches, on the half that a smooth mask leaves",
}

# What the published code sets where the defaults differ: README and main.py of the paper's repository.
PUBLISHED: Mapping[str, Any] = types.MappingProxyType(
    {
        "members": 1,
        "discriminator_width": 1024,
        "epochs": 160,
        "adaptor_lr": 1e-4,
        "discriminator_lr": 2e-4,
        "final_lr": 1.0,
        "average_decay": 0.0,
        "top_patches": 1,
    }
)
# The same for pictures and features: shorter side 329, middle 288, 1536 numbers from WideResNet-50.
PUBLISHED_INPUT: Mapping[str, Any] = types.MappingProxyType(
    {"height": 288, "width": 288, "resize": "crop", "feature_dim": 1536}
)
PUBLISHED_BATCH = 8  # whole pictures per step


@dataclass(frozen=True, kw_only=True)
class SimpleNetConfig:
    """What is computed, from picture to anomaly map.

    Raises:
        InvalidConfig: on construction, naming the field, its value and the rule.
    """

    backbone: str = SHIPPED  # or a timm model; "auto" is resolved before a configuration is made
    layers: tuple[int, ...] = (
        2,
        3,
    )  # stages of the backbone: 1 = stride 4, 2 = stride 8, 3 = stride 16, 4 = stride 32; of a transformer, its
    # blocks, 1 = the first
    height: int = 256  # pixels, of the canvas that pictures are laid on
    width: int = 256
    resize: str = "squash"  # how; RESIZES says which ways there are
    mirror: str = "none"  # "horizontal", "vertical", "both": training pictures count turned over as well
    patch_size: int = 3  # side of the neighbourhood averaged around each position; odd
    feature_dim: int | None = (
        None  # None: channels of the layers side by side; a number: the paper's pooling to it
    )
    adaptor_depth: int = 1  # linear layers between features and discriminator; 0 = none
    adaptor_activation: str = "none"  # "none" as published, or "leaky_relu" after each of its layers
    adaptor_residual: bool = False  # add the features to what the adaptor makes of them
    discriminator_depth: int = 1  # hidden layers, each with batch norm and LeakyReLU; 1 as published
    discriminator_width: int = 128  # hidden units of each member and layer
    members: int = 8  # adaptor–discriminator pairs trained apart, their scores averaged; 1 = as published
    noise: str = "gaussian"  # what makes adapted features anomalous; NOISES says which kinds there are
    noise_std: float = 0.015  # its σ
    loss: str = "truncated_l1"  # as published, or "cross_entropy", which the paper compares with
    margin: float = 0.5  # of truncated_l1: scores beyond ±margin cost nothing
    epochs: int = 10  # an epoch is steps_per_epoch steps; scores are reported after each
    steps_per_epoch: int = 50
    batch_patches: int = 256  # patches per member and step, drawn across all training pictures
    adaptor_lr: float = 1e-3
    discriminator_lr: float = 2e-3
    final_lr: float = 0.0  # the rates fall along a cosine to this fraction of themselves; 1 = constant
    weight_decay: float = 1e-5  # of the discriminator, added to the gradient (Adam)
    adaptor_weight_decay: float = 1e-2  # of the adaptor, decoupled (AdamW)
    average_decay: float = 0.99  # scores come from a running average of the weights; 0 = the last weights
    top_patches: int = 20  # image score = mean of so many highest patch scores; 1 = maximum, as published
    smoothing_std: float = 4.0  # σ in pixels of the blur of the anomaly map, at height × width
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        rules = {
            "backbone": (self.backbone != "", "must name a timm model"),
            "layers": (
                len(self.layers) > 0
                and sorted(set(self.layers)) == list(self.layers)
                and _within(self.layers, 1, MAX_LAYER),
                f"must be stages or blocks between 1 and {MAX_LAYER} in rising order, each once",
            ),
            "height": (32 <= self.height <= 4096, "must be 32 to 4096 pixels"),
            "width": (32 <= self.width <= 4096, "must be 32 to 4096 pixels"),
            "resize": _one_of(self.resize, RESIZES),
            "mirror": _one_of(self.mirror, MIRRORS),
            "patch_size": (
                1 <= self.patch_size <= 15 and self.patch_size % 2 == 1,
                "must be odd and at most 15: a patch has a middle",
            ),
            "feature_dim": (
                self.feature_dim is None or self.feature_dim >= 1,
                "must be at least 1, or left out",
            ),
            "adaptor_depth": (0 <= self.adaptor_depth <= 8, "must be 0 to 8"),
            "adaptor_activation": _one_of(self.adaptor_activation, ACTIVATIONS),
            "discriminator_depth": (1 <= self.discriminator_depth <= 4, "must be 1 to 4"),
            "noise": _one_of(self.noise, NOISES),
            "loss": _one_of(self.loss, LOSSES),
            "discriminator_width": (1 <= self.discriminator_width <= 16384, "must be 1 to 16384"),
            "members": (1 <= self.members <= 64, "must be 1 to 64"),
            "noise_std": (self.noise_std > 0, "must be above 0: without noise nothing is anomalous"),
            "margin": (self.margin > 0, "must be above 0"),
            "epochs": (self.epochs >= 1, "must be at least 1"),
            "steps_per_epoch": (self.steps_per_epoch >= 1, "must be at least 1"),
            "batch_patches": (self.batch_patches >= 2, "must be at least 2: batch norm needs a spread"),
            "adaptor_lr": (self.adaptor_lr > 0, "must be above 0"),
            "discriminator_lr": (self.discriminator_lr > 0, "must be above 0"),
            "weight_decay": (self.weight_decay >= 0, "must not be negative"),
            "adaptor_weight_decay": (self.adaptor_weight_decay >= 0, "must not be negative"),
            "final_lr": (0 <= self.final_lr <= 1, "must be a fraction between 0 and 1"),
            "average_decay": (0 <= self.average_decay < 1, "must be at least 0 and below 1"),
            "top_patches": (self.top_patches >= 1, "must be at least 1"),
            "smoothing_std": (self.smoothing_std >= 0, "must not be negative; 0 turns smoothing off"),
            "seed": (0 <= self.seed < 2**32, "must be 0 to 4294967295"),
        }
        for field, (holds, rule) in rules.items():
            if not holds:
                raise InvalidConfig(f"{field} is {getattr(self, field)!r}; it {rule}. Change {field}.")

    def _check_types(self) -> None:
        for field, wanted in typing.get_type_hints(type(self)).items():
            value = getattr(self, field)
            if not _is_a(value, wanted):
                name = wanted.__name__ if isinstance(wanted, type) and wanted is not tuple else str(wanted)
                raise InvalidConfig(f"{field} is {value!r}; it must be of type {name}. Change {field}.")

    @classmethod
    def published(cls, pictures: int, **changes: Any) -> Self:
        """Give the published settings, with an epoch that is one pass over the training pictures.

        Args:
            pictures: that train.
            changes: fields that shall differ.
        Raises:
            InvalidConfig: as on construction.
        """
        config = cls.from_json({**PUBLISHED, **PUBLISHED_INPUT, **changes})
        stride = 2 ** (config.layers[0] + 1)
        patches = -(-config.height // stride) * -(-config.width // stride)
        steps = max(1, -(-pictures // PUBLISHED_BATCH))
        batch = {"steps_per_epoch": steps, "batch_patches": min(pictures, PUBLISHED_BATCH) * patches}
        return cls.from_json({**config.to_json(), **batch, **changes})

    def to_json(self) -> dict[str, Any]:
        """Give the fields as a dictionary of JSON values, in order."""
        values = dataclasses.asdict(self)
        values["layers"] = list(self.layers)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read back what `to_json` gave; a field left out takes its default.

        Raises:
            InvalidConfig: a key is unknown, or a value breaks its field's rule.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InvalidConfig(
                f"Unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}. Remove it."
            )
        arguments = dict(values)
        if isinstance(arguments.get("layers"), list):
            arguments["layers"] = tuple(arguments["layers"])
        return cls(**arguments)


def _one_of(value: str, names: Iterable[str]) -> tuple[bool, str]:
    return value in names, f"must be one of {', '.join(names)}"


def _within(numbers: tuple[int, ...], low: int, high: int) -> bool:
    return all(low <= number <= high for number in numbers)


def _is_a(value: object, wanted: Any) -> bool:
    if typing.get_origin(wanted) is tuple:
        return isinstance(value, tuple) and all(_is_a(item, typing.get_args(wanted)[0]) for item in value)
    if isinstance(wanted, types.UnionType):
        return any(_is_a(value, choice) for choice in typing.get_args(wanted))
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted)
