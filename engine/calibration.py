"""Thresholds that keep a promise, and the absolute colour scale of anomaly maps.

A picture is rejected when its score is above the threshold, never at it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine import metrics
from engine.errors import BadCheckpoint, EngineError, TooFewCalibrationImages, UndefinedMetric
from engine.metrics import Labels, Scores


class ThresholdMethod(StrEnum):
    """How a threshold was chosen."""

    FALSE_REJECT = "false_reject"  # conformal: new normal pictures are rejected at most at a wanted rate
    COST = "cost"  # least expected cost on labelled pictures
    F1 = "f1"  # highest F1 on labelled pictures


class InvalidRate(EngineError):
    """A rate or cost lies outside the range in which a threshold exists."""


def conformal_threshold(scores: Scores, rate: float) -> float:
    """Give the threshold above which a new normal picture scores with a probability of at most `rate`.

    It is the ceil((n + 1)(1 − rate))-th smallest of n scores of normal pictures never trained on.

    Args:
        scores: (n,), finite.
        rate: above 0, below 1.
    Raises:
        TooFewCalibrationImages: n is too small for the rate.
        InvalidRate: rate is out of range.
        UndefinedMetric: a score is not finite.
    Source: Vovk et al., Algorithmic Learning in a Random World, 2005 (inductive conformal prediction).
    """
    values = _finite(scores)
    _require(0 < rate < 1, "false-reject rate", rate, "must be above 0 and below 1")
    # The small term undoes rounding: 20 × 0.95 must not count as more than 19.
    rank = math.ceil((len(values) + 1) * (1 - rate) - 1e-9)
    if rank > len(values):
        needed = images_needed(rate)
        raise TooFewCalibrationImages(
            f"A false-reject rate of at most {100 * rate:g} % needs at least {needed} calibration images; "
            f"you have {len(values)}. Add normal images or accept a higher rate.",
            needed=needed,
            had=len(values),
        )
    return float(np.sort(values)[max(rank, 1) - 1])


def images_needed(rate: float) -> int:
    """Give the smallest number of calibration images that guarantees a false-reject rate."""
    _require(0 < rate < 1, "false-reject rate", rate, "must be above 0 and below 1")
    return max(1, math.ceil(1 / rate - 1 - 1e-9))


@dataclass(frozen=True, kw_only=True)
class CostThreshold:
    """The threshold of least expected cost, and what to expect of it."""

    threshold: float
    cost_per_1000: float  # in the unit of the costs given
    escapes_per_1000: float  # anomalous parts accepted, of 1,000 parts
    false_rejects_per_1000: float  # normal parts rejected, of 1,000 parts


def cost_threshold(
    scores: Scores, labels: Labels, escape_cost: float, false_reject_cost: float, defect_rate: float
) -> CostThreshold:
    """Find the threshold with the least expected cost per part; of equal ones the highest.

    Args:
        scores, labels: of labelled pictures, true is anomalous.
        escape_cost: of an anomalous part accepted, at least 0.
        false_reject_cost: of a normal part rejected, at least 0.
        defect_rate: share of anomalous parts in production, 0 to 1; not that among the pictures.
    Raises:
        InvalidRate: a cost is negative or the rate out of range.
        UndefinedMetric: one class is absent, or a score is not finite.
    """
    for name, cost in (("escape cost", escape_cost), ("false-reject cost", false_reject_cost)):
        _require(cost >= 0 and math.isfinite(cost), name, cost, "must be a number of at least 0")
    _require(0 <= defect_rate <= 1, "defect rate", defect_rate, "must be between 0 and 1")
    values, anomalous = metrics.checked(scores, labels)
    distinct, caught, rejected = metrics.cuts(values, anomalous)
    # The first candidate accepts everything: the highest score is not above itself.
    thresholds = [float(distinct[0]), *metrics.thresholds_below(distinct)]
    positives = int(anomalous.sum())
    escapes = 1000 * defect_rate * (1 - np.append(0, caught) / positives)
    false_rejects = 1000 * (1 - defect_rate) * np.append(0, rejected - caught) / (len(anomalous) - positives)
    costs = escape_cost * escapes + false_reject_cost * false_rejects
    best = int(costs.argmin())
    return CostThreshold(
        threshold=thresholds[best],
        cost_per_1000=float(costs[best]),
        escapes_per_1000=float(escapes[best]),
        false_rejects_per_1000=float(false_rejects[best]),
    )


def f1_threshold(scores: Scores, labels: Labels) -> float:
    """Give the threshold of the highest F1 on labelled pictures.

    Raises:
        UndefinedMetric, ShapeMismatch: as `engine.metrics.best_f1`.
    """
    return metrics.best_f1(scores, labels)[1]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What turns raw scores into decisions and maps into colours; always the same for one model."""

    scores: tuple[float, ...]  # of the calibration pictures, rising
    threshold: float  # reject above it
    threshold_method: ThresholdMethod = ThresholdMethod.FALSE_REJECT
    false_reject_rate: float | None = None  # guaranteed; None when the threshold was chosen otherwise
    map_low: float  # map value of the colour scale's start: the median normal pixel
    map_high: float  # of its end; `map_threshold` lies in the middle
    note: str | None = None  # what the user should know, in a sentence

    @property
    def n(self) -> int:
        """The number of calibration pictures."""
        return len(self.scores)

    @property
    def map_threshold(self) -> float:
        """The map value in the middle of the colour scale: how far normal maps reach at that rate."""
        return (self.map_low + self.map_high) / 2

    def rejects(self, score: float) -> bool:
        """Say whether a picture with this score is rejected."""
        return score > self.threshold

    def quantile(self, score: float) -> float:
        """Give the share of calibration pictures that score at most so high, 0 to 1."""
        return float(np.searchsorted(self.scores, score, side="right")) / self.n

    def with_threshold(self, threshold: float, method: ThresholdMethod) -> Self:
        """Give the same calibration with a threshold chosen otherwise; the colour scale stays."""
        return dataclasses.replace(
            self, threshold=threshold, threshold_method=method, false_reject_rate=None, note=None
        )

    def to_json(self) -> dict[str, Any]:
        """Give the fields as a dictionary of JSON values."""
        return {
            **dataclasses.asdict(self),
            "scores": list(self.scores),
            "threshold_method": str(self.threshold_method),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read back what `to_json` gave.

        Raises:
            BadCheckpoint: a key is missing, unknown or holds a value of another kind.
        """
        try:
            return cls(
                **{
                    **values,
                    "scores": tuple(float(score) for score in values["scores"]),
                    "threshold_method": ThresholdMethod(values["threshold_method"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadCheckpoint(
                f"The calibration can't be read ({error}). Calibrate the model anew."
            ) from error


def calibrate(scores: Scores, maps: Sequence[npt.NDArray[Any]], rate: float) -> Calibration:
    """Set the threshold and the colour scale on normal pictures never trained on.

    With too few pictures for the rate, the smallest rate that they guarantee is used, and `note` says so.

    Args:
        scores: (n,) of the calibration pictures.
        maps: their anomaly maps, (H, W) each.
        rate: wanted false-reject rate, above 0 and below 1.
    Raises:
        UndefinedMetric: no picture at all, or a score is not finite.
        InvalidRate: rate is out of range.
    """
    values = _finite(scores)
    if len(values) == 0 or len(maps) != len(values):
        raise UndefinedMetric(
            f"There are {len(values)} calibration scores and {len(maps)} maps; one map per score is needed, "
            "and at least one. Add normal images to the dataset."
        )
    note = None
    try:
        threshold = conformal_threshold(values, rate)
    except TooFewCalibrationImages as error:
        note = (
            f"A false-reject rate of at most {100 * rate:g} % needs {error.needed} calibration pictures; "
            f"with {error.had} the threshold guarantees {100 / (error.had + 1):.3g} %."
        )
        rate = 1 / (len(values) + 1)
        threshold = conformal_threshold(values, rate)
    # Medians per map first: exact over maps of one size, and no copy of all pixels in memory.
    low = float(np.median([np.median(values_of_map) for values_of_map in maps]))
    reach = conformal_threshold([float(values_of_map.max()) for values_of_map in maps], rate)
    return Calibration(
        scores=tuple(np.sort(values).tolist()),
        threshold=threshold,
        false_reject_rate=rate,
        map_low=low,
        # A flat map still needs a scale of some width.
        map_high=low + 2 * max(reach - low, 1e-6),
        note=note,
    )


def _finite(scores: Scores) -> npt.NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise UndefinedMetric(
            f"{int((~np.isfinite(values)).sum())} of {len(values)} scores are not finite. Train anew."
        )
    return values


def _require(holds: bool, name: str, value: float, rule: str) -> None:
    if not holds:
        raise InvalidRate(f"The {name} is {value}; it {rule}. Choose another.")
