"""What a study maximises on the validation pictures: one figure, or a weighted mean of several."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tuning.errors import BadSpec

MIXED = "weighted_mean"  # name of a mean of several figures where one word is wanted


class Figure(StrEnum):
    """A figure of merit that can be maximised; all lie in 0..1, higher is better."""

    IMAGE_AUROC = "image_auroc"  # ranks anomalous pictures above normal ones
    AUPRO = "aupro"  # finds every anomalous region up to 30 % false-positive pixels; needs masks
    AVERAGE_PRECISION = "average_precision"  # precision over recall, for few defects among many parts
    F1 = "f1"  # best F1 over all thresholds

    @property
    def needs_masks(self) -> bool:
        """Whether it is computed on pixels."""
        return self is Figure.AUPRO


@dataclass(frozen=True)
class Objective:
    """Figures and their weights, in the order of `Figure`; the value is their mean and lies in 0..1.

    `str()` gives one word, fit for the name of a metric: 'image_auroc', or 'weighted_mean' of several.
    """

    weights: tuple[tuple[Figure, float], ...]  # as given: only their proportions matter

    @classmethod
    def of(cls, wanted: "Objective | str | Mapping[Any, Any]") -> "Objective":
        """Read an objective from a figure's name, or from weights by figure.

        Raises:
            BadSpec: a figure is unknown, or a weight is not above 0.
        """
        if isinstance(wanted, Objective):
            return wanted
        given = wanted if isinstance(wanted, Mapping) else {wanted: 1.0}
        weights = {_figure(name): _weight(name, value) for name, value in given.items()}
        if not weights:
            raise BadSpec(
                f"An objective without a figure: at least one is needed. Choose among {', '.join(Figure)}."
            )
        if len(weights) == 1:
            return cls(((next(iter(weights)), 1.0),))
        return cls(tuple((figure, weights[figure]) for figure in Figure if figure in weights))

    @property
    def shares(self) -> dict[Figure, float]:
        """Each figure's share of the mean; they sum to 1."""
        whole = sum(weight for _, weight in self.weights)
        return {figure: weight / whole for figure, weight in self.weights}

    @property
    def single(self) -> Figure | None:
        """The figure, where it is one alone."""
        return self.weights[0][0] if len(self.weights) == 1 else None

    @property
    def needs_masks(self) -> bool:
        """Whether any figure is computed on pixels."""
        return any(figure.needs_masks for figure, _ in self.weights)

    @property
    def formula(self) -> str:
        """What exactly is maximised, by which studies are compared: 'aupro', '0.7 image_auroc + 0.3 aupro'."""
        if self.single is not None:
            return self.single.value
        return " + ".join(f"{share:.3g} {figure}" for figure, share in self.shares.items())

    def __str__(self) -> str:
        return MIXED if self.single is None else self.single.value

    def to_json(self) -> Any:
        """A figure's name, or weights by figure."""
        if self.single is not None:
            return self.single.value
        return {figure.value: weight for figure, weight in self.weights}


def _figure(name: object) -> Figure:
    try:
        return Figure(str(name))
    except ValueError:
        raise BadSpec(f"Objective '{name}' is unknown. Choose one of {', '.join(Figure)}.") from None


def _weight(name: object, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise BadSpec(
            f"Weight {value!r} of objective '{name}': it must be a number above 0. Give 1 for an equal share, or leave "
            "the figure out."
        )
    return float(value)
