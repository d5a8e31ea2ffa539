"""From a study's best trial to a champion: sealed test read once, registered in MLflow, promoted or kept waiting."""

import contextlib
import getpass
import logging
import shutil
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from engine import checkpoint
from engine.calibration import Calibration, calibrate
from engine.config import SimpleNetConfig
from engine.exported import processor
from engine.features import FeatureExtractor
from engine.geometry import in_view
from engine.scoring import Detector
from storage import models, policies
from storage.errors import ChampionChanged
from storage.records import Model, ModelState, Promotion, PromotionRule, now
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning import heads
from tuning.comparison import cached_scores, compare_models, paired, promotion_figures, scores_of
from tuning.context import CandidateContext
from tuning.errors import TuningError
from tuning.figures import Figures, figures
from tuning.map_cache import MapCache, map_folder
from tuning.packaging import served_model
from tuning.pictures import Picture
from tuning.trial import TrialData, run_trial

logger = logging.getLogger(__name__)


def make_candidate(context: CandidateContext, data: TrialData, best: FrozenTrial) -> Model:
    """Judge the best trial on the sealed test, register it, and promote it if the policy says so.

    Every step can be repeated after a crash: the sealed test is not read again for the same trial, and a model that is
    registered is not registered again.
    """
    model = register_candidate(context, data, best)
    # The study ends: what else lies here of its trials lies in their runs as well.
    shutil.rmtree(heads.study_folder(context.workspace, context.lease.study.id), ignore_errors=True)
    _promote_by_policy(context, model)
    return model


def register_candidate(context: CandidateContext, data: TrialData, trial: FrozenTrial) -> Model:
    """Judge a completed trial on the sealed test and register it; the model that it became before, where it did."""
    study = context.lease.study
    with context.workspace.session() as session:
        known = models.list_models(session, study.dataset_name)
    made = [model for model in known if model.study_id == study.id and model.trial_number == trial.number]
    return made[0] if made else _register(context, data, trial)


def _promote_by_policy(context: CandidateContext, model: Model) -> None:
    """Promote the model where the dataset's policy lets a study do so and the rule holds.

    Whoever becomes champion meanwhile is compared with, too: nobody is replaced unseen.
    """
    workspace, dataset_name = context.workspace, model.dataset_name
    while True:
        with workspace.session() as session:
            rule = policies.promotion_policy(session, dataset_name).rule
            reigning = models.champion(session, dataset_name)
            served_before = bool(models.list_promotions(session, dataset_name))
        if rule is PromotionRule.MANUAL:
            return
        if reigning is not None and reigning.id == model.id:  # a crash came between the record and the alias
            settle_alias(workspace, context.tracking, dataset_name)
            return
        comparison = _comparison_with(context, model, reigning)
        reason = _why_promote(model, reigning, comparison)
        if reigning is None and served_before:
            reason = "the dataset had no champion"
        if reason is None:
            return
        try:
            with workspace.session() as session:
                context.lease.fence(session)
                models.promote_instead_of(
                    session,
                    model_id=model.id,
                    reigning_id=None if reigning is None else reigning.id,
                    who="study policy",
                    why=reason,
                    figures=promotion_figures(model, reigning, comparison),
                    now=now(),
                )
        except ChampionChanged:
            logger.info("another champion meanwhile; comparing again", extra={"dataset": dataset_name})
            continue
        settle_alias(workspace, context.tracking, dataset_name)
        logger.info("champion promoted", extra={"dataset": dataset_name, "version": model.version})
        return


def promote_model(
    workspace: Workspace, tracking: Tracking, model: Model, *, who: str, why: str
) -> Promotion | None:
    """Make a model its dataset's champion. The alias moves last: a crash before leaves the old champion serving.

    Returns:
        The record of the promotion; None if it was the champion already (its alias is then only set again).
    """
    promotion = None
    with workspace.session() as session:
        if models.get_model(session, model.id).state is not ModelState.CHAMPION:
            reigning = models.champion(session, model.dataset_name)
            told = model.figures.get("comparison") or {}
            against = told.get("against_version")
            comparison = told if reigning is not None and reigning.version == against else None
            promotion = models.promote(
                session,
                model_id=model.id,
                who=who,
                why=why,
                figures=promotion_figures(model, reigning, comparison),
                now=now(),
            )
    settle_alias(workspace, tracking, model.dataset_name)
    logger.info("champion promoted", extra={"dataset": model.dataset_name, "version": model.version})
    return promotion


def settle_alias(workspace: Workspace, tracking: Tracking, dataset_name: str) -> None:
    """Point MLflow's alias at the champion on record.

    Two that promote at once may set it in either order; each looks again after it did, so that the record wins.
    """
    champion = _champion(workspace, dataset_name)
    while champion is not None:
        tracking.set_champion(dataset_name, champion.version)
        by_now = _champion(workspace, dataset_name)
        if by_now is None:
            tracking.clear_champion(dataset_name, champion.version)
        elif by_now.id == champion.id:
            return
        champion = by_now


def settle_aliases(workspace: Workspace, tracking: Tracking) -> None:
    """Finish what crashes left between the record of a promotion and MLflow's alias, of every dataset."""
    with workspace.session() as session:
        champions = [model for model in models.list_models(session) if model.state is ModelState.CHAMPION]
    for model in champions:
        if tracking.champion_version(model.dataset_name) != model.version:
            settle_alias(workspace, tracking, model.dataset_name)


def current_user() -> str:
    """Name of the person at the command line, for the records."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def _register(context: CandidateContext, data: TrialData, best: FrozenTrial) -> Model:
    workspace, study = context.workspace, context.lease.study
    run_id = str(best.user_attrs["run_id"])
    detector = _detector(context, data, best)
    cache = MapCache(workspace.maps_folder / f"study-{study.id}-trial-{best.number}")
    test = _sealed_test(context, detector, best, run_id, cache)
    # Judged anew: the trial's own figures are those of the study's precision and of its own threshold.
    milliseconds: list[float] = []
    validation = evaluate(
        context, detector, context.pictures.validation, cache, milliseconds=milliseconds
    ).to_json()
    found: dict[str, Any] = {
        "objective": context.spec.objective.formula,
        "objective_value": best.value,
        "validation": validation,
        "test": test,
        "optimism_gap": validation["image_auroc"] - test["image_auroc"] if test else None,
        "calibration": calibration_of(detector).to_json(),
        "latency": _latency(milliseconds, context.extractor.device),
        "backbone": {
            "name": context.extractor.backbone.name,
            "origin": context.extractor.backbone.origin,
            "digest": context.extractor.weights_digest,
            "licence": context.extractor.backbone.licence,
            "stronger": context.extractor.backbone.stronger,
        },
        "comparison": _compare(context, detector, cache),
    }
    context.lease.report({"message": "registering the model in MLflow"}, at_once=True)
    # One folder per trial: a person may ask for several candidates of a study at once.
    folder = heads.study_folder(workspace, study.id) / f"candidate-{best.number}" / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint.save(folder, detector)
    if test:
        metrics_of_test = {key: value for key, value in test.items() if _is_number(value)}
        context.tracking.log_metrics(run_id, {f"test.{key}": value for key, value in metrics_of_test.items()})
        context.tracking.log_dict(run_id, test, "test.json")
    version = context.tracking.registered_version(study.dataset_name, run_id)
    if version is None:
        uri = context.tracking.log_model(
            run_id, served_model(folder, dataset=study.dataset_name, figures=found)
        )
        tags = {"study": str(study.id), "trial": str(best.number + 1)}
        version = context.tracking.register(study.dataset_name, uri, run_id, tags)
    cache.rename(map_folder(workspace, study.dataset_name, version))
    with workspace.session() as session:
        context.lease.fence(session)
        model = models.create_model(
            session,
            dataset_version_id=context.version.id,
            study_id=study.id,
            trial_number=best.number,
            run_id=run_id,
            version=version,
            config=detector.config.to_json(),
            figures=found,
            now=now(),
        )
    shutil.rmtree(folder.parent)  # the head lives on in the registered model
    with contextlib.suppress(OSError):  # another candidate of the study may still need it
        folder.parent.parent.rmdir()
    return model


def _detector(context: CandidateContext, data: TrialData, best: FrozenTrial) -> Detector:
    """The best trial's model: its kept head, or trained again where that is gone (same seed, same weights).

    It runs in float32 whatever the study ran in, and is calibrated anew as it will serve: a score must not depend on
    whether the next machine's processor has bfloat16.
    """
    config = SimpleNetConfig.from_json(best.user_attrs["config"])
    folder = heads.find(
        context.workspace,
        context.tracking,
        study_id=context.lease.study.id,
        number=best.number,
        run_id=best.user_attrs.get("run_id"),
    )
    if folder is not None:
        head, _ = checkpoint.load_head(folder)
    else:
        head = run_trial(data, config, on_epoch=lambda *_: context.lease.check()).head
    extractor = FeatureExtractor(
        context.extractor.backbone, config.layers, context.extractor.device, torch.float32
    )
    detector = Detector(extractor, head.to(context.extractor.device), config, None)
    # One by one, here and in `evaluate`, as the served model scores: a convolution's last digits depend on how many
    # pictures share its call.
    scored = [
        detector.score([picture.read(context.workspace.blobs)[0]])[0]
        for picture in context.pictures.calibration
    ]
    calibration = calibrate(
        np.array([one.score for one in scored]),
        [in_view(one.anomaly_map, (config.height, config.width), config.resize) for one in scored],
        context.spec.false_reject_rate,
    )
    return Detector(extractor, head, config, calibration)


def _sealed_test(
    context: CandidateContext, detector: Detector, best: FrozenTrial, run_id: str, cache: MapCache
) -> dict[str, Any] | None:
    """Read the sealed test once and record it; after a crash the recorded figures are used, not read again."""
    workspace, study = context.workspace, context.lease.study
    pictures = context.pictures.test
    if not any(picture.anomalous for picture in pictures):
        return None  # no test pictures at all: nothing to read
    with workspace.session() as session:
        readings = models.list_test_readings(session, study_id=study.id)
    for reading in readings:
        if reading.trial_number == best.number:
            return dict(reading.figures)
    found = evaluate(context, detector, pictures, cache).to_json()
    with workspace.session() as session:
        context.lease.fence(session)
        models.record_test_reading(
            session,
            dataset_version_id=context.version.id,
            study_id=study.id,
            trial_number=best.number,
            run_id=run_id,
            figures=found,
            now=now(),
        )
    return found


def evaluate(
    context: CandidateContext,
    detector: Detector,
    pictures: tuple[Picture, ...],
    cache: MapCache,
    *,
    milliseconds: list[float] | None = None,
) -> Figures:
    """Score pictures in their own pixels, keep their maps in `cache`, and figure on what the model sees of them.

    Args:
        milliseconds: what the score and map of each decoded picture took are added to it.
    """
    config = detector.config
    canvas = (config.height, config.width)
    scores: list[float] = []
    maps: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.bool_] | None] = []
    for done, picture in enumerate(pictures):
        context.lease.report(
            {"phase": "champion", "message": "sealed test", "done": done, "total": len(pictures)}
        )
        pixels, mask = picture.read(context.workspace.blobs)
        started = time.perf_counter()
        scored = detector.score([pixels])[0]
        if milliseconds is not None:
            milliseconds.append(1000 * (time.perf_counter() - started))
        cache.put(picture.key, scored.score, scored.anomaly_map)
        scores.append(scored.score)
        maps.append(in_view(scored.anomaly_map, canvas, config.resize))
        masks.append(None if mask is None else in_view(mask, canvas, config.resize))
    return figures(
        np.array(scores),
        [picture.defect_type for picture in pictures],
        maps,
        masks,
        threshold=calibration_of(detector).threshold,
        synthetic=context.pictures.synthetic_test,
    )


def _compare(context: CandidateContext, detector: Detector, cache: MapCache) -> dict[str, Any] | None:
    """Paired bootstrap of the candidate against the reigning champion on the same test pictures; None without one.

    Only within one dataset version: in another, this version's test pictures may have had other roles.
    """
    reigning = _champion(context.workspace, context.lease.study.dataset_name)
    if not _comparable(context, reigning):
        return None
    assert reigning is not None
    pictures = context.pictures.test
    check = lambda _: context.lease.check()  # noqa: E731
    ours = cached_scores(context.workspace, pictures, cache, lambda: detector, on_picture=check)
    theirs = scores_of(context.workspace, pictures, reigning, on_picture=check)
    return {
        "against_version": reigning.version,
        **paired(ours, theirs, [picture.anomalous for picture in pictures]),
    }


def _comparable(context: CandidateContext, reigning: Model | None) -> bool:
    if reigning is None or reigning.dataset_version_id != context.version.id:
        return False
    return any(picture.anomalous for picture in context.pictures.test)


def _comparison_with(
    context: CandidateContext, model: Model, reigning: Model | None
) -> Mapping[str, Any] | None:
    """The comparison with the champion of this moment: the recorded one, or a new one where another serves by now."""
    recorded: Mapping[str, Any] | None = model.figures.get("comparison")
    if reigning is None:
        return None
    if recorded is not None and recorded["against_version"] == reigning.version:
        return recorded
    if not _comparable(context, reigning):
        return None
    return compare_models(
        context.workspace, model, reigning, on_picture=lambda *_: context.lease.check()
    ).to_json()


def _why_promote(model: Model, reigning: Model | None, comparison: Mapping[str, Any] | None) -> str | None:
    """The policy: the first model, then whatever is better on validation and not clearly worse on the sealed test.

    The choice stays with validation; the test only has a veto, so that it does not become a second validation set.

    Returns:
        The reason for the record; None to leave the model a candidate for a person to promote.
    """
    if reigning is None:
        return "first model of the dataset"
    if (
        model.dataset_version_id != reigning.dataset_version_id
        or model.figures["objective"] != reigning.figures["objective"]
    ):
        return None  # validation figures of different pictures or objectives can't be compared
    if comparison is not None and comparison["high"] < 0:
        return None
    if model.figures["objective_value"] <= reigning.figures["objective_value"]:
        return None
    return (
        f"validation {model.figures['objective']} {model.figures['objective_value']:.3f} "
        f"instead of {reigning.figures['objective_value']:.3f}"
    )


def _champion(workspace: Workspace, dataset_name: str) -> Model | None:
    with workspace.session() as session:
        return models.champion(session, dataset_name)


def _latency(milliseconds: list[float], device: torch.device) -> dict[str, Any]:
    """What a decoded picture takes, one after the other, on the machine that made the model."""
    p50, p95 = np.quantile(milliseconds, [0.5, 0.95])
    machine = processor() if device.type == "cpu" else torch.cuda.get_device_name(device)
    return {"p50_ms": float(p50), "p95_ms": float(p95), "pictures": len(milliseconds), "machine": machine}


def calibration_of(detector: Detector) -> Calibration:
    """The calibration of a detector that has one; every detector of a candidate does."""
    if detector.calibration is None:
        raise TuningError("The detector is not calibrated. Calibrate it before it decides anything.")
    return detector.calibration


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
