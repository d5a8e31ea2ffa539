"""Where a model cuts between accept and reject: chosen on what was held back for that, never on the sealed test.

Nothing is trained anew for it, and the colour scale of the maps stays. Everything that decides asks `threshold_of`.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine import metrics
from engine.calibration import Calibration, conformal_threshold, cost_threshold, f1_threshold
from storage import datasets, operating_points
from storage.errors import TrackingError
from storage.records import ImageRecord, Model, OperatingPoint, Role, ThresholdSource, now
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning.errors import BadOperatingPoint
from tuning.map_cache import map_cache
from tuning.pictures import Picture, study_pictures

logger = logging.getLogger(__name__)

TAG = "operating_point"  # of a registered version in MLflow: the threshold that our server decides with
PARTS = 1000  # outcomes are told of so many


def point_of(workspace: Workspace, model: Model) -> OperatingPoint:
    """The operating point that a model decides with now."""
    with workspace.session() as session:
        return operating_points.current(session, model)


def threshold_of(workspace: Workspace, model: Model) -> float:
    """The threshold that a model decides with now: a picture with a higher score is rejected."""
    return point_of(workspace, model).threshold


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Pictures of one role with their scores under one model."""

    pictures: tuple[Picture, ...]
    scores: npt.NDArray[np.float64]  # (n,)
    synthetic: bool  # no picture of the role is labelled anomalous: defects were planted

    @property
    def anomalous(self) -> npt.NDArray[np.bool_]:
        """(n,) which of them should be rejected."""
        return np.array([picture.anomalous for picture in self.pictures], dtype=np.bool_)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a threshold of a model is chosen by, and what shows its consequences."""

    calibration: tuple[float, ...]  # scores of normal pictures that nothing was trained on, rising
    validation: Scores
    test: Scores  # never chosen by


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What a threshold does to labelled pictures."""

    normal: int
    false_rejects: int  # of the normal ones
    anomalous: int
    escapes: int  # of the anomalous ones
    synthetic: bool = False
    escapes_by_type: Mapping[str, int] = field(
        default_factory=dict
    )  # by defect type, those without any included

    def per_1000(self, defect_rate: float) -> tuple[float, float]:
        """Escapes and false rejects to expect of 1,000 parts, where so large a share of them has a defect.

        A kind of picture that there is none of counts 0.
        """
        escapes = PARTS * defect_rate * self.escapes / max(self.anomalous, 1)
        return escapes, PARTS * (1 - defect_rate) * self.false_rejects / max(self.normal, 1)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A threshold that could become the operating point, and what it was asked for."""

    threshold: float
    source: ThresholdSource
    parameters: Mapping[str, Any]
    about: str  # in a sentence: what it promises, or on what it is best


@dataclass(frozen=True, kw_only=True)
class Changed:
    """An operating point that was set."""

    point: OperatingPoint
    untagged: str | None  # why MLflow does not show it, where it could not be reached


def images_of(workspace: Workspace, model: Model) -> tuple[ImageRecord, ...]:
    """The pictures of the version that a model was made on, in their roles there, labelled as the dataset knows by now.

    What was taken out of the dataset since is left out.
    """
    with workspace.session() as session:
        images = datasets.list_images(session, model.dataset_version_id)
        latest = datasets.latest_version(session, model.dataset_name)
        if latest.id == model.dataset_version_id:
            return tuple(images)
        now_known = {image.pixel_digest: image for image in datasets.list_images(session, latest.id)}
    return tuple(
        replace(image, label=known.label, defect_type=known.defect_type, mask_digest=known.mask_digest)
        for image in images
        if (known := now_known.get(image.pixel_digest)) is not None
    )


def added_since(workspace: Workspace, model: Model) -> tuple[ImageRecord, ...]:
    """The pictures that the dataset got after the version that a model was made on."""
    with workspace.session() as session:
        latest = datasets.latest_version(session, model.dataset_name)
        if latest.id == model.dataset_version_id:
            return ()
        before = {image.pixel_digest for image in datasets.list_images(session, model.dataset_version_id)}
        images = datasets.list_images(session, latest.id)
    return tuple(image for image in images if image.pixel_digest not in before)


def evidence(
    workspace: Workspace, model: Model, *, progress: Callable[[int, int, str], None] | None = None
) -> Evidence:
    """Scores of a model's calibration, validation and test pictures; those that no cache holds are computed.

    Raises:
        DatasetTooSmall: corrections left a role without pictures.
    """
    images = images_of(workspace, model)
    # What was trained on or calibrated with and turned out anomalous is no evidence: the model has seen it.
    usable = [
        image
        for image in images
        if image.role in (Role.VALIDATION, Role.TEST) or image.label.value == "normal"
    ]
    pictures = study_pictures(usable)
    both = (*pictures.validation, *pictures.test)
    found = _scores(workspace, model, both, progress)
    split = len(pictures.validation)
    return Evidence(
        calibration=Calibration.from_json(model.figures["calibration"]).scores,
        validation=Scores(
            pictures=pictures.validation, scores=found[:split], synthetic=pictures.synthetic_validation
        ),
        test=Scores(pictures=pictures.test, scores=found[split:], synthetic=pictures.synthetic_test),
    )


def _scores(
    workspace: Workspace,
    model: Model,
    pictures: Sequence[Picture],
    progress: Callable[[int, int, str], None] | None,
) -> npt.NDArray[np.float64]:
    from tuning.predictor import detector

    cache = map_cache(workspace, model)
    scores = np.empty(len(pictures))
    for done, picture in enumerate(pictures):
        if progress is not None:
            progress(done, len(pictures), picture.image.name)
        score = cache.score(picture.key)
        if score is None:
            scored = detector(workspace, model).score([picture.read(workspace.blobs)[0]])[0]
            cache.put(picture.key, scored.score, scored.anomaly_map)
            score = scored.score
        scores[done] = score
    if progress is not None:
        progress(len(pictures), len(pictures), "done")
    return scores


def outcomes(scores: Scores, threshold: float) -> Outcomes:
    """Count what a threshold does to pictures."""
    anomalous, rejected = scores.anomalous, scores.scores > threshold
    return Outcomes(
        normal=int((~anomalous).sum()),
        false_rejects=int((rejected & ~anomalous).sum()),
        anomalous=int(anomalous.sum()),
        escapes=int((~rejected & anomalous).sum()),
        synthetic=scores.synthetic,
        escapes_by_type=_escapes_by_type(scores, rejected),
    )


def _escapes_by_type(scores: Scores, rejected: npt.NDArray[np.bool_]) -> dict[str, int]:
    found: dict[str, int] = {}
    for picture, caught in zip(scores.pictures, rejected.tolist(), strict=True):
        if picture.defect_type is not None:
            found[picture.defect_type] = found.get(picture.defect_type, 0) + (not caught)
    return found


def by_false_reject_rate(found: Evidence, rate: float) -> Proposal:
    """The threshold that rejects a new normal part with a probability of at most `rate`.

    Raises:
        TooFewCalibrationImages: there are too few calibration pictures to promise that.
        InvalidRate: the rate is not between 0 and 1.
    """
    threshold = conformal_threshold(np.array(found.calibration), rate)
    pictures = len(found.calibration)
    return Proposal(
        threshold=threshold,
        source=ThresholdSource.FALSE_REJECT,
        parameters={"rate": rate, "pictures": pictures},
        about=f"at most {100 * rate:g} % of normal parts are rejected, guaranteed by {pictures} calibration pictures",
    )


def by_costs(found: Evidence, *, escape: float, false_reject: float, defect_rate: float) -> Proposal:
    """The threshold of least expected cost on the validation pictures.

    Args:
        escape, false_reject: what one costs, in any unit.
        defect_rate: share of parts in production that have a defect, 0 to 1.
    Raises:
        InvalidRate: a cost is negative or the rate out of range.
        UndefinedMetric: the validation pictures are all of one kind.
    """
    labelled = found.validation
    best = cost_threshold(labelled.scores, labelled.anomalous, escape, false_reject, defect_rate)
    return Proposal(
        threshold=best.threshold,
        source=ThresholdSource.COST,
        parameters={"escape_cost": escape, "false_reject_cost": false_reject, "defect_rate": defect_rate},
        about=f"of {PARTS:,} parts {best.escapes_per_1000:.1f} escape and {best.false_rejects_per_1000:.1f} are "
        f"falsely rejected: least cost, {best.cost_per_1000:g}, on {_on(labelled)}",
    )


def by_f1(found: Evidence) -> Proposal:
    """The threshold of the highest F1 on the validation pictures.

    Raises:
        UndefinedMetric: they are all of one kind.
    """
    labelled = found.validation
    threshold = f1_threshold(labelled.scores, labelled.anomalous)
    f1 = metrics.f1_at(labelled.scores, labelled.anomalous, threshold)
    return Proposal(
        threshold=threshold,
        source=ThresholdSource.F1,
        parameters={},
        about=f"F1 {f1:.3f}, the highest on {_on(labelled)}",
    )


def by_value(threshold: float) -> Proposal:
    """A threshold that a person gives as a number.

    Raises:
        BadOperatingPoint: it is not finite.
    """
    if not math.isfinite(threshold):
        raise BadOperatingPoint(f"The threshold is {threshold}; it must be a finite number. Give one.")
    return Proposal(threshold=threshold, source=ThresholdSource.VALUE, parameters={}, about="chosen by hand")


def set_point(
    workspace: Workspace, model: Model, proposal: Proposal, *, found: Evidence | None, who: str, why: str
) -> Changed:
    """Make a proposal the model's operating point. What decides follows at its next picture.

    Args:
        found: evidence, whose outcomes are kept with the point.
        why: in words.
    Raises:
        BadOperatingPoint: no reason is given.
    """
    return _set(workspace, model, proposal, found=found, who=who, why=why, restores_id=None)


def restore_point(
    workspace: Workspace,
    model: Model,
    point_id: int | None,
    *,
    found: Evidence | None = None,
    who: str,
    why: str = "",
) -> Changed:
    """Go back to an earlier operating point; the history keeps both.

    Args:
        point_id: None for what the model was made with.
        why: in words; may stay empty.
    Raises:
        OperatingPointNotFound: the model has no such point.
    """
    if point_id is None:
        earlier = operating_points.own(model)
    else:
        with workspace.session() as session:
            earlier = operating_points.get(session, model.id, point_id)
    proposal = Proposal(
        threshold=earlier.threshold, source=earlier.source, parameters=earlier.parameters, about=""
    )
    back = f"back to that of {earlier.created_at:%Y-%m-%d %H:%M} UTC ({earlier.why})"
    return _set(workspace, model, proposal, found=found, who=who, why=why or back, restores_id=earlier.id)


def _set(
    workspace: Workspace,
    model: Model,
    proposal: Proposal,
    *,
    found: Evidence | None,
    who: str,
    why: str,
    restores_id: int | None,
) -> Changed:
    why = " ".join(why.split())
    if not why:
        raise BadOperatingPoint(
            "The reason is empty; an operating point is recorded with one. Write a few words."
        )
    figures = {}
    if found is not None:
        figures = {
            role: asdict(outcomes(scores, proposal.threshold))
            for role, scores in (("validation", found.validation), ("test", found.test))
            if scores.pictures
        }
    with workspace.session() as session:
        point = operating_points.add(
            session,
            model_id=model.id,
            threshold=proposal.threshold,
            source=proposal.source,
            parameters=proposal.parameters,
            figures=figures,
            restores_id=restores_id,
            who=who,
            why=why,
            now=now(),
        )
    logger.info("operating point set", extra={"dataset": model.dataset_name, "version": model.version})
    return Changed(point=point, untagged=_tag(workspace, model, point))


def _tag(workspace: Workspace, model: Model, point: OperatingPoint) -> str | None:
    """Show the point at the registered version; answers why that failed: it decides nothing, so it hinders nothing."""
    tags = {
        TAG: repr(point.threshold),
        f"{TAG}.source": point.source.value,
        f"{TAG}.who": point.who,
        f"{TAG}.why": point.why[:500],
        f"{TAG}.when": point.created_at.isoformat(timespec="seconds"),
    }
    try:
        Tracking(workspace.settings).tag_version(model.dataset_name, model.version, tags)
    except TrackingError as error:
        logger.warning("operating point not tagged", exc_info=True)
        return str(error)
    return None


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What every threshold would do to labelled pictures, from the one that accepts all to the one that rejects all."""

    thresholds: tuple[float, ...]  # falling
    false_reject_rate: tuple[float, ...]
    caught_rate: tuple[float, ...]  # share of the anomalous pictures that are rejected; recall
    precision: tuple[
        float, ...
    ]  # share of the rejected pictures that are anomalous; 1 where none is rejected


def curves(scores: Scores) -> Curves:
    """ROC and precision–recall of labelled pictures.

    Raises:
        UndefinedMetric: they are all of one kind.
    """
    values, anomalous = metrics.checked(scores.scores, scores.anomalous)
    distinct, caught, rejected = metrics.cuts(values, anomalous)
    caught, rejected = np.append(0, caught), np.append(0, rejected)
    positives = int(anomalous.sum())
    precision = np.divide(caught, rejected, out=np.ones(len(caught)), where=rejected > 0)
    return Curves(
        thresholds=(float(distinct[0]), *metrics.thresholds_below(distinct)),
        false_reject_rate=tuple(((rejected - caught) / (len(anomalous) - positives)).tolist()),
        caught_rate=tuple((caught / positives).tolist()),
        precision=tuple(precision.tolist()),
    )


def _on(scores: Scores) -> str:
    planted = " (synthetic defects)" if scores.synthetic else ""
    return f"{len(scores.pictures)} validation pictures{planted}"
