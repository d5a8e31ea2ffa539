"""What MLflow holds of studies: a run per study with its plots, below it a run per trial with all to repeat it.

Of a trial: its configuration as parameters, its curves by epoch, its figures, and as artifacts `recipe.json` (all that
`tuning.reproduce` needs), `calibration.json`, `validation.json` (figures), `scores.json` (of each validation picture),
`error.json` of one that failed; heatmaps of some validation pictures, the same ones for every trial, for the image
grids of MLflow's pages; and the head of the best (`tuning.heads`). Sealed test pictures are in none of it.
"""

import logging
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial
from PIL import Image

from engine import heatmap
from engine.config import SimpleNetConfig
from engine.features import FeatureExtractor
from storage.errors import TrackingError
from storage.records import DatasetVersion, Study
from storage.tracking import Tracking
from tuning import heads, plots, queries
from tuning.context import StudyContext
from tuning.insight import importance
from tuning.pictures import Picture
from tuning.provenance import surroundings, weights_digest
from tuning.spec import KNOBS, StudySpec
from tuning.trial import TrialData, TrialResult, maps_of

logger = logging.getLogger(__name__)

RECIPE = "recipe.json"
SCORES = "scores.json"
FLUSH_SECONDS = 2.0  # between two calls that carry the metrics of the epochs since
EXAMPLES = 4  # validation pictures whose heatmaps every trial keeps
OPACITY = 0.6  # of their overlays
SIDE = 256  # pixels of their longer side


class EpochMetrics:
    """Metrics of a running trial, sent to its run in batches; an MLflow that is away gets them later."""

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self._tracking = tracking
        self._run_id = run_id
        self._waiting: list[tuple[int, int, Mapping[str, float]]] = []
        self._sent_at = time.monotonic()

    def add(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Note the metrics of an epoch; sends what is waiting if the last call was long enough ago."""
        self._waiting.append((epoch, int(time.time() * 1000), dict(metrics)))
        if time.monotonic() - self._sent_at < FLUSH_SECONDS:
            return
        try:
            self.flush()
        except TrackingError:
            logger.warning("metrics wait for MLflow", extra={"run": self._run_id}, exc_info=True)
        self._sent_at = time.monotonic()

    def flush(self) -> None:
        """Send all that waits; to be called when the trial has ended, however it did.

        Raises:
            TrackingError: MLflow is away; nothing is lost, call again.
        """
        if self._waiting:
            self._tracking.log_history(self._run_id, self._waiting)
            self._waiting = []
        self._sent_at = time.monotonic()


def start_study(
    tracking: Tracking, study: Study, spec: StudySpec, version: DatasetVersion, extractor: FeatureExtractor
) -> str:
    """Start the run above the runs of a study's trials; answers its id."""
    backbone = extractor.backbone
    run_id = tracking.start_run(
        study.dataset_name,
        study.name,
        tags={
            "kind": "study",
            "study": str(study.id),
            **_of_data(version, extractor),
            "stronger_backbone": backbone.stronger or "",
            **surroundings(extractor.device, extractor.dtype),
            **_of_spec(spec),
            "mlflow.note.content": f"Study {study.id} of {study.dataset_name}, version {version.number}.",
        },
    )
    tracking.log_params(run_id, spec.to_json())
    return run_id


def start_trial(context: StudyContext, trial: optuna.Trial, config: SimpleNetConfig) -> str:
    """Start the run of a trial, with all that it takes to repeat it; answers its id."""
    study, extractor = context.lease.study, context.extractor
    made_by = surroundings(extractor.device, extractor.dtype)
    run_id = context.tracking.start_run(
        context.version.dataset_name,
        trial_name(trial.number, config, trial.params),
        parent_run_id=context.parent_run_id,
        tags={
            "kind": "trial",
            "study": str(study.id),
            "study_name": study.name,
            "trial": str(trial.number + 1),
            "worker": context.lease.worker_id,
            "synthetic_validation": str(context.pictures.synthetic_validation).lower(),
            **_of_data(context.version, extractor),
            **made_by,
            **_of_spec(context.spec),
        },
    )
    context.tracking.set_tags(
        run_id, {"mlflow.note.content": f"Train it again and compare: `simplenet reproduce {run_id}`"}
    )
    context.tracking.log_params(run_id, config.to_json())
    recipe = {
        "dataset": context.version.dataset_name,
        "dataset_version": context.version.number,
        "dataset_digest": context.version.digest,
        "study": study.id,
        "trial": trial.number + 1,
        "spec": context.spec.to_json(),
        "config": config.to_json(),
        "backbone": {
            "name": extractor.backbone.name,
            "digest": extractor.weights_digest,
            "origin": extractor.backbone.origin,
            "licence": extractor.backbone.licence,
        },
        "stages": list(extractor.stages),
        "surroundings": made_by,
    }
    context.tracking.log_dict(run_id, recipe, RECIPE)
    trial.set_user_attr("run_id", run_id)
    trial.set_user_attr("config", config.to_json())
    trial.set_user_attr("worker", context.lease.worker_id)
    trial.set_user_attr("device", made_by["device"])
    return run_id


def record_trial(
    context: StudyContext, data: TrialData, run_id: str, config: SimpleNetConfig, result: TrialResult
) -> None:
    """Keep what a completed trial found, but for its weights."""
    tracking = context.tracking
    tracking.log_metrics(
        run_id,
        {"value": result.value, **result.figures.to_metrics("validation"), "seconds": result.seconds},
    )
    tracking.log_dict(run_id, result.calibration.to_json(), "calibration.json")
    tracking.log_dict(run_id, result.figures.to_json(), "validation.json")
    scores = {
        picture.key: float(score)
        for picture, score in zip(data.pictures.validation, result.validation_scores, strict=True)
    }
    tracking.log_dict(run_id, scores, SCORES)
    tracking.set_tags(run_id, {"head_digest": weights_digest(result.head)})
    _record_examples(tracking, data, run_id, config, result)


def keep_head(
    context: StudyContext,
    run_id: str,
    number: int,
    config: SimpleNetConfig,
    result: TrialResult,
    before: Sequence[FrozenTrial],
) -> None:
    """Keep a completed trial's head if it is one of the best of the trials `before` it. To be called before its value
    is told: a best trial that the database knows always has its weights."""
    if not heads.among_best(before, result.value, context.workspace.settings.kept_heads):
        context.tracking.set_tags(run_id, heads.NEVER)
        return
    study_id = context.lease.study.id
    heads.keep(
        context.workspace,
        context.tracking,
        result.head,
        config,
        study_id=study_id,
        number=number,
        run_id=run_id,
    )


def sweep_heads(context: StudyContext, trials: Sequence[FrozenTrial]) -> None:
    """Delete the heads that are not among the best any more."""
    heads.sweep(
        context.workspace,
        context.tracking,
        trials,
        dataset_name=context.version.dataset_name,
        study_id=context.lease.study.id,
        count=context.workspace.settings.kept_heads,
    )


def record_failure(tracking: Tracking, run_id: str) -> None:
    """Keep the traceback of the error that is being handled, and end the run as failed."""
    tracking.log_dict(run_id, {"traceback": traceback.format_exc()}, "error.json")
    tracking.end_run(run_id, "FAILED")


def record_study(context: StudyContext, search: optuna.Study) -> None:
    """Keep the best trial's value and the plots of a study that has run all its trials."""
    tracking, run_id = context.tracking, context.parent_run_id
    best = heads.best_trials(search.get_trials(deepcopy=False), 1)
    if best:
        tracking.set_tags(run_id, {"best_trial": str(best[0].number + 1)})
        tracking.log_metrics(run_id, {f"best.{context.spec.objective}": float(best[0].value or 0.0)})
    made = plots.study_plots(queries.records(search), importance(search), str(context.spec.objective))
    for name, drawn in made.items():
        tracking.log_file(run_id, drawn, f"plots/{name}.png")


def trial_name(number: int, config: SimpleNetConfig, params: Mapping[str, Any]) -> str:
    """'trial 07 · σ 0.0213 · layers 2+3 · adaptor 1 · members 4'; counts from 1."""
    parts = [
        f"trial {number + 1:02d}",
        f"σ {config.noise_std:.3g}",
        f"layers {'+'.join(map(str, config.layers))}",
        f"adaptor {config.adaptor_depth}",
    ]
    parts += [f"{name.replace('_', ' ')} {params[name]}" for name in KNOBS if name in params]
    return " · ".join(parts)


def examples(data: TrialData) -> list[Picture]:
    """The validation pictures whose heatmaps every trial keeps: one of each kind of defect, then normal ones.

    The same for all trials of a dataset version, so that they can be seen side by side.
    """
    kinds: dict[str, Picture] = {}
    for picture in data.pictures.validation:
        if picture.defect_type is not None:
            kinds.setdefault(picture.defect_type, picture)
    normal = [picture for picture in data.pictures.validation if not picture.anomalous]
    return [*list(kinds.values())[: EXAMPLES - 1], *normal][:EXAMPLES]


def _record_examples(
    tracking: Tracking, data: TrialData, run_id: str, config: SimpleNetConfig, result: TrialResult
) -> None:
    """Overlays on the trial's own absolute scale, where MLflow's image grids find them."""
    shown = examples(data)
    small = []
    for picture in shown:
        drawn = Image.fromarray(picture.read(data.workspace.blobs)[0])
        drawn.thumbnail((SIDE, SIDE))
        small.append(np.asarray(drawn))
    maps = maps_of(data, config, result.head, shown, [(one.shape[0], one.shape[1]) for one in small])
    for number, (picture, pixels, anomaly_map) in enumerate(zip(shown, small, maps, strict=True), start=1):
        what = picture.defect_type or "normal"
        safe = "".join(sign if sign.isascii() and sign.isalnum() else " " for sign in what)
        overlay = heatmap.overlay(pixels, anomaly_map, result.calibration, OPACITY)
        tracking.log_image(run_id, overlay, key=f"validation {number} {safe}")


def _of_data(version: DatasetVersion, extractor: FeatureExtractor) -> dict[str, str]:
    return {
        "dataset": version.dataset_name,
        "dataset_version": str(version.number),
        "dataset_digest": version.digest,
        "backbone": extractor.backbone.name,
        "backbone_origin": extractor.backbone.origin,
        "backbone_licence": extractor.backbone.licence or "unknown",
        "weights_digest": extractor.weights_digest,
    }


def _of_spec(spec: StudySpec) -> dict[str, str]:
    return {
        "protocol": "sealed",
        "objective": str(spec.objective),
        "sampler": str(getattr(spec, "sampler", "tpe")),
        "pruner": str(getattr(spec, "pruner", "median")),
    }
