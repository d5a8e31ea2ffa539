"""Running one claimed study: features, then trial after trial, then its champion candidate."""

import logging
import shutil
import traceback
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from engine.backbones.resolve import Backbone, Source, resolve_backbone
from engine.checkpoint import save_head
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.errors import EngineError
from engine.features import FeatureExtractor, fitted
from storage import datasets, studies
from storage.records import DatasetVersion
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning import search as searching
from tuning.backbones import wanted_backbone
from tuning.champion import make_candidate
from tuning.context import StudyContext, head_folder
from tuning.errors import BackboneChanged, NoCompletedTrial, StudyCancelled, StudyPaused
from tuning.features import cached_features
from tuning.lease import Lease, WorkerStopping
from tuning.pictures import check_objective, study_pictures
from tuning.spec import StudySpec
from tuning.trial import TrialData, TrialResult, run_trial, trial_config

logger = logging.getLogger(__name__)


def run_study(workspace: Workspace, lease: Lease) -> None:
    """Run a claimed study to its end, or until the lease says stop. Can be called again after any crash: it goes on.

    Raises:
        StudyCancelled, StudyPaused, WorkerStopping, LeaseLost: from the lease.
        EngineError, StorageError, TuningError: the study can not be run, for a reason its user can act on.
    """
    context = prepare(workspace, lease)
    data = load_features(context)
    optuna_url = workspace.settings.optuna_url
    search = searching.open_search(optuna_url, lease.study.id, context.spec)
    for run_id in searching.recover(optuna_url, search):
        context.tracking.end_run(run_id, "KILLED")
    while (done := searching.counted(search.get_trials(deepcopy=False))) < context.spec.trials:
        lease.report({"trial": done + 1, "phase": "training", "epoch": 0}, at_once=True)
        _one_trial(context, data, search)
    best = searching.best(search.get_trials(deepcopy=False))
    if best is None:
        raise NoCompletedTrial(_why_none_completed(search))
    lease.report({"phase": "champion", "best": best.value}, at_once=True)
    make_candidate(context, data, best)
    context.tracking.set_tags(context.parent_run_id, {"best_trial": str(best.number + 1)})
    context.tracking.log_metrics(
        context.parent_run_id, {f"best.{context.spec.objective}": float(best.value or 0.0)}
    )
    context.tracking.end_run(context.parent_run_id)


def prepare(workspace: Workspace, lease: Lease) -> StudyContext:
    spec = StudySpec.from_json(lease.study.spec)
    lease.report({"phase": "preparing", "trials": spec.trials}, at_once=True)
    with workspace.session() as session:
        version = datasets.get_version(session, lease.study.dataset_version_id)
        images = datasets.list_images(session, version.id)
    pictures = study_pictures(images)
    check_objective(spec, pictures, version.dataset_name)
    settings = workspace.settings
    device = resolve_device(settings.device)
    tracking = Tracking(settings)
    backbone = _backbone(lease, tracking, spec, device)
    stages = sorted({stage for choice in spec.layers for stage in choice})
    extractor = FeatureExtractor(backbone, stages, device, resolve_precision(settings.precision, device))
    base = SimpleNetConfig(
        backbone=backbone.name,
        height=spec.height,
        width=spec.width,
        resize=spec.resize,
        epochs=spec.epochs,
        seed=spec.seed,
    )
    base = fitted(base, extractor)
    parent_run_id = lease.study.parent_run_id or _start_parent_run(lease, tracking, spec, version, extractor)
    return StudyContext(
        workspace=workspace,
        tracking=tracking,
        lease=lease,
        spec=spec,
        version=version,
        pictures=pictures,
        extractor=extractor,
        base=base,
        parent_run_id=parent_run_id,
    )


def _backbone(lease: Lease, tracking: Tracking, spec: StudySpec, device: torch.device) -> Backbone:
    """The backbone that the study began with; at its beginning, the one asked for.

    What "auto" comes to depends on the machine, and two backbones may have features of one length: going on with
    another one would give scores that nobody could tell from good ones.
    """

    def say_download(source: Source) -> None:
        lease.report({"fetching": source.text}, at_once=True)

    study, settings = lease.study, lease.workspace.settings
    began = tracking.tags(study.parent_run_id) if study.parent_run_id else {}
    name, weights = wanted_backbone(settings, spec.backbone, Path(spec.weights) if spec.weights else None)
    if name == "auto" and weights is None:
        name = began.get("backbone", "auto")
    backbone = resolve_backbone(name, weights, device, on_download=say_download)
    if began.get("weights_digest", backbone.digest) != backbone.digest:
        raise BackboneChanged(
            f"Study '{study.name}' began with {began['backbone']} from {began['backbone_origin']} (weights "
            f"{began['weights_digest'][:12]}); this worker has {backbone.name} from {backbone.origin} (weights "
            f"{backbone.digest[:12]}). A study keeps its backbone: start a new study for the other one."
        )
    about = {"backbone": backbone.text, "stronger_backbone": backbone.stronger, "device": str(device)}
    lease.report(about, at_once=True)
    return backbone


def _start_parent_run(
    lease: Lease, tracking: Tracking, spec: StudySpec, version: DatasetVersion, extractor: FeatureExtractor
) -> str:
    study = lease.study
    run_id = tracking.start_run(
        study.dataset_name,
        study.name,
        tags={
            "kind": "study",
            "study": str(study.id),
            "dataset_version": str(version.number),
            "dataset_digest": version.digest,
            "backbone": extractor.backbone.name,
            "backbone_origin": extractor.backbone.origin,
            "backbone_licence": extractor.backbone.licence or "unknown",
            "stronger_backbone": extractor.backbone.stronger or "",
            "weights_digest": extractor.weights_digest,
            "protocol": "sealed",
        },
    )
    tracking.log_params(run_id, spec.to_json())
    with lease.workspace.session() as session:
        studies.set_parent_run(
            session, study_id=study.id, worker_id=lease.worker_id, attempt=study.attempt, parent_run_id=run_id
        )
    return run_id


def load_features(context: StudyContext) -> TrialData:
    def on_batch(done: int, total: int) -> None:
        context.lease.report({"phase": "features", "done": done, "total": total})

    cached = cached_features(
        context.workspace,
        context.version,
        context.pictures.unsealed,
        context.extractor,
        height=context.base.height,
        width=context.base.width,
        resize=context.base.resize,
        on_batch=on_batch,
    )
    return TrialData(
        workspace=context.workspace,
        pictures=context.pictures,
        cached=cached,
        objective=context.spec.objective,
        false_reject_rate=context.spec.false_reject_rate,
        device=context.extractor.device,
    )


def _one_trial(context: StudyContext, data: TrialData, search: optuna.Study) -> None:
    """Ask, train, tell. A configuration that fails fails its trial; the study goes on."""
    trial = search.ask(searching.distributions(context.spec))
    config = trial_config(context.base, trial.params)
    run_id = _start_trial_run(context, trial, config)

    def on_epoch(epoch: int, epochs: int, loss: float, value: float) -> None:
        context.lease.report({"epoch": epoch, "epochs": epochs})
        context.tracking.log_metrics(
            run_id, {"loss": loss, f"validation.{context.spec.objective}": value}, step=epoch
        )
        trial.report(value, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned(f"pruned after epoch {epoch} of {epochs}")

    try:
        result = run_trial(data, config, on_epoch=on_epoch)
    except optuna.TrialPruned as pruned:
        search.tell(trial, state=TrialState.PRUNED)
        context.tracking.set_tags(run_id, {"state": str(pruned)})
        context.tracking.end_run(run_id)
    except (
        EngineError,
        MemoryError,
        RuntimeError,
    ) as error:  # torch raises RuntimeError, out of memory included
        logger.warning(
            "trial failed", extra={"study": context.lease.study.id, "trial": trial.number}, exc_info=True
        )
        trial.set_user_attr("error", f"{type(error).__name__}: {error}"[:2000])
        search.tell(trial, state=TrialState.FAIL)
        context.tracking.log_dict(run_id, {"traceback": traceback.format_exc()}, "error.json")
        context.tracking.end_run(run_id, "FAILED")
    except (StudyCancelled, StudyPaused, WorkerStopping) as wish:
        searching.put_back(context.workspace.settings.optuna_url, search, trial.number, str(wish))
        context.tracking.end_run(run_id, "KILLED")
        raise
    else:
        _keep(context, trial, run_id, config, result, search)


def _start_trial_run(context: StudyContext, trial: optuna.Trial, config: SimpleNetConfig) -> str:
    layers = ",".join(map(str, config.layers))
    name = f"trial {trial.number + 1:02d}: σ {config.noise_std:.3g}, layers {layers}, adaptor {config.adaptor_depth}"
    run_id = context.tracking.start_run(
        context.version.dataset_name,
        name,
        parent_run_id=context.parent_run_id,
        tags={
            "kind": "trial",
            "study": str(context.lease.study.id),
            "trial": str(trial.number + 1),
            "protocol": "sealed",
            "synthetic_validation": str(context.pictures.synthetic_validation).lower(),
        },
    )
    context.tracking.log_params(run_id, config.to_json())
    trial.set_user_attr("run_id", run_id)
    trial.set_user_attr("config", config.to_json())
    return run_id


def _keep(
    context: StudyContext,
    trial: optuna.Trial,
    run_id: str,
    config: SimpleNetConfig,
    result: TrialResult,
    search: optuna.Study,
) -> None:
    """Record a completed trial; its head replaces that of the best one before it, if it is better."""
    context.tracking.log_metrics(
        run_id, {**result.figures.to_metrics("validation"), "seconds": result.seconds}
    )
    context.tracking.log_dict(run_id, result.calibration.to_json(), "calibration.json")
    context.tracking.log_dict(run_id, result.figures.to_json(), "validation.json")
    trial.set_user_attr("figures", result.figures.to_json())
    trial.set_user_attr("calibration", result.calibration.to_json())
    before = searching.best(search.get_trials(deepcopy=False))
    if before is None or before.value is None or result.value > before.value:
        # Weights first, value after: a best trial in the database always has its head on disk.
        save_head(head_folder(context.workspace, context.lease.study.id, trial.number), result.head, config)
    search.tell(trial, result.value)
    context.tracking.end_run(run_id)
    context.lease.report(
        {"best": max(result.value, before.value if before and before.value else result.value)}
    )
    _sweep_heads(context, search)


def _sweep_heads(context: StudyContext, search: optuna.Study) -> None:
    """Delete the heads of trials that are not the best any more."""
    best = searching.best(search.get_trials(deepcopy=False))
    keep = head_folder(context.workspace, context.lease.study.id, best.number if best else -1)
    for folder in keep.parent.glob("trial-*"):
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)


def _why_none_completed(search: optuna.Study) -> str:
    errors: list[Any] = [
        trial.user_attrs["error"]
        for trial in search.get_trials(deepcopy=False)
        if "error" in trial.user_attrs
    ]
    last = f" The last error: {errors[-1]}" if errors else ""
    return (
        f"None of the {len(search.trials)} trials completed, so there is no model to choose.{last} "
        "Mend that and start again."
    )
