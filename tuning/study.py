"""One study under a worker: led from its pictures to its champion candidate, or helped with some of its trials."""

import logging
import zlib
from collections.abc import Mapping
from dataclasses import replace

import optuna

from engine.errors import EngineError
from storage import datasets, slots, studies
from storage.outbox import PatientTracking
from storage.records import DatasetVersion, ImageRecord, Study, StudyState, now
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning import recording
from tuning import search as searching
from tuning.bench import Bench
from tuning.budget import asked_for, so_far
from tuning.child import Child, ChildDied
from tuning.computing import RunTrial
from tuning.context import ReadyBackbone, StudyContext, StudySetup
from tuning.errors import (
    BackboneChanged,
    NoCompletedTrial,
    OutOfMemory,
    UnableHere,
)
from tuning.lease import Lease
from tuning.pictures import check_objective, study_pictures
from tuning.queries import shares_studies
from tuning.spec import StudySpec
from tuning.trials import begun_of, run_trials, settle

logger = logging.getLogger(__name__)

WAIT_SECONDS = 0.5  # between two looks whether the trials of other workers have ended
# Why preparing a study may fail on one machine and not on another: weights, devices, memory.
_OF_ONE_MACHINE = (EngineError, BackboneChanged, OutOfMemory, ChildDied)


def lead_study(workspace: Workspace, lease: Lease, child: Child, run: RunTrial) -> None:
    """Run a claimed study to its end and record that, or until the lease says stop.

    Can be called again after any crash: it goes on.

    Args:
        run: `tuning.trial.run_trial`, or what a test puts in its place; must be importable.
    Raises:
        StudyCancelled, StudyPaused, WorkerStopping, LeaseLost: from the lease.
        DiskFull: there is no room for what the study must write; it can go on when there is.
        UnableHere: it began on another machine, and this one lacks what it takes to go on.
        EngineError, StorageError, TuningError: the study can not be run, for a reason its user can act on.
    """
    bench = Bench(child, lease)
    tracking = _tracking(workspace, lease)
    try:
        context = _prepare_again(workspace, lease, bench, tracking)
        search = lease.patiently(
            lambda: searching.open_search(workspace.settings.optuna_url, lease.study.id, context.spec)
        )
        while True:
            _run_all(context, bench, search, run)
            context = replace(context, spec=_spec_now(context))
            _make_champion(context, bench, search)
            if lease.patiently(lambda: _complete(context, search)):  # noqa: B023 (called at once)
                return
    finally:
        tracking.close()


def help_study(workspace: Workspace, lease: Lease, child: Child, run: RunTrial) -> None:
    """Run trials of a study that another worker leads, until none is left, nobody leads it, or the lease says stop.

    Raises:
        StudyCancelled, StudyPaused, WorkerStopping, LeaseLost: from the lease.
        DiskFull, EngineError, StorageError, TuningError: this worker can not help with the study.
    """
    search = lease.patiently(
        lambda: searching.open_search(
            workspace.settings.optuna_url,
            lease.study.id,
            StudySpec.from_json(lease.study.spec),
            begin=False,
            stream=_stream(lease.worker_id),
        )
    )
    spec = StudySpec.from_json(lease.study.spec)
    if searching.left(lease.patiently(lambda: search.get_trials(deepcopy=False)), spec) <= 0:
        return
    bench = Bench(child, lease)
    tracking = _tracking(workspace, lease)
    try:
        run_trials(_prepare(workspace, lease, bench, tracking), bench, search, run)
    finally:
        tracking.close()


def _run_all(context: StudyContext, bench: Bench, search: optuna.Study, run: RunTrial) -> None:
    """Run trials beside whoever helps, until all of the study have ended."""
    lease = context.lease
    while True:
        settle(context, search)  # what was lost before this worker came
        lease.patiently(lambda: _set_open(context, open_to_others=True))
        run_trials(context, bench, search, run)
        lease.patiently(lambda: _set_open(context, open_to_others=False))
        while not (done := settle(context, search)):
            trials = begun_of(context, search)
            lease.pause(WAIT_SECONDS)
            if searching.left(trials, _spec_now(context)) > 0:
                break
            lease.report({"phase": "training", "waiting_for_others": True, **so_far(trials, context.spec)})
        lease.report({"waiting_for_others": None})
        if done:
            return


def _make_champion(context: StudyContext, bench: Bench, search: optuna.Study) -> None:
    trials = begun_of(context, search)
    best = searching.best(trials)
    if best is None:
        raise NoCompletedTrial(searching.why_no_best(trials, context.spec))
    context.lease.report({"phase": "champion", **so_far(trials, context.spec)}, at_once=True)
    bench.candidate(str(best.params.get("backbone", context.spec.backbone)), best)
    tracking, run_id = context.tracking, context.parent_run_id
    objective = str(context.spec.objective)
    context.lease.patiently(lambda: recording.record_study(tracking, run_id, objective, search))
    tracking.end_run(run_id)
    tracking.flush()


def _complete(context: StudyContext, search: optuna.Study) -> bool:
    """Record that the study is completed, unless somebody has added trials, enqueued one or begun that meanwhile."""
    lease = context.lease
    with context.workspace.session() as session:
        studies.check_held(session, **lease.hold)  # nobody changes the study from here on
        if StudySpec.from_json(studies.get_study(session, lease.study.id).spec) != context.spec:
            return False
        if slots.list_slots(session, lease.study.id) or asked_for(search.get_trials(deepcopy=False)) > 0:
            return False
        studies.finish(session, **lease.hold, state=StudyState.COMPLETED, now=now())
    return True


def _prepare_again(
    workspace: Workspace, lease: Lease, bench: Bench, tracking: PatientTracking
) -> StudyContext:
    """Prepare a study. Where it was prepared before and has other machines, what fails is this machine's trouble."""
    try:
        return _prepare(workspace, lease, bench, tracking)
    except _OF_ONE_MACHINE as trouble:
        if lease.study.parent_run_id is None or not shares_studies(workspace.settings):
            raise
        raise UnableHere(
            f"Worker '{lease.worker_id}' can't go on with the study, which was prepared before: {trouble} It waits for "
            "another worker."
        ) from trouble


def _prepare(workspace: Workspace, lease: Lease, bench: Bench, tracking: PatientTracking) -> StudyContext:
    spec = StudySpec.from_json(lease.study.spec)
    lease.report({"phase": "preparing", "trials": spec.trials, "waiting": None}, at_once=True)
    version, images = lease.patiently(lambda: read_version(workspace, lease.study.dataset_version_id))
    pictures = study_pictures(images)
    check_objective(spec, pictures, version.dataset_name)
    backbones = _backbones(lease, bench, tracking, spec)
    parent_run_id = lease.study.parent_run_id or recording.start_study(
        tracking, lease.study, spec, version, list(backbones.values())
    )
    if lease.study.parent_run_id is None:
        lease.patiently(lambda: _set_parent_run(workspace, lease, parent_run_id))
    bench.load(
        StudySetup(
            settings=workspace.settings,
            study_id=lease.study.id,
            spec=spec,
            version=version,
            pictures=pictures,
            backbones={name: ready.backbone for name, ready in backbones.items()},
        )
    )
    return StudyContext(
        workspace=workspace,
        tracking=tracking,
        lease=lease,
        spec=spec,
        version=version,
        pictures=pictures,
        backbones=backbones,
        parent_run_id=parent_run_id,
    )


def read_version(workspace: Workspace, version_id: int) -> tuple[DatasetVersion, list[ImageRecord]]:
    with workspace.session() as session:
        return datasets.get_version(session, version_id), datasets.list_images(session, version_id)


def _set_parent_run(workspace: Workspace, lease: Lease, parent_run_id: str) -> None:
    with workspace.session() as session:
        studies.set_parent_run(session, **lease.hold, parent_run_id=parent_run_id)


def _backbones(
    lease: Lease, bench: Bench, tracking: Tracking, spec: StudySpec
) -> Mapping[str, ReadyBackbone]:
    """The backbones that the study began with; at its beginning, those asked for."""
    study = lease.study
    began = tracking.tags(study.parent_run_id) if study.parent_run_id else {}
    found = bench.resolve(spec, began_with(spec, began))
    refuse_other_backbones(study, began, found)
    first = next(iter(found.values()))
    lease.report(
        {
            "backbone": recording.SEVERAL.join(ready.backbone.text for ready in found.values()),
            "stronger_backbone": first.backbone.stronger,
            "device": first.device,
        },
        at_once=True,
    )
    return found


def began_with(spec: StudySpec, began: Mapping[str, str]) -> dict[str, str]:
    """What each backbone that the specification names came to when the study began; empty at its beginning.

    Args:
        began: tags of the study's run in MLflow.
    """
    names = began.get("backbone", "").split(recording.SEVERAL) if began else []
    return dict(zip(spec.backbones, names, strict=False))


def refuse_other_backbones(
    study: Study, began: Mapping[str, str], found: Mapping[str, ReadyBackbone]
) -> None:
    """Go on only with the backbones that the study began with.

    What "auto" comes to depends on the machine, and two backbones may have features of one length: going on with
    another one would give scores that nobody could tell from good ones.

    Args:
        began: tags of the study's run in MLflow; empty at its beginning.
    Raises:
        BackboneChanged: weights differ.
    """
    digests = recording.SEVERAL.join(ready.backbone.digest for ready in found.values())
    if began.get("weights_digest", digests) == digests:
        return
    here = recording.SEVERAL.join(
        f"{ready.backbone.name} from {ready.backbone.origin} (weights {ready.backbone.digest[:12]})"
        for ready in found.values()
    )
    then = recording.SEVERAL.join(digest[:12] for digest in began["weights_digest"].split(recording.SEVERAL))
    raise BackboneChanged(
        f"Study '{study.name}' began with {began['backbone']} from {began['backbone_origin']} (weights {then}); "
        f"this worker has {here}. A study keeps its backbone: start a new study for the other one."
    )


def _tracking(workspace: Workspace, lease: Lease) -> PatientTracking:
    """MLflow, waited for with the reason shown."""
    shown: list[str | None] = [None]

    def wait(trouble: str | None) -> None:
        lease.check()
        if trouble != shown[0]:
            shown[0] = trouble
            lease.report({"waiting": trouble}, at_once=True)

    return PatientTracking(workspace.settings, wait)


def _set_open(context: StudyContext, *, open_to_others: bool) -> None:
    with context.workspace.session() as session:
        studies.set_open(session, **context.lease.hold, open_to_others=open_to_others)


def _spec_now(context: StudyContext) -> StudySpec:
    """The specification as it is now: somebody may have added trials."""

    def read() -> StudySpec:
        with context.workspace.session() as session:
            return StudySpec.from_json(studies.get_study(session, context.lease.study.id).spec)

    return context.lease.patiently(read)


def _stream(worker_id: str) -> int:
    """A number of its own for each worker, so that none proposes what another does."""
    return 1 + zlib.crc32(worker_id.encode()) % 100_003
