"""The scored pictures of a model as the heatmap page sorts and filters them; no maps are read for that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from dashboard.scales import scale_of
from storage.records import ImageRecord, Label, Model
from storage.workspace import Workspace
from tuning.map_cache import MapCache


class Outcome(StrEnum):
    """What a decision means, given the label."""

    ACCEPTED = "accepted"  # a normal part accepted
    CAUGHT = "caught"  # a defect rejected
    FALSE_REJECT = "false reject"  # a normal part rejected
    ESCAPE = "escape"  # a defect accepted


@dataclass(frozen=True, kw_only=True)
class ScoredPicture:
    """A picture with its score under one model."""

    image: ImageRecord
    score: float
    decision: str  # accept, reject
    outcome: Outcome

    @property
    def wrong(self) -> str | None:
        """'false reject' or 'escape'; None where the decision is right."""
        return self.outcome.value if self.outcome in (Outcome.FALSE_REJECT, Outcome.ESCAPE) else None


class Show(StrEnum):
    """Which pictures to show."""

    ALL = "all"
    REJECTS = "rejects"
    ACCEPTS = "accepts"
    FALSE_REJECTS = "false rejects"
    ESCAPES = "escapes"


class Order(StrEnum):
    """In which order to show them."""

    HIGHEST = "highest score first"
    LOWEST = "lowest score first"
    NEAREST = "nearest to the threshold"
    NAME = "name"


_SHOWN: dict[Show, Callable[[ScoredPicture], bool]] = {
    Show.ALL: lambda _: True,
    Show.REJECTS: lambda picture: picture.decision == "reject",
    Show.ACCEPTS: lambda picture: picture.decision == "accept",
    Show.FALSE_REJECTS: lambda picture: picture.outcome is Outcome.FALSE_REJECT,
    Show.ESCAPES: lambda picture: picture.outcome is Outcome.ESCAPE,
}


def map_cache(workspace: Workspace, model: Model) -> MapCache:
    """Where the scores and maps of a model lie."""
    return MapCache(workspace.settings.maps_folder / model.dataset_name / str(model.version))


def scored_pictures(
    workspace: Workspace, model: Model, images: Sequence[ImageRecord]
) -> tuple[list[ScoredPicture], list[ImageRecord]]:
    """The images with their scores, and those that have none yet."""
    threshold = scale_of(model).threshold
    cache = map_cache(workspace, model)
    scored: list[ScoredPicture] = []
    missing: list[ImageRecord] = []
    for image in images:
        score = cache.score(image.pixel_digest)
        if score is None:
            missing.append(image)
        else:
            scored.append(scored_picture(image, score, threshold))
    return scored, missing


def anomaly_map(workspace: Workspace, model: Model, image: ImageRecord) -> NDArray[np.float32]:
    """The anomaly map of an image: (H, W) in its own pixels; computed again where the cached one was deleted."""
    kept = map_cache(workspace, model).get(image.pixel_digest)
    if kept is not None:
        return kept[1]
    from tuning.predictor import score_images

    return next(iter(score_images(workspace, model, [image]))).anomaly_map


def scored_picture(image: ImageRecord, score: float, threshold: float) -> ScoredPicture:
    """Decide on one picture: a score above the threshold is rejected."""
    rejected = score > threshold
    if image.label is Label.NORMAL:
        outcome = Outcome.FALSE_REJECT if rejected else Outcome.ACCEPTED
    else:
        outcome = Outcome.CAUGHT if rejected else Outcome.ESCAPE
    return ScoredPicture(
        image=image, score=score, decision="reject" if rejected else "accept", outcome=outcome
    )


def chosen(
    pictures: Sequence[ScoredPicture], show: Show, order: Order, *, defect_type: str | None, threshold: float
) -> list[ScoredPicture]:
    """Filter and sort; `defect_type` None keeps all."""
    kept = [
        picture
        for picture in pictures
        if _SHOWN[show](picture) and defect_type in (None, picture.image.defect_type)
    ]
    keys: dict[Order, Callable[[ScoredPicture], object]] = {
        Order.HIGHEST: lambda picture: (-picture.score, picture.image.name),
        Order.LOWEST: lambda picture: (picture.score, picture.image.name),
        Order.NEAREST: lambda picture: (abs(picture.score - threshold), picture.image.name),
        Order.NAME: lambda picture: picture.image.name,
    }
    return sorted(kept, key=keys[order])  # type: ignore[arg-type]
