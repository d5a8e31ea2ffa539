"""Running one claimed study: features, then trial after trial, then its champion candidate."""

import logging
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from engine.backbones.resolve import Backbone, Source, resolve_backbone
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.errors import EngineError
from engine.features import FeatureExtractor, fitted
from storage import datasets, studies
from storage.records import DatasetVersion
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning import recording
from tuning import search as searching
from tuning.backbones import wanted_backbone
from tuning.champion import make_candidate
from tuning.context import StudyContext
from tuning.errors import BackboneChanged, NoCompletedTrial, StudyCancelled, StudyPaused
from tuning.features import cached_features
from tuning.lease import Lease, WorkerStopping
from tuning.pictures import check_objective, study_pictures
from tuning.spec import MAX_TRIALS, StudySpec
from tuning.trial import TrialData, TrialResult, run_trial, trial_config

logger = logging.getLogger(__name__)


def run_study(workspace: Workspace, lease: Lease) -> None:
    """Run a claimed study to its end, or until the lease says stop. Can be called again after any crash: it goes on.

    Raises:
        StudyCancelled, StudyPaused, WorkerStopping, LeaseLost: from the lease.
        EngineError, StorageError, TuningError: the study can not be run, for a reason its user can act on.
    """
    context = _prepare(workspace, lease)
    data = _load_features(context)
    optuna_url = workspace.settings.optuna_url
    search = searching.open_search(optuna_url, lease.study.id, context.spec)
    for run_id in searching.recover(optuna_url, search):
        context.tracking.end_run(run_id, "KILLED")
    while (done := searching.counted(search.get_trials(deepcopy=False))) < (
        context.spec.trials or MAX_TRIALS
    ):
        lease.report({"trial": done + 1, "phase": "training", "epoch": 0}, at_once=True)
        _one_trial(context, data, search)
    best = searching.best(search.get_trials(deepcopy=False))
    if best is None:
        raise NoCompletedTrial(_why_none_completed(search))
    lease.report({"phase": "champion", "best": best.value}, at_once=True)
    make_candidate(context, data, best)
    recording.record_study(context, search)
    context.tracking.end_run(context.parent_run_id)


def _prepare(workspace: Workspace, lease: Lease) -> StudyContext:
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
    run_id = recording.start_study(tracking, study, spec, version, extractor)
    with lease.workspace.session() as session:
        studies.set_parent_run(
            session, study_id=study.id, worker_id=lease.worker_id, attempt=study.attempt, parent_run_id=run_id
        )
    return run_id


def _load_features(context: StudyContext) -> TrialData:
    def on_batch(done: int, total: int) -> None:
        context.lease.report({"phase": "features", "done": done, "total": total})

    cached = cached_features(
        context.workspace,
        context.version,
        (*context.pictures.unsealed, *context.pictures.turned(context.spec.knobs.get("mirror", ()))),
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
    run_id = recording.start_trial(context, trial, config)
    metrics = recording.EpochMetrics(context.tracking, run_id)

    def on_epoch(epoch: int, epochs: int, loss: float, value: float) -> None:
        context.lease.report({"epoch": epoch, "epochs": epochs})
        metrics.add(epoch, {"loss": loss, f"validation.{context.spec.objective}": value})
        trial.report(value, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned(f"pruned after epoch {epoch} of {epochs}")

    try:
        result = run_trial(data, config, on_epoch=on_epoch)
    except optuna.TrialPruned as pruned:
        search.tell(trial, state=TrialState.PRUNED)
        metrics.flush()
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
        metrics.flush()
        recording.record_failure(context.tracking, run_id)
    except (StudyCancelled, StudyPaused, WorkerStopping) as wish:
        searching.put_back(context.workspace.settings.optuna_url, search, trial.number, str(wish))
        metrics.flush()
        context.tracking.end_run(run_id, "KILLED")
        raise
    else:
        metrics.flush()
        _keep(context, data, trial, run_id, config, result, search)


def _keep(
    context: StudyContext,
    data: TrialData,
    trial: optuna.Trial,
    run_id: str,
    config: SimpleNetConfig,
    result: TrialResult,
    search: optuna.Study,
) -> None:
    """Record a completed trial; its head is kept while it is one of the study's best."""
    recording.record_trial(context, data, run_id, config, result)
    trial.set_user_attr("figures", result.figures.to_json())
    trial.set_user_attr("calibration", result.calibration.to_json())
    before = search.get_trials(deepcopy=False)
    recording.keep_head(context, run_id, trial.number, config, result, before)
    search.tell(trial, result.value)
    context.tracking.end_run(run_id)
    best = searching.best(before)
    context.lease.report({"best": max(result.value, best.value if best and best.value else result.value)})
    recording.sweep_heads(context, search.get_trials(deepcopy=False))


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
