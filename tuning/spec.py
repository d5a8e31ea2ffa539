"""What a study searches, in which space and with which budget: the plain value that all parts share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from engine.config import ACTIVATIONS, LOSSES, NOISES, STAGE_CHOICES, SimpleNetConfig
from engine.errors import InvalidConfig
from engine.geometry import RESIZES
from tuning.errors import BadSpec

# What can be searched besides σ, layers and adaptor depth, with values worth offering; the default is among them.
KNOBS: Mapping[str, tuple[Any, ...]] = {
    "adaptor_activation": ACTIVATIONS,
    "adaptor_residual": (False, True),
    "discriminator_depth": (1, 2, 3, 4),
    "discriminator_width": (64, 128, 256, 1024),
    "loss": LOSSES,
    "margin": (0.25, 0.5, 1.0),
    "members": (1, 4, 8, 16),
    "noise": tuple(NOISES),
    "patch_size": (1, 3, 5),
    "top_patches": (1, 5, 20, 100),
}


class Objective(StrEnum):
    """The figure on the validation pictures that a study maximises; all lie in 0..1, higher is better."""

    IMAGE_AUROC = "image_auroc"  # ranks anomalous pictures above normal ones
    AUPRO = "aupro"  # finds every anomalous region up to 30 % false-positive pixels; needs masks
    AVERAGE_PRECISION = "average_precision"  # precision over recall, for few defects among many parts
    F1 = "f1"  # best F1 over all thresholds

    @property
    def needs_masks(self) -> bool:
        """Whether the figure is computed on pixels."""
        return self is Objective.AUPRO


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """The search space and budget of one study.

    Raises:
        BadSpec: a field breaks its rule.
    """

    trials: int = 12  # configurations tried, the paper's own included
    objective: Objective = Objective.IMAGE_AUROC
    noise_std: tuple[float, float] = (
        0.005,
        0.5,
    )  # range of σ of the anomalous features, searched on a log scale
    layers: tuple[tuple[int, ...], ...] = (
        STAGE_CHOICES  # choices of backbone stages, or of a transformer's blocks
    )
    adaptor_depths: tuple[int, ...] = (0, 1, 2)  # linear layers between backbone and discriminator
    knobs: Mapping[str, tuple[Any, ...]] = field(
        default_factory=dict
    )  # values to try of any of KNOBS; one value alone is fixed, what is not named keeps the engine's default
    backbone: str = "auto"
    weights: str | None = (
        None  # file with the backbone's weights; None: the setting's, else by the backbone's name
    )
    height: int = 256  # pixels of the canvas that pictures are laid on
    width: int = 256
    resize: str = SimpleNetConfig.resize  # how: one of engine.geometry.RESIZES
    epochs: int = SimpleNetConfig.epochs  # of every trial; the validation pictures are scored after each
    seed: int = 0  # of the sampler and of every trial's training
    false_reject_rate: float = 0.05  # wanted share of normal parts rejected, 0..1

    def __post_init__(self) -> None:
        """Check every field."""
        object.__setattr__(self, "objective", _objective(self.objective))
        object.__setattr__(self, "noise_std", tuple(float(value) for value in self.noise_std))
        object.__setattr__(
            self, "layers", tuple(tuple(int(stage) for stage in choice) for choice in self.layers)
        )
        object.__setattr__(self, "adaptor_depths", tuple(int(depth) for depth in self.adaptor_depths))
        if not 1 <= self.trials <= 1000:
            raise BadSpec(f"A study of {self.trials} trials: the number must lie in 1..1000. Choose another.")
        if len(self.noise_std) != 2 or not 0 < self.noise_std[0] <= self.noise_std[1] <= 10:
            raise BadSpec(
                f"Noise σ range {self.noise_std}: it must be two numbers with 0 < low ≤ high ≤ 10. "
                "Give for instance 0.005 and 0.5."
            )
        if not self.layers:
            raise BadSpec("No choice of layers: at least one is needed. Give for instance 2,3.")
        for choice in self.layers:
            try:
                SimpleNetConfig(layers=choice)
            except InvalidConfig as error:
                raise BadSpec(
                    f"A choice of layers can not be used: {error} Give for instance 2,3."
                ) from error
        if not self.adaptor_depths or not all(0 <= depth <= 8 for depth in self.adaptor_depths):
            raise BadSpec(
                f"Adaptor depths {self.adaptor_depths}: each must lie in 0..8 and one is needed. Give 0,1,2."
            )
        object.__setattr__(self, "knobs", _knobs(self.knobs))
        if not all(32 <= side <= 2048 for side in (self.height, self.width)):
            raise BadSpec(
                f"Size {self.height}×{self.width} px: each side must lie in 32..2048. 256 suits most parts."
            )
        if self.resize not in RESIZES:
            raise BadSpec(f"Resize '{self.resize}' is unknown. Choose one of {', '.join(RESIZES)}.")
        if not 0 <= self.seed < 2**31:
            raise BadSpec(f"Seed {self.seed}: it must lie in 0..2147483647. 0 is as good as any.")
        if not 1 <= self.epochs <= 1000:
            raise BadSpec(
                f"{self.epochs} epochs: the number must lie in 1..1000. {SimpleNetConfig.epochs} suits most parts."
            )
        if not 0 < self.false_reject_rate < 1:
            raise BadSpec(
                f"False-reject rate {self.false_reject_rate}: it must lie between 0 and 1. 0.05 means 5 %."
            )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        knobs = {name: list(values) for name, values in self.knobs.items()}
        return asdict(self) | {"objective": self.objective.value, "knobs": knobs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "StudySpec":
        """Read what `to_json` wrote.

        Raises:
            BadSpec: an unknown field, or one that breaks its rule.
        """
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            raise BadSpec(f"Unknown fields {sorted(unknown)} in a study's specification. Remove them.")
        return cls(**data)


def _knobs(wanted: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    checked = {}
    for name, values in wanted.items():
        if name not in KNOBS:
            raise BadSpec(f"Knob '{name}' is unknown. Choose one of {', '.join(KNOBS)}.")
        checked[name] = tuple(values)
        if not values or len(set(checked[name])) < len(checked[name]):
            raise BadSpec(
                f"Values {list(values)} of knob '{name}': each may come once and one is needed. "
                f"Give for instance {','.join(map(str, KNOBS[name]))}."
            )
        for value in values:
            try:
                replace(SimpleNetConfig(), **{name: value})
            except InvalidConfig as error:
                raise BadSpec(f"A value to search can not be used: {error}") from error
    return checked


def _objective(value: str) -> Objective:
    try:
        return Objective(value)
    except ValueError:
        names = ", ".join(Objective)
        raise BadSpec(f"Objective '{value}' is unknown. Choose one of {names}.") from None
