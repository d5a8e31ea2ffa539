"""Two models on the same sealed pictures: how much better one is, how sure that is, and where they disagree."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import metrics
from engine.scoring import Detector
from storage import datasets
from storage.records import Model, Role
from storage.workspace import Workspace
from tuning.errors import NothingToCompare
from tuning.map_cache import MapCache, map_cache
from tuning.operating_points import threshold_of
from tuning.pictures import Picture, study_pictures
from tuning.predictor import decision, detector


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A picture under both models."""

    picture: Picture
    score: float
    decision: str  # accept or reject, by the model's own threshold
    other_score: float
    other_decision: str


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """A paired bootstrap of the image AUROC, and every picture that went into it."""

    against_version: int
    difference: float  # of the image AUROC; above 0 where the model is better than the other
    low: float  # 95 % interval
    high: float
    pictures: tuple[Compared, ...]

    @property
    def disagreements(self) -> list[Compared]:
        """The pictures that one accepts and the other rejects."""
        return [one for one in self.pictures if one.decision != one.other_decision]

    def to_json(self) -> dict[str, Any]:
        """What is recorded of it."""
        return {
            "against_version": self.against_version,
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "pictures": len(self.pictures),
            "disagreements": len(self.disagreements),
        }


def compare_models(
    workspace: Workspace,
    model: Model,
    other: Model,
    *,
    on_picture: Callable[[int, int], None] = lambda *_: None,
) -> ModelComparison:
    """Compare two models of a dataset on the test pictures that both were judged by.

    Scores that are not cached are computed. Of two dataset versions only those pictures count that are sealed in
    both: a picture that one of the models was chosen or trained on would flatter it.

    Args:
        on_picture: called with (done, total) scores; may raise to stop.
    Raises:
        NothingToCompare: there are no such pictures, or they are all normal or all anomalous.
    """
    pictures = _common(workspace, model, other)
    total = 2 * len(pictures)
    ours = scores_of(workspace, pictures, model, on_picture=lambda done: on_picture(done, total))
    theirs = scores_of(
        workspace, pictures, other, on_picture=lambda done: on_picture(len(pictures) + done, total)
    )
    found = paired(ours, theirs, [picture.anomalous for picture in pictures])
    thresholds = threshold_of(workspace, model), threshold_of(workspace, other)
    return ModelComparison(
        against_version=other.version,
        **found,
        pictures=tuple(
            Compared(
                picture=picture,
                score=float(score),
                decision=decision(score, thresholds[0]),
                other_score=float(other_score),
                other_decision=decision(other_score, thresholds[1]),
            )
            for picture, score, other_score in zip(pictures, ours, theirs, strict=True)
        ),
    )


def paired(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], anomalous: Sequence[bool]
) -> dict[str, float]:
    """The difference of two image AUROCs on the same pictures, with its 95 % interval."""
    difference = metrics.paired_bootstrap(metrics.image_auroc, ours, theirs, np.array(anomalous))
    return {"difference": difference.difference, "low": difference.low, "high": difference.high}


def scores_of(
    workspace: Workspace,
    pictures: Sequence[Picture],
    model: Model,
    *,
    on_picture: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float64]:
    """Scores of pictures under a registered model, which is loaded where its cache lacks one."""
    return cached_scores(
        workspace,
        pictures,
        map_cache(workspace, model),
        lambda: detector(workspace, model),
        on_picture=on_picture,
    )


def cached_scores(
    workspace: Workspace,
    pictures: Sequence[Picture],
    cache: MapCache,
    load: Callable[[], Detector],
    *,
    on_picture: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float64]:
    """Scores of pictures, computed with what `load` gives where the cache lacks them."""
    scores = []
    for done, picture in enumerate(pictures, start=1):
        score = cache.score(picture.key)
        if score is None:
            scored = load().score([picture.read(workspace.blobs)[0]])[0]
            cache.put(picture.key, scored.score, scored.anomaly_map)
            score = scored.score
        scores.append(score)
        on_picture(done)
    return np.array(scores)


def _common(workspace: Workspace, model: Model, other: Model) -> list[Picture]:
    with workspace.session() as session:
        images = datasets.list_images(session, model.dataset_version_id)
        sealed = {
            image.pixel_digest: image.label
            for image in datasets.list_images(session, other.dataset_version_id, role=Role.TEST)
        }
    pictures = [
        picture
        for picture in study_pictures(images).test
        if sealed.get(picture.image.pixel_digest) is picture.image.label
    ]
    anomalous = sum(picture.anomalous for picture in pictures)
    if anomalous in (0, len(pictures)):
        raise NothingToCompare(
            f"Versions {model.version} and {other.version} have {len(pictures)} sealed test pictures in common, "
            f"{anomalous} of them anomalous; a comparison needs normal and anomalous ones. Run a study of the "
            "dataset's latest version and compare its model."
        )
    return pictures


def promotion_figures(
    model: Model, replaced: Model | None, comparison: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What the record of a promotion keeps of the figures: both models' own, and the comparison."""

    def short(of: Model) -> dict[str, Any]:
        test = of.figures.get("test") or {}
        keys = ("image_auroc", "image_auroc_low", "image_auroc_high", "false_rejects", "escapes", "images")
        return {
            "version": of.version,
            "test": {key: test[key] for key in keys if key in test} or None,
            "objective": of.figures.get("objective"),
            "objective_value": of.figures.get("objective_value"),
            "optimism_gap": of.figures.get("optimism_gap"),
        }

    return {
        "promoted": short(model),
        "replaced": None if replaced is None else short(replaced),
        "comparison": None if comparison is None else dict(comparison),
    }
