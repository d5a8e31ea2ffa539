"""Running the trials of a study: slot after slot of its budget, beside other workers that do the same.

Of every trial, all that belongs to it is written before its value is: head, figures, its run in MLflow. So a trial that
Optuna knows as completed is whole, and one that is not can be tried again.
"""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState

from engine.config import SimpleNetConfig
from engine.errors import EngineError
from storage import slots, studies
from storage.errors import LeaseLost, StorageError
from storage.records import TrialSlot
from tuning import recording, retries, trial_times
from tuning import search as searching
from tuning.bench import Bench, is_memory
from tuning.budget import asked_for, own, reported, so_far
from tuning.child import ChildDied
from tuning.computing import RunTrial, Trained
from tuning.context import StudyContext
from tuning.errors import AlwaysFails, StudyCancelled, TuningError
from tuning.heads import head_folder
from tuning.lease import TrialTaken, WorkerStopping
from tuning.spec import StudySpec
from tuning.trial import trial_config
from tuning.wishes import SURPRISE, given_up

logger = logging.getLogger(__name__)

TURN_SECONDS = 0.1  # between two looks whether it is this worker's turn to have a configuration proposed
SURPRISES = 3  # trials in a row that fail alike, as nobody foresaw, before a study without results ends
SMALLER_STEP = 4  # what batches are divided by when memory ran out, and once more when it does again
NO_MEMORY = (
    " Smaller batches did not help. Search smaller heads (members, discriminator_width, adaptor_depth), make the "
    "pictures smaller, or give the worker more memory."
)
ALWAYS_CRASHES = " It did so each time. Leave this configuration out of the search, or read the worker's log."


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """A trial that this worker has."""

    slot: TrialSlot
    trial: optuna.Trial
    spec: StudySpec  # as it was when the trial began
    began: float = field(default_factory=time.monotonic)


def run_trials(context: StudyContext, bench: Bench, search: optuna.Study, run: RunTrial) -> None:
    """Run trial after trial until none is left that this worker could begin, or a study that it helps with has no lead.

    Raises:
        StudyCancelled: from the lease; the trial is given up.
        StudyPaused, WorkerStopping, LeaseLost: from the lease; the trial is put back.
        DiskFull: there is no room for what a trial must write; it is put back.
        AlwaysFails: trial after trial failed in the same way, and none has completed.
    """
    while not context.lease.lead_wanted and (begun := _begin(context, search)) is not None:
        context.lease.hold_slot(begun.slot, begun.trial.number)
        try:
            _one_trial(replace(context, spec=begun.spec), bench, search, begun, run)
        except TrialTaken as taken:
            logger.warning("%s", taken)
        finally:
            context.lease.hold_slot(None)
        _tidy(context, search)
        _refuse_to_go_on_in_vain(begun_of(context, search))


def settle(context: StudyContext, search: optuna.Study) -> bool:
    """See to the trials of workers that died, and answer whether all trials of the study have ended.

    For the one worker that leads the study.
    """
    lease = context.lease
    mine = {slot.id for slot in _slots(context)}
    for beat in lease.watch.silent("slot"):
        if beat.id in mine:
            lease.patiently(lambda beat=beat: _bury(context, search, beat))  # type: ignore[misc]
    return lease.patiently(lambda: _settled(context, search))


def begun_of(context: StudyContext, search: optuna.Study) -> list[FrozenTrial]:
    """All trials of the study; waits while the database is away."""
    return context.lease.patiently(lambda: search.get_trials(deepcopy=False))


def _begin(context: StudyContext, search: optuna.Study) -> _Begun | None:
    """Take the next slot and begin its trial, as one step for all workers; None where nothing is left.

    Its configuration is proposed later: a sampler may compute for seconds, and on SQLite nobody could write meanwhile.
    """
    lease = context.lease

    def begin() -> _Begun | None:
        with context.workspace.session() as session:
            studies.lock_study(session, lease.study.id)
            spec = StudySpec.from_json(studies.get_study(session, lease.study.id).spec)
            trials = search.get_trials(deepcopy=False)
            if searching.left(trials, spec) <= 0:
                return None
            limit = None if spec.trials is None else spec.trials + asked_for(trials)
            slot = slots.claim_slot(session, study_id=lease.study.id, worker_id=lease.worker_id, limit=limit)
            if slot is None:
                return None
            trial = searching.begin(search, spec)
            return _Begun(slot=slots.begin_trial(session, slot, trial.number), trial=trial, spec=spec)

    lease.check()
    return lease.patiently(begin)


def _propose(context: StudyContext, begun: _Begun) -> _Begun:
    """Complete a trial's configuration, one worker after the other: a sampler sees what others have, and adds to it.

    Of a worker that keeps the turn for longer than a lease nothing more is expected.
    """
    lease = context.lease
    until = time.monotonic() + context.workspace.settings.lease_seconds

    def propose() -> bool:
        with context.workspace.session() as session:
            mine = studies.take_turn(session, lease.study.id)
            if mine or time.monotonic() > until:
                searching.propose(begun.trial, begun.spec)
                return True
        return False

    while not lease.patiently(propose):
        lease.pause(TURN_SECONDS)
    return replace(begun, began=time.monotonic())


def _one_trial(
    context: StudyContext, bench: Bench, search: optuna.Study, begun: _Begun, run: RunTrial
) -> None:
    """Train, judge, tell. A configuration that fails fails its trial; the study goes on."""
    lease, trial = context.lease, begun.trial
    about = {"study": lease.study.id, "trial": trial.number + 1}
    run_id: str | None = None
    try:
        begun = _propose(context, begun)
        lease.report({"phase": "training", "epoch": 0, **_progress(context, search)}, at_once=True)
        smaller = int(trial.user_attrs.get(retries.SMALLER, 1))
        config = trial_config(context.backbone_of(trial.params).base, trial.params)
        config = replace(config, batch_patches=max(2, config.batch_patches // smaller))
        run_id = recording.start_trial(context, trial, config)
        lease.patiently(partial(recording.note_start, context, trial, config, run_id))
        if smaller > 1:
            context.tracking.set_tags(run_id, {retries.SMALLER: str(smaller)})
        logger.info("trial %d begins", trial.number + 1, extra=about)
        try:
            trained = _train(context, bench, trial, run_id, config, smaller, run)
        except optuna.TrialPruned as pruned:
            context.tracking.set_tags(run_id, {"state": str(pruned)})
            context.tracking.end_run(run_id)
            _end(context, search, begun, TrialState.PRUNED)
            logger.info("trial %d was %s", trial.number + 1, pruned, extra=about)
        except Exception as error:
            if not _of_configuration(error):
                raise
            if not isinstance(error, EngineError | ChildDied):
                bench.renew()  # a device that failed once may fail whatever comes next in that process
            _failed(context, search, begun, run_id, error)
        else:
            _keep(context, search, begun, run_id, trained)
            value, seconds = trained.findings.value, trained.findings.seconds
            logger.info("trial %d completed: %.4f in %.1f s", trial.number + 1, value, seconds, extra=about)
    except TrialTaken:
        raise
    except (WorkerStopping, StorageError, TuningError) as reason:  # a person's wish among them
        again = not isinstance(reason, StudyCancelled)
        _give_back(context, search, begun, run_id, str(reason), again=again)
        raise
    except Exception as unknown:
        _give_back(context, search, begun, run_id, repr(unknown), again=False)
        raise


def _of_configuration(error: Exception) -> bool:
    """Whether an error of training says something of the configuration: all but what ends the study or its trial."""
    others = (WorkerStopping, TrialTaken, StorageError, TuningError, OptunaError)
    return isinstance(error, ChildDied) or not isinstance(error, others)


def _train(
    context: StudyContext,
    bench: Bench,
    trial: optuna.Trial,
    run_id: str,
    config: SimpleNetConfig,
    smaller: int,
    run: RunTrial,
) -> Trained:
    lease = context.lease
    metrics = recording.EpochMetrics(context.tracking, run_id)
    pruned: list[str] = []
    began = time.monotonic()

    def on_epoch(about: tuple[Any, ...]) -> bool:
        epoch, epochs, loss, value = about
        elapsed = time.monotonic() - began
        lease.report({"phase": "training", "epoch": epoch, "epochs": epochs, "elapsed": elapsed})
        if value is None:  # of a further seed: its epochs can't be compared with those of other trials
            return True
        metrics.add(epoch, {"loss": loss, f"validation.{context.spec.objective}": value})
        lease.patiently(lambda: trial.report(value, epoch))
        if epoch < config.epochs and lease.patiently(trial.should_prune):
            pruned.append(f"pruned after epoch {epoch} of {config.epochs}")
        return not pruned

    try:
        trained = bench.train(
            str(trial.params.get("backbone", context.spec.backbone)),
            config,
            smaller,
            head_folder(context.workspace, lease.study.id, trial.number),
            run,
            on_epoch=on_epoch,
        )
    finally:
        metrics.flush()
    if trained is None:
        raise optuna.TrialPruned(pruned[0])
    return trained


def _refuse_to_go_on_in_vain(trials: list[FrozenTrial]) -> None:
    """End a search of which nothing came but the same surprise several times in a row.

    Raises:
        AlwaysFails: so it is.
    """
    ended = [trial for trial in own(trials) if trial.state.is_finished() and not given_up(trial)]
    last = ended[-SURPRISES:]
    kinds = {trial.user_attrs.get(SURPRISE) for trial in last}
    completed = any(trial.state is TrialState.COMPLETE for trial in ended)
    if completed or len(last) < SURPRISES or len(kinds) > 1 or None in kinds:
        return
    raise AlwaysFails(
        f"The last {SURPRISES} trials failed alike and none has completed: {last[-1].user_attrs[searching.ERROR]} Look "
        "for the reason in the worker's log and mend it, then add trials: the study goes on with them."
    )


def _keep(context: StudyContext, search: optuna.Study, begun: _Begun, run_id: str, trained: Trained) -> None:
    """Record a completed trial; its head is kept while it is one of the study's best."""
    lease, trial = context.lease, begun.trial
    recording.record_trial(context, run_id, trained)
    lease.patiently(lambda: searching.note_result(trial, context.spec, trained.findings))
    recording.keep_head(context, run_id, trial, trained.findings.value, begun_of(context, search))
    context.tracking.end_run(run_id)
    _end(context, search, begun, TrialState.COMPLETE, trained.findings.value)


def _tidy(context: StudyContext, search: optuna.Study) -> None:
    """After a trial has ended: show the best, and delete the heads that are not among the best any more."""
    trials = begun_of(context, search)
    context.lease.report({**so_far(trials, context.spec), "epoch": 0}, at_once=True)
    recording.sweep_heads(context, trials)


def _failed(
    context: StudyContext, search: optuna.Study, begun: _Begun, run_id: str, error: Exception
) -> None:
    """Try a configuration again whose process died or found no memory; else, and after that, fail its trial."""
    lease, trial = context.lease, begun.trial
    about = {"study": lease.study.id, "trial": trial.number + 1}
    logger.warning("trial %d: %s", trial.number + 1, error, extra=about)
    recording.record_failure(context.tracking, run_id, error)
    what = str(error) if isinstance(error, ChildDied | EngineError) else f"{type(error).__name__}: {error}"
    if not is_memory(error) and not isinstance(error, ChildDied):
        if not isinstance(error, EngineError):
            lease.patiently(lambda: trial.set_user_attr(SURPRISE, type(error).__name__))
        lease.patiently(lambda: trial.set_user_attr(searching.ERROR, what[:2000]))
        _end(context, search, begun, TrialState.FAIL)
        return
    reason, marks = what[:1500], {}
    if is_memory(error):
        marks[retries.SMALLER] = int(trial.user_attrs.get(retries.SMALLER, 1)) * SMALLER_STEP
    if not lease.patiently(lambda: retries.will_try_again(search, trial.number)):
        reason += NO_MEMORY if is_memory(error) else ALWAYS_CRASHES
    url = context.workspace.settings.optuna_url
    context.tracking.flush()
    lease.patiently(partial(trial_times.note_seconds, trial, time.monotonic() - begun.began))
    again = lease.patiently(lambda: retries.try_again(url, search, trial.number, reason, **marks))
    _let_go(context, slots.free_slot if again else slots.finish_slot, begun.slot)


def _end(
    context: StudyContext,
    search: optuna.Study,
    begun: _Begun,
    state: TrialState,
    value: float | None = None,
) -> None:
    """Tell how a trial ended, once MLflow has all of it; its slot is used up."""
    context.tracking.flush()
    lease = context.lease
    lease.check()
    lease.patiently(partial(trial_times.note_seconds, begun.trial, time.monotonic() - begun.began))
    lease.patiently(lambda: retries.tell(search, begun.trial.number, value=value, state=state))
    _let_go(context, slots.finish_slot, begun.slot)


def _let_go(context: StudyContext, how: Callable[..., None], slot: TrialSlot) -> None:
    try:
        context.lease.patiently(lambda: _in_session(context, how, slot))
    except LeaseLost as lost:
        raise TrialTaken(str(lost)) from lost


def _give_back(
    context: StudyContext,
    search: optuna.Study,
    begun: _Begun,
    run_id: str | None,
    reason: str,
    *,
    again: bool,
) -> None:
    """Give a trial back unfinished; what does not succeed is seen to by whoever notices that nobody holds it.

    Args:
        again: enqueue its configuration for whoever goes on.
    """
    url, number = context.workspace.settings.optuna_url, begun.trial.number
    try:
        _in_session(context, slots.beat_slot, begun.slot)  # only who holds the slot may touch its trial
        given = (retries.put_back if again else retries.lose)(url, search, number, reason)
        _in_session(context, slots.free_slot if given else slots.finish_slot, begun.slot)
    except (StorageError, OptunaError):
        logger.warning("trial %d was not given back", number + 1, exc_info=True)
        return
    if not given:  # it had ended when the wish came
        return
    shutil.rmtree(head_folder(context.workspace, context.lease.study.id, number), ignore_errors=True)
    if run_id is not None:
        context.tracking.end_run(run_id, "KILLED")


def _bury(context: StudyContext, search: optuna.Study, beat: Any) -> None:
    """Take the slot of a worker that was not heard of any more, and see to its trial."""
    with context.workspace.session() as session:
        slot = slots.take_silent_slot(session, beat, worker_id=context.lease.worker_id)
    if slot is None:
        return
    number = slot.trial_number
    if number is None:
        _in_session(context, slots.free_slot, slot)
        return
    again = _lost(context, search, search.get_trials(deepcopy=False)[number])
    _in_session(context, slots.free_slot if again else slots.finish_slot, slot)


def _lost(context: StudyContext, search: optuna.Study, trial: FrozenTrial) -> bool:
    """End a trial whose worker died under it; answers whether its part of the budget is free again."""
    if not trial.state.is_finished():
        logger.warning("trial %d was lost with its worker", trial.number + 1)
        if run_id := trial.user_attrs.get("run_id"):
            context.tracking.end_run(run_id, "KILLED")
    url = context.workspace.settings.optuna_url
    return retries.try_again(url, search, trial.number, "the worker died during this trial")


def _settled(context: StudyContext, search: optuna.Study) -> bool:
    """Whether nothing runs and nothing is left to begin. What no slot knows of is put right on the way."""
    lease = context.lease
    with context.workspace.session() as session:
        studies.lock_study(session, lease.study.id)
        taken = slots.list_slots(session, lease.study.id)
        known = {slot.trial_number for slot in taken}
        for trial in retries.running(search):
            if trial.number not in known:  # its worker died before it could say whose it is
                _lost(context, search, trial)
        spec = StudySpec.from_json(studies.get_study(session, lease.study.id).spec)
        trials = search.get_trials(deepcopy=False)
        slots.recount(session, **lease.hold, done=searching.counted(trials))
        if any(slot.worker_id is not None for slot in taken) or searching.left(trials, spec) > 0:
            return False
        slots.drop_free_slots(session, lease.study.id)
        return True


def _progress(context: StudyContext, search: optuna.Study) -> dict[str, Any]:
    return reported(begun_of(context, search), context.spec)


def _slots(context: StudyContext) -> list[TrialSlot]:
    def read() -> list[TrialSlot]:
        with context.workspace.session() as session:
            return slots.list_slots(session, context.lease.study.id)

    return context.lease.patiently(read)


def _in_session(context: StudyContext, action: Any, *arguments: Any) -> None:
    with context.workspace.session() as session:
        action(session, *arguments)
