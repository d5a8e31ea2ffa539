"""What a study searches, in which space and with which budget: the plain value that all parts share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from math import isfinite, prod
from typing import Any, TypeVar

from engine.config import STAGE_CHOICES, SimpleNetConfig
from engine.errors import InvalidConfig
from engine.geometry import RESIZES
from tuning.errors import BadSpec
from tuning.knobs import KNOBS, SEARCHED, Range, Values, read_knobs
from tuning.objective import Figure, Objective

__all__ = ["KNOBS", "SEARCHED", "Figure", "Objective", "Pruner", "Range", "Sampler", "StudySpec", "Values"]

IMAGE_AUROC = Objective.of("image_auroc")
MAX_TRIALS = 1000  # of one study, whatever else ends it
MAX_MINUTES = 7 * 24 * 60
_Kind = TypeVar("_Kind", bound=StrEnum)


class Sampler(StrEnum):
    """Who proposes the next configuration."""

    TPE = "tpe"  # Tree-structured Parzen estimator: takes everything, learns from few trials
    GP = "gp"  # Gaussian process: fewer, better chosen trials; seconds per choice after some hundred
    CMAES = "cmaes"  # covariance matrix adaptation: for two or more ranges of numbers and many trials
    RANDOM = "random"  # no learning: the fair yardstick
    GRID = "grid"  # every combination, in random order; ranges are cut into `grid_steps` values


class Pruner(StrEnum):
    """Who ends hopeless trials early."""

    MEDIAN = "median"  # worse than the median of the trials before at the same epoch
    HYPERBAND = "hyperband"  # keeps the best third at each of a few epochs; for many trials
    NONE = "none"  # every trial runs to its end


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """The search space and budget of one study. What is written with one version is read by all later ones.

    Raises:
        BadSpec: a field breaks its rule, or the sampler can't search this space.
    """

    # What is searched.
    objective: Objective = IMAGE_AUROC  # or a figure's name, or weights by figure
    noise_std: tuple[float, float] = (0.005, 0.5)  # range of σ, searched on a log scale
    layers: tuple[tuple[int, ...], ...] = STAGE_CHOICES  # choices of stages, or of a transformer's blocks
    adaptor_depths: tuple[int, ...] = (0, 1, 2)  # linear layers between backbone and discriminator
    knobs: Mapping[str, Values] = field(default_factory=dict)  # of KNOBS: choices or a range of each
    backbones: tuple[str, ...] = ("auto",)  # several are a choice to search, called "backbone"
    weights: str | None = None  # file of a backbone's weights; None: the setting's, else by its name

    # For how long. Whichever limit is reached first ends the search; a trial that runs is run to its end.
    trials: int | None = 20  # configurations tried, the paper's own included; None: another limit ends it
    minutes: float | None = None  # in which trials ran: pauses, features and the champion don't count
    patience: int | None = None  # completed trials in a row without a new best that end it
    tolerance: float = 0.001  # by how much a new best must be better to count for `patience`

    # How.
    sampler: Sampler = Sampler.TPE
    pruner: Pruner = Pruner.MEDIAN
    grid_steps: int = 5  # values that a range is cut into by the sampler "grid"
    seeds: int = 1  # trainings per trial; its value is their mean, its model that of the first
    latency_ms: float | None = None  # limit, of score and map of one picture on the worker's device
    priority: int = 0  # at launch: higher is taken first; the study's row says what it is later
    follows: int | None = None  # number of the study whose trials inside this space the search starts from

    # What every trial shares.
    height: int = 256  # pixels of the canvas that pictures are laid on
    width: int = 256
    resize: str = SimpleNetConfig.resize  # how: one of engine.geometry.RESIZES
    epochs: int = SimpleNetConfig.epochs  # of every trial; the validation pictures are scored after each
    seed: int = 0  # of the sampler and of every trial's (first) training
    false_reject_rate: float = 0.05  # wanted share of normal parts rejected, 0..1

    def __post_init__(self) -> None:
        """Bring every field to its type and check it."""
        self._set("objective", Objective.of(self.objective))
        self._set("noise_std", tuple(float(value) for value in self.noise_std))
        self._set("layers", tuple(tuple(int(stage) for stage in choice) for choice in self.layers))
        self._set("adaptor_depths", tuple(int(depth) for depth in self.adaptor_depths))
        self._set("knobs", read_knobs(self.knobs))
        self._set("backbones", tuple(self.backbones))
        self._set("sampler", _one_of(Sampler, self.sampler, "Sampler"))
        self._set("pruner", _one_of(Pruner, self.pruner, "Pruner"))
        self._check_space()
        self._check_budget()
        self._check_rest()
        self._check_sampler()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_space(self) -> None:
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
        for name, choices in (("layers", self.layers), ("adaptor depth", self.adaptor_depths)):
            if len(set(choices)) < len(choices):
                raise BadSpec(f"Choices {choices} of {name}: each may come once. Leave out the second.")
        self._check_backbones()

    def _check_backbones(self) -> None:
        names = self.backbones
        if not names or not all(isinstance(name, str) and name for name in names):
            raise BadSpec(
                f"Backbones {names}: at least one name is needed, none of them empty. Give auto, or drawnet."
            )
        if len(set(names)) < len(names) or ("auto" in names and len(names) > 1):
            raise BadSpec(
                f"Backbones {', '.join(names)}: each may come once, and auto stands alone, for it may come to any of "
                "them. Name each once."
            )
        if self.weights is not None and len(names) > 1 and not any(self.weights_of(name) for name in names):
            raise BadSpec(
                f"Weights file '{self.weights}' fits none of the backbones {', '.join(names)}: with several, a file "
                "belongs to the one that it is named after. Name it so, such as resnet18.safetensors."
            )

    def _check_budget(self) -> None:
        if self.trials is not None and not 1 <= self.trials <= MAX_TRIALS:
            raise BadSpec(
                f"A study of {self.trials} trials: the number must lie in 1..{MAX_TRIALS}. Choose another."
            )
        if self.minutes is not None and not 0 < self.minutes <= MAX_MINUTES:
            raise BadSpec(
                f"A study of {self.minutes} minutes: they must lie above 0 and within {MAX_MINUTES} (a week). "
                "Choose another time."
            )
        if self.patience is not None and not 1 <= self.patience <= MAX_TRIALS:
            raise BadSpec(
                f"Patience of {self.patience} trials: the number must lie in 1..{MAX_TRIALS}. Give for instance 10."
            )
        if self.trials is None and self.minutes is None and self.patience is None:
            raise BadSpec(
                "A study without an end: trials, minutes or patience must be given. Give for instance 20 trials."
            )
        if not 0 <= self.tolerance < 1:
            raise BadSpec(
                f"Tolerance {self.tolerance}: it must lie in 0..1, for the objective does. 0.001 suits most studies."
            )
        if not 1 <= self.epochs <= 1000:
            raise BadSpec(
                f"{self.epochs} epochs: the number must lie in 1..1000. {SimpleNetConfig.epochs} suits most parts."
            )
        if not 1 <= self.seeds <= 20:
            raise BadSpec(
                f"{self.seeds} seeds per trial: the number must lie in 1..20. 3 show the spread, in thrice the time."
            )

    def _check_rest(self) -> None:
        if not all(32 <= side <= 2048 for side in (self.height, self.width)):
            raise BadSpec(
                f"Size {self.height}×{self.width} px: each side must lie in 32..2048. 256 suits most parts."
            )
        if self.resize not in RESIZES:
            raise BadSpec(f"Resize '{self.resize}' is unknown. Choose one of {', '.join(RESIZES)}.")
        if not 0 <= self.seed < 2**31:
            raise BadSpec(f"Seed {self.seed}: it must lie in 0..2147483647. 0 is as good as any.")
        if not 0 < self.false_reject_rate < 1:
            raise BadSpec(
                f"False-reject rate {self.false_reject_rate}: it must lie between 0 and 1. 0.05 means 5 %."
            )
        if self.latency_ms is not None and not (isfinite(self.latency_ms) and self.latency_ms > 0):
            raise BadSpec(
                f"Latency limit of {self.latency_ms} ms: it must lie above 0. Give for instance 50, or none."
            )
        if not -1000 <= self.priority <= 1000:
            raise BadSpec(f"Priority {self.priority}: it must lie in -1000..1000. 0 is the usual one.")
        if self.follows is not None and self.follows < 1:
            raise BadSpec(f"Study {self.follows} to start from: numbers of studies begin at 1. Give another.")

    def _check_sampler(self) -> None:
        if not 2 <= self.grid_steps <= 50:
            raise BadSpec(f"{self.grid_steps} grid steps: the number must lie in 2..50. 5 suit most ranges.")
        if self.sampler is Sampler.GRID and self.grid_size > MAX_TRIALS:
            raise BadSpec(
                f"A grid of {self.grid_size:,} configurations: at most {MAX_TRIALS:,} are allowed. Search fewer "
                f"values, lower grid_steps ({self.grid_steps}), or choose the sampler tpe or random."
            )
        if self.sampler is Sampler.CMAES:
            if len(self.ranges) < 2:
                have = ", ".join(self.ranges) or "none"
                raise BadSpec(
                    f"CMA-ES learns from ranges of numbers and needs two; this space has {len(self.ranges)} ({have}). "
                    "Search a range of another knob, such as discriminator_lr=0.0002..0.02, or choose tpe or gp."
                )
            if self.latency_ms is not None:
                raise BadSpec(
                    f"CMA-ES knows no limits, and the latency limit is {self.latency_ms:g} ms. Choose tpe or gp, or "
                    "drop the limit."
                )

    @property
    def space(self) -> dict[str, Values]:
        """What is searched, by the name of the parameter: a range, or choices; one choice alone is fixed.

        Layers are written 2+3. A single backbone is no parameter.
        """
        low, high = self.noise_std
        several = {"backbone": self.backbones} if len(self.backbones) > 1 else {}
        return {
            "noise_std": Range(low=low, high=high, log=True),
            "layers": tuple("+".join(map(str, choice)) for choice in self.layers),
            "adaptor_depth": self.adaptor_depths,
            **several,
            **self.knobs,
        }

    @property
    def ranges(self) -> dict[str, Range]:
        """The ranges of numbers that have more than one value."""
        return {
            name: values
            for name, values in self.space.items()
            if isinstance(values, Range) and values.low < values.high
        }

    @property
    def grid_size(self) -> int:
        """How many configurations the sampler "grid" has."""
        return prod(
            len(values.values(self.grid_steps) if isinstance(values, Range) else values)
            for values in self.space.values()
        )

    @property
    def backbone(self) -> str:
        """The first of the backbones."""
        return self.backbones[0]

    @property
    def mirrors(self) -> tuple[str, ...]:
        """Values of the knob `mirror` that a trial may have; none where it is not searched."""
        values = self.knobs.get("mirror", ())
        return values if isinstance(values, tuple) else ()

    def weights_of(self, backbone: str) -> str | None:
        """The weights file for one of the backbones: where there are several, the one that it is named after."""
        if self.weights is None or len(self.backbones) == 1:
            return self.weights
        named = self.weights.replace("\\", "/").rsplit("/", 1)[-1].split(".")[0]
        return self.weights if backbone.split(".")[0] == named else None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        knobs = {
            name: values.to_json() if isinstance(values, Range) else list(values)
            for name, values in self.knobs.items()
        }
        plain = {
            "objective": self.objective.to_json(),
            "knobs": knobs,
            "noise_std": list(self.noise_std),
            "layers": [list(choice) for choice in self.layers],
            "adaptor_depths": list(self.adaptor_depths),
            "backbones": list(self.backbones),
            "sampler": self.sampler.value,
            "pruner": self.pruner.value,
        }
        return asdict(self) | plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "StudySpec":
        """Read what `to_json` wrote, in this version or an older one.

        Raises:
            BadSpec: an unknown field, or one that breaks its rule.
        """
        values = dict(data)
        if "backbone" in values:  # before a study could compare several
            values.setdefault("backbones", (values.pop("backbone"),))
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise BadSpec(f"Unknown fields {sorted(unknown)} in a study's specification. Remove them.")
        return cls(**values)


def _one_of(kind: type[_Kind], value: str, what: str) -> _Kind:
    try:
        return kind(value)
    except ValueError:
        raise BadSpec(f"{what} '{value}' is unknown. Choose one of {', '.join(kind)}.") from None
