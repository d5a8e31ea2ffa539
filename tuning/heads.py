"""Heads of trials: kept for the best of a study, in the run of each and, until the study ends, on this machine.

A head is a folder with `head.safetensors` and `config.json`, as `engine.checkpoint.save_head` writes it. Weights that
fall out of the best are deleted; `simplenet reproduce` makes them again.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from storage.errors import DiskFull
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning.budget import feasible, own
from tuning.run_files import WEIGHTS

logger = logging.getLogger(__name__)

KEPT = {"weights": "kept"}  # tag of the runs that have it
REMOVED = {"weights": "removed: other trials of the study are better"}
NEVER = {"weights": "not kept: other trials of the study are better"}


def study_folder(workspace: Workspace, study_id: int) -> Path:
    """Where weights of a study lie on this machine while it runs."""
    return workspace.settings.checkpoints_folder / f"study-{study_id}"


def head_folder(workspace: Workspace, study_id: int, trial_number: int) -> Path:
    """Where the head of a trial lies on this machine while it is among its study's best."""
    return study_folder(workspace, study_id) / f"trial-{trial_number}"


def best_trials(trials: Sequence[FrozenTrial], count: int) -> list[FrozenTrial]:
    """The study's own trials of the highest values that keep all limits, best first; of equal ones the earlier."""
    complete = [
        trial
        for trial in own(trials)
        if trial.state is TrialState.COMPLETE and trial.value is not None and feasible(trial)
    ]
    return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))[:count]


def among_best(trials: Sequence[FrozenTrial], value: float, count: int) -> bool:
    """Whether a trial of this value that ends now is one of the best `count`."""
    best = best_trials(trials, count)
    return len(best) < count or value > (best[-1].value or 0.0)


def keep(workspace: Workspace, tracking: Tracking, *, study_id: int, number: int, run_id: str) -> None:
    """Keep the head of a trial, which lies here, in its run as well: other machines find it there.

    Raises:
        DiskFull: there is no room for it; no part of it is left there.
    """
    try:
        tracking.log_folder(run_id, head_folder(workspace, study_id, number), WEIGHTS)
    except DiskFull:
        tracking.delete_artifacts(run_id, WEIGHTS)  # MLflow leaves what it has copied so far
        raise
    tracking.set_tags(run_id, KEPT)


def sweep(
    workspace: Workspace,
    tracking: Tracking,
    trials: Sequence[FrozenTrial],
    *,
    dataset_name: str,
    study_id: int,
    count: int,
) -> None:
    """Delete the heads of ended trials that are not among the best `count`, one that died with its value untold too.

    Trials that have not ended are left alone: another worker may be about to tell the value of a head that it has kept.
    """
    best = {trial.number for trial in best_trials(trials, count)}
    worse = [trial for trial in trials if trial.state.is_finished() and trial.number not in best]
    kept = set(tracking.tagged_runs(dataset_name, {"study": str(study_id), "kind": "trial", **KEPT}))
    for trial in worse:
        shutil.rmtree(head_folder(workspace, study_id, trial.number), ignore_errors=True)
        run_id = trial.user_attrs.get("run_id")
        if run_id in kept:
            tracking.delete_artifacts(run_id, WEIGHTS)
            tracking.set_tags(run_id, REMOVED)


def find(
    workspace: Workspace, tracking: Tracking, *, study_id: int, number: int, run_id: str | None
) -> Path | None:
    """The folder of a trial's head on this machine, fetched where only its run has it; None where nobody has it."""
    here = head_folder(workspace, study_id, number)
    if here.is_dir():
        return here
    return tracking.artifact_folder(run_id, WEIGHTS) if run_id else None
