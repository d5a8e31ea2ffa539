"""Scored pictures as the heatmap page sorts and filters them, wherever they come from; no maps are read for that."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from dashboard.scales import scale_of
from storage.records import Label, Model, Role

NEAR = 0.25  # spreads: how far from the threshold a score counts as near it


class Picture(Protocol):
    """A picture of a dataset (an `ImageRecord`), or one that was uploaded to be scored and has no label yet."""

    @property
    def id(self) -> int | str:
        """What addresses of pages call it."""
        ...

    @property
    def digest(self) -> str:
        """Key of its blob."""
        ...

    @property
    def pixel_digest(self) -> str:
        """Key of its score and map."""
        ...

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def height(self) -> int:
        """Pixels."""
        ...

    @property
    def width(self) -> int:
        """Pixels."""
        ...

    @property
    def role(self) -> Role | None:
        """What the dataset uses it for; None for an uploaded one."""
        ...

    @property
    def label(self) -> Label | None:
        """Whether the part is as it should be; None where nobody has said so."""
        ...

    @property
    def defect_type(self) -> str | None:
        """Its kind of defect, where known."""
        ...

    @property
    def mask_digest(self) -> str | None:
        """Key of its ground truth, where there is one."""
        ...


class Outcome(StrEnum):
    """What a decision means, given the label."""

    ACCEPTED = "accepted"  # a normal part accepted
    CAUGHT = "caught"  # a defect rejected
    FALSE_REJECT = "false reject"  # a normal part rejected
    ESCAPE = "escape"  # a defect accepted


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model with what turns its scores into decisions, and into distances that compare with those of other models."""

    model: Model
    threshold: float
    spread: (
        float  # from the median calibration picture to the threshold that the model was made with; above 0
    )

    def distance(self, score: float) -> float:
        """How far above the threshold a score is, in spreads; negative below."""
        return (score - self.threshold) / self.spread


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one model says of a picture."""

    score: float
    decision: str  # accept, reject
    distance: float  # from the threshold, in spreads


@dataclass(frozen=True, kw_only=True)
class ScoredPicture:
    """A picture with its score under one model, and what other models say of it."""

    image: Picture
    score: float
    decision: str  # accept, reject
    outcome: Outcome | None  # None where the picture has no label
    distance: float  # of the score from the threshold, in spreads
    others: tuple[Verdict, ...] = ()

    @property
    def wrong(self) -> str | None:
        """'false reject' or 'escape'; None where the decision is right or nobody knows."""
        return self.outcome.value if self.outcome in (Outcome.FALSE_REJECT, Outcome.ESCAPE) else None

    @property
    def against_label(self) -> float:
        """How far the score is on the wrong side of the threshold, in spreads; negative on the right one."""
        if self.image.label is None:
            return -abs(self.distance)
        return self.distance if self.image.label is Label.NORMAL else -self.distance

    @property
    def disagreement(self) -> tuple[bool, float]:
        """Whether models decide differently, and how far their distances from their thresholds lie apart."""
        decisions = {self.decision, *(other.decision for other in self.others)}
        distances = [self.distance, *(other.distance for other in self.others)]
        return len(decisions) > 1, max(distances) - min(distances)

    @property
    def usefulness(self) -> float:
        """How much is learnt by looking at it, 0 to 3: near the threshold + against its label + models disagree.

        The first falls from 1 at the threshold to 0 one spread away; the second is 1 or 0; the third is the share of
        the other models that decide differently.
        """
        near = max(0.0, 1.0 - abs(self.distance))
        wrong = 1.0 if self.wrong else 0.0
        differing = sum(other.decision != self.decision for other in self.others)
        return near + wrong + (differing / len(self.others) if self.others else 0.0)


class Show(StrEnum):
    """Which pictures to show."""

    ALL = "all"
    REJECTS = "rejects"
    ACCEPTS = "accepts"
    FALSE_REJECTS = "false rejects"
    ESCAPES = "escapes"
    CAUGHT = "caught"
    PASSED = "passed"
    NEAR = "near the threshold"


class Order(StrEnum):
    """In which order to show them."""

    HIGHEST = "highest score first"
    LOWEST = "lowest score first"
    NEAREST = "nearest to the threshold"
    AGAINST_LABEL = "most against their label"
    USEFUL = "most useful to review"
    DISAGREEMENT = "models disagree most"
    NAME = "name"


_SHOWN: dict[Show, Callable[[ScoredPicture], bool]] = {
    Show.ALL: lambda _: True,
    Show.REJECTS: lambda picture: picture.decision == "reject",
    Show.ACCEPTS: lambda picture: picture.decision == "accept",
    Show.FALSE_REJECTS: lambda picture: picture.outcome is Outcome.FALSE_REJECT,
    Show.ESCAPES: lambda picture: picture.outcome is Outcome.ESCAPE,
    Show.CAUGHT: lambda picture: picture.outcome is Outcome.CAUGHT,
    Show.PASSED: lambda picture: picture.outcome is Outcome.ACCEPTED,
    Show.NEAR: lambda picture: abs(picture.distance) <= NEAR,
}
OF_LABELLED = (
    Show.FALSE_REJECTS,
    Show.ESCAPES,
    Show.CAUGHT,
    Show.PASSED,
)  # nothing where no picture has a label
OF_OUTCOME = {
    Outcome.ACCEPTED: Show.PASSED,
    Outcome.CAUGHT: Show.CAUGHT,
    Outcome.FALSE_REJECT: Show.FALSE_REJECTS,
    Outcome.ESCAPE: Show.ESCAPES,
}


def judge(model: Model, threshold: float) -> Judge:
    """A model that decides by this threshold."""
    calibration = scale_of(model)
    # Of what the model was made with: another operating point must not change what "far" means.
    spread = calibration.threshold - float(np.median(calibration.scores))
    return Judge(model=model, threshold=threshold, spread=max(spread, 1e-9))


def verdict(by: Judge, score: float) -> Verdict:
    """Decide: a score above the threshold is rejected."""
    return Verdict(
        score=score,
        decision="reject" if score > by.threshold else "accept",
        distance=by.distance(score),
    )


def scored_picture(
    image: Picture, score: float, by: Judge, others: Sequence[tuple[Judge, float]] = ()
) -> ScoredPicture:
    """Decide on one picture.

    Args:
        others: further models with their scores of it.
    """
    own = verdict(by, score)
    rejected = own.decision == "reject"
    outcome = None
    if image.label is Label.NORMAL:
        outcome = Outcome.FALSE_REJECT if rejected else Outcome.ACCEPTED
    elif image.label is Label.ANOMALOUS:
        outcome = Outcome.CAUGHT if rejected else Outcome.ESCAPE
    return ScoredPicture(
        image=image,
        score=score,
        decision=own.decision,
        outcome=outcome,
        distance=own.distance,
        others=tuple(verdict(other, of) for other, of in others),
    )


def scored_pictures(
    images: Sequence[Picture],
    by: Judge,
    scores: Mapping[str, float],
    others: Sequence[tuple[Judge, Mapping[str, float]]] = (),
) -> list[ScoredPicture]:
    """Decide on pictures; those that one of the models has no score of are left out.

    Args:
        scores: of `by`, by pixel digest.
        others: further models with theirs.
    """
    found = []
    for image in images:
        digest = image.pixel_digest
        if digest not in scores or any(digest not in of for _, of in others):
            continue
        beside = [(other, of[digest]) for other, of in others]
        found.append(scored_picture(image, scores[digest], by, beside))
    return found


def chosen(
    pictures: Sequence[ScoredPicture],
    show: Show,
    order: Order,
    *,
    defect_type: str | None = None,
    reviewed: Collection[str] = (),
) -> list[ScoredPicture]:
    """Filter and sort.

    Args:
        defect_type: None keeps all.
        reviewed: pixel digests of what somebody has said something of; it comes last where the order is for review.
    """
    kept = [
        picture
        for picture in pictures
        if _SHOWN[show](picture) and defect_type in (None, picture.image.defect_type)
    ]
    keys: dict[Order, Callable[[ScoredPicture], tuple[float | str, ...]]] = {
        Order.HIGHEST: lambda picture: (-picture.score,),
        Order.LOWEST: lambda picture: (picture.score,),
        Order.NEAREST: lambda picture: (abs(picture.distance),),
        Order.AGAINST_LABEL: lambda picture: (-picture.against_label,),
        Order.USEFUL: lambda picture: (picture.image.pixel_digest in reviewed, -picture.usefulness),
        Order.DISAGREEMENT: lambda picture: (-picture.disagreement[0], -picture.disagreement[1]),
        Order.NAME: lambda picture: (picture.image.name,),
    }
    key = keys[order]
    return sorted(kept, key=lambda picture: (*key(picture), picture.image.name))
