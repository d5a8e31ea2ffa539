"""What MLflow holds of studies: a run per study with its plots, below it a run per trial with all to repeat it.

Of a trial: its configuration as parameters, its curves by epoch, its figures, and as artifacts `recipe.json` (all that
`tuning.reproduce` needs), `calibration.json`, `validation.json` (figures), `scores.json` (of each validation picture),
`error.json` of one that failed; heatmaps of some validation pictures, the same ones for every trial, for the image
grids of MLflow's pages; and the head of the best (`tuning.heads`). Sealed test pictures are in none of it.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from engine.config import SimpleNetConfig
from storage.records import DatasetVersion, Study
from storage.tracking import Tracking
from tuning import heads, plots, queries
from tuning.child import traceback_of
from tuning.context import ReadyBackbone, StudyContext
from tuning.insight import importance
from tuning.run_files import CALIBRATION, ERROR, FIGURES, RECIPE, SCORES
from tuning.spec import KNOBS, StudySpec

if TYPE_CHECKING:
    from tuning.computing import Trained

SEVERAL = ", "  # between the backbones of a study
FLUSH_SECONDS = 2.0  # between two calls that carry the metrics of the epochs since
BATCH_EPOCHS = 400  # in one call at most; MLflow takes 1,000 metrics


class EpochMetrics:
    """Metrics of a running trial, sent to its run in batches."""

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self._tracking = tracking
        self._run_id = run_id
        self._waiting: list[tuple[int, int, Mapping[str, float]]] = []
        self._sent_at = time.monotonic()

    def add(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Note the metrics of an epoch; sends what is waiting if the last call was long enough ago."""
        self._waiting.append((epoch, int(time.time() * 1000), dict(metrics)))
        if time.monotonic() - self._sent_at >= FLUSH_SECONDS or len(self._waiting) == BATCH_EPOCHS:
            self.flush()

    def flush(self) -> None:
        """Send all that waits; to be called when the trial has ended, however it did."""
        if self._waiting:
            self._tracking.log_history(self._run_id, self._waiting)
            self._waiting = []
        self._sent_at = time.monotonic()


def start_study(
    tracking: Tracking,
    study: Study,
    spec: StudySpec,
    version: DatasetVersion,
    backbones: Sequence[ReadyBackbone],
) -> str:
    """Start the run above the runs of a study's trials; answers its id."""
    run_id = tracking.start_run(
        study.dataset_name,
        study.name,
        tags={
            "kind": "study",
            "study": str(study.id),
            **_of_data(version, backbones),
            "stronger_backbone": backbones[0].backbone.stronger or "",
            **backbones[0].surroundings,
            **_of_spec(spec),
            "mlflow.note.content": f"Study {study.id} of {study.dataset_name}, version {version.number}.",
        },
    )
    tracking.log_params(run_id, spec.to_json())
    return run_id


def start_trial(context: StudyContext, trial: optuna.Trial, config: SimpleNetConfig) -> str:
    """Start the run of a trial, with all that it takes to repeat it; answers its id."""
    study, ready = context.lease.study, context.backbone_of(trial.params)
    made_by = ready.surroundings
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
            **_of_data(context.version, [ready]),
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
            "name": ready.backbone.name,
            "digest": ready.backbone.digest,
            "origin": ready.backbone.origin,
            "licence": ready.backbone.licence,
        },
        "stages": list(ready.stages),
        "surroundings": dict(made_by),
    }
    context.tracking.log_dict(run_id, recipe, RECIPE)
    return run_id


def note_start(context: StudyContext, trial: optuna.Trial, config: SimpleNetConfig, run_id: str) -> None:
    """Write beside a trial's parameters what it runs with; can be repeated."""
    trial.set_user_attr("run_id", run_id)
    trial.set_user_attr("config", config.to_json())
    trial.set_user_attr("worker", context.lease.worker_id)
    trial.set_user_attr("device", context.backbone_of(trial.params).device)


def record_trial(context: StudyContext, run_id: str, trained: "Trained") -> None:
    """Keep what a completed trial found, but for its weights."""
    tracking, result = context.tracking, trained.findings
    tracking.log_metrics(
        run_id,
        {
            "value": result.value,
            **({} if result.spread is None else {"value.spread": result.spread}),
            **result.figures.to_metrics("validation"),
            "latency_ms": result.latency_ms,
            "seconds": result.seconds,
        },
    )
    tracking.log_dict(run_id, result.calibration.to_json(), CALIBRATION)
    tracking.log_dict(run_id, result.figures.to_json(), FIGURES)
    scores = {
        picture.key: float(score)
        for picture, score in zip(context.pictures.validation, result.validation_scores, strict=True)
    }
    tracking.log_dict(run_id, scores, SCORES)
    tracking.set_tags(run_id, {"head_digest": trained.head_digest})
    for key, picture in trained.examples:
        tracking.log_image(run_id, picture, key=key)


def keep_head(
    context: StudyContext, run_id: str, trial: optuna.Trial, value: float, before: Sequence[FrozenTrial]
) -> None:
    """Keep a completed trial's head in its run if it is one of the best of the trials `before` it.

    To be called before its value is told: a best trial that the database knows always has its weights.
    """
    within = all(excess <= 0 for excess in trial.constraints.values())
    if not within or not heads.among_best(before, value, context.workspace.settings.kept_heads):
        context.tracking.set_tags(run_id, heads.NEVER)
        return
    study_id = context.lease.study.id
    heads.keep(context.workspace, context.tracking, study_id=study_id, number=trial.number, run_id=run_id)


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


def record_failure(tracking: Tracking, run_id: str, error: BaseException) -> None:
    """Keep where an error came from, and end the run as failed."""
    tracking.log_dict(run_id, {"error": str(error), "traceback": traceback_of(error)}, ERROR)
    tracking.end_run(run_id, "FAILED")


def record_study(tracking: Tracking, run_id: str, objective: str, search: optuna.Study) -> None:
    """Keep the best trial's value and the plots of a study that has ended.

    Args:
        run_id: of the study's own run.
        objective: what its values are called.
    """
    best = heads.best_trials(search.get_trials(deepcopy=False), 1)
    if best:
        tracking.set_tags(run_id, {"best_trial": str(best[0].number + 1)})
        tracking.log_metrics(run_id, {f"best.{objective}": float(best[0].value or 0.0)})
    made = plots.study_plots(queries.records(search), importance(search), objective)
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


def _of_data(version: DatasetVersion, backbones: Sequence[ReadyBackbone]) -> dict[str, str]:
    """Of several backbones, each value stands beside the others in their order."""
    used = [ready.backbone for ready in backbones]
    return {
        "dataset": version.dataset_name,
        "dataset_version": str(version.number),
        "dataset_digest": version.digest,
        "backbone": SEVERAL.join(backbone.name for backbone in used),
        "backbone_origin": SEVERAL.join(backbone.origin for backbone in used),
        "backbone_licence": SEVERAL.join(backbone.licence or "unknown" for backbone in used),
        "weights_digest": SEVERAL.join(backbone.digest for backbone in used),
    }


def _of_spec(spec: StudySpec) -> dict[str, str]:
    return {
        "protocol": "sealed",
        "objective": str(spec.objective),
        "sampler": str(getattr(spec, "sampler", "tpe")),
        "pruner": str(getattr(spec, "pruner", "median")),
    }
