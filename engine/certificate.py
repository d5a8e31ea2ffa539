"""What an exported model is worth beside its original: measured on pictures, not hoped for."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from engine.exported import Scorer, processor
from engine.images import RGB
from engine.scoring import Detector

_AWAY = 1e-4  # of the spread of the original's scores
NAMED = 20  # flipped pictures that a certificate names
TOLERANCE = 0.01  # of the spread of the original's scores: what differs more is not the same model


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """How an export compares with its original on the same pictures and the same machine."""

    pictures: int
    largest_score_difference: float
    largest_map_difference: float
    score_spread: float  # between the lowest and the highest score of the original
    threshold: float  # of the original
    threshold_inside: (
        float  # of the export: as near to the original's as lies between what that accepts and rejects
    )
    flipped: int  # decisions that differ
    flipped_pictures: tuple[str, ...]  # names of the first of them
    original_p50_ms: float  # of a decoded picture, score and map
    original_p95_ms: float
    export_p50_ms: float
    export_p95_ms: float
    machine: str

    @property
    def granted(self) -> bool:
        """Whether the export may be given out: it decides every picture as the original does."""
        return self.pictures > 0 and self._close and self.flipped == 0

    @property
    def _close(self) -> bool:
        return self.largest_score_difference <= TOLERANCE * self.score_spread

    @property
    def reason(self) -> str | None:
        """Why it is not granted, and what to do; None where it is."""
        if self.granted:
            return None
        if self.pictures == 0:
            return "There is no picture to compare on. Add pictures to the dataset, then export again."
        if not self._close:
            return (
                f"Scores of the export differ from the original's by up to {self.largest_score_difference:.2g}; only "
                f"{TOLERANCE * self.score_spread:.2g}, {100 * TOLERANCE:g} % of their spread, passes for rounding. Use "
                "the safetensors export."
            )
        named = ", ".join(f"'{name}'" for name in self.flipped_pictures[:3])
        more = f" and {self.flipped - 3} more" if self.flipped > 3 else ""
        return (
            f"The export decides {self.flipped} of {self.pictures} pictures otherwise than the original "
            f"({named}{more}; scores differ by up to {self.largest_score_difference:.2g}); none may differ. Use the "
            "safetensors export, or choose another threshold and export again."
        )

    def to_json(self) -> dict[str, Any]:
        """Give the fields as a dictionary of JSON values."""
        return {**dataclasses.asdict(self), "flipped_pictures": list(self.flipped_pictures)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read back what `to_json` gave."""
        return cls(**{**values, "flipped_pictures": tuple(values["flipped_pictures"])})


@dataclass(kw_only=True)
class Comparison:
    """The scores of both on every picture, gathered one by one."""

    names: list[str] = field(default_factory=list)
    original_scores: list[float] = field(default_factory=list)
    export_scores: list[float] = field(default_factory=list)
    original_ms: list[float] = field(default_factory=list)
    export_ms: list[float] = field(default_factory=list)
    largest_map_difference: float = 0.0

    @property
    def largest_score_difference(self) -> float:
        """Of all pictures; infinite where a score is not finite."""
        pairs = np.abs(np.subtract(self.original_scores, self.export_scores))
        if not np.isfinite(pairs).all():
            return float("inf")
        return float(pairs.max(initial=0.0))

    def threshold_between(self, threshold: float) -> float:
        """The export's threshold nearest to the original's under which no decision flips; where none is, that itself.

        It keeps away from both neighbours, by half of the gap or `_AWAY` of the spread, for digits that another machine
        rounds otherwise.
        """
        ours, theirs = np.asarray(self.original_scores), np.asarray(self.export_scores)
        rejected = ours > threshold
        below = float(theirs[~rejected].max(initial=-np.inf))
        above = float(theirs[rejected].min(initial=np.inf))
        if not below < above or not len(ours):
            return threshold
        away = min((above - below) / 2, _AWAY * float(np.ptp(ours)))
        return float(np.clip(threshold, below + away, above - away))

    def near(self, threshold: float, count: int) -> list[int]:
        """The places of the pictures whose original scores are nearest to the threshold."""
        order = np.argsort(np.abs(np.asarray(self.original_scores) - threshold), kind="stable")
        return [int(place) for place in order[:count]]


def compare(
    original: Detector,
    export: Scorer,
    pictures: Iterable[tuple[str, Callable[[], RGB]]],
    *,
    on_picture: Callable[[int], None],
) -> Comparison:
    """Score all pictures with both, one after the other, and take the time of each.

    Args:
        pictures: name, and what decodes it.
        on_picture: called with the number of pictures that are done; may raise to stop.
    """
    found = Comparison()
    for name, read in pictures:
        image = read()
        if not found.names:  # the first call of each sets things up
            original.score([image])
            export(image)
        started = time.perf_counter()
        ours = original.score([image])[0]
        between = time.perf_counter()
        theirs = export(image)
        ended = time.perf_counter()
        found.names.append(name)
        found.original_scores.append(ours.score)
        found.export_scores.append(theirs.score)
        found.original_ms.append(1000 * (between - started))
        found.export_ms.append(1000 * (ended - between))
        difference = float(np.abs(ours.anomaly_map - theirs.anomaly_map).max())
        found.largest_map_difference = max(found.largest_map_difference, difference)
        on_picture(len(found.names))
    return found


def certificate(found: Comparison, *, threshold: float, threshold_inside: float) -> Certificate:
    """What the comparison comes to, with a threshold for each of the two."""
    ours = np.asarray(found.original_scores) > threshold
    theirs = np.asarray(found.export_scores) > threshold_inside
    flipped = np.flatnonzero(ours != theirs)
    original_p50, original_p95 = _quantiles(found.original_ms)
    export_p50, export_p95 = _quantiles(found.export_ms)
    return Certificate(
        pictures=len(found.names),
        largest_score_difference=found.largest_score_difference,
        largest_map_difference=found.largest_map_difference,
        score_spread=float(np.ptp(found.original_scores)) if found.names else 0.0,
        threshold=threshold,
        threshold_inside=threshold_inside,
        flipped=len(flipped),
        flipped_pictures=tuple(found.names[place] for place in flipped[:NAMED]),
        original_p50_ms=original_p50,
        original_p95_ms=original_p95,
        export_p50_ms=export_p50,
        export_p95_ms=export_p95,
        machine=processor(),
    )


def _quantiles(milliseconds: list[float]) -> tuple[float, float]:
    if not milliseconds:
        return 0.0, 0.0
    p50, p95 = np.quantile(milliseconds, [0.5, 0.95])
    return float(p50), float(p95)
