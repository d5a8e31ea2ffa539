"""A completed trial that a person wants as a candidate, though it was not its study's best: judged and registered.

`python -m tuning.candidates STUDY_ID TRIAL_NUMBER WHO` does it as a job. It trains the trial again where its weights
are gone (the same seed gives the same weights), reads the sealed test, records that, and registers the model. It never
promotes: a person compares, and decides.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from storage import models, studies
from storage.events import record_event
from storage.records import Model, Study, now
from storage.settings import Settings
from storage.tracking import Tracking
from storage.workspace import Session, Workspace, open_workspace
from tuning import computing, jobs
from tuning.champion import register_candidate
from tuning.commands import MADE_CANDIDATE
from tuning.context import StudySetup
from tuning.errors import NotCompleted
from tuning.jobs import Job, Progress
from tuning.pictures import study_pictures
from tuning.search import open_storage, study_name
from tuning.spec import StudySpec
from tuning.study import began_with, read_version, refuse_other_backbones

MODULE = "tuning.candidates"
PREFIX = "candidate-"  # of the keys of the jobs


def job_key(study_id: int, trial_number: int) -> str:
    """Key of the job that makes a trial a candidate."""
    return f"{PREFIX}{study_id}-{trial_number}"


def start_candidate(workspace: Workspace, study_id: int, trial_number: int, *, who: str) -> Job:
    """Make a completed trial a candidate in the background.

    Args:
        trial_number: Optuna's, from 0.
    Raises:
        StudyNotFound, NotCompleted: there is no such study or trial, or it has not ended well.
        DiskFull: no room for the job's status.
    """
    completed_trial(workspace, study_id, trial_number)
    arguments = [str(study_id), str(trial_number), who]
    return jobs.start(workspace.settings, job_key(study_id, trial_number), MODULE, arguments)


def completed_trial(workspace: Workspace, study_id: int, trial_number: int) -> tuple[Study, FrozenTrial]:
    """A trial that can become a candidate, and its study.

    Raises:
        StudyNotFound, NotCompleted: as `start_candidate`.
    """
    with workspace.session() as session:
        study = studies.get_study(session, study_id)
    if not study.state.finished:
        raise NotCompleted(
            f"Study '{study.name}' is {study.state}; its own best trial becomes a candidate at its end. Wait for that, "
            "or cancel the study."
        )
    try:
        storage = open_storage(workspace.settings.optuna_url)
        trials = storage.get_all_trials(storage.get_study_id_from_name(study_name(study_id)), deepcopy=False)
    except KeyError:  # no worker ever began it
        trials = []
    trial = next((trial for trial in trials if trial.number == trial_number), None)
    if trial is None or trial.state is not TrialState.COMPLETE:
        complete = [str(one.number + 1) for one in trials if one.state is TrialState.COMPLETE]
        raise NotCompleted(
            f"Trial {trial_number + 1} of study '{study.name}' is not completed, so there is no model to judge. "
            f"Completed are {', '.join(complete) or 'none'}."
        )
    return study, trial


def sealed_readings(workspace: Workspace, dataset_version_id: int) -> int:
    """How often the sealed test pictures of a version were read; each time makes them less sealed."""
    with workspace.session() as session:
        return len(models.list_test_readings(session, dataset_version_id=dataset_version_id))


def make(workspace: Workspace, study_id: int, trial_number: int, *, who: str, progress: Progress) -> Model:
    """Judge a completed trial on the sealed test and register it; the model that it became before, where it did.

    Raises:
        StudyNotFound, NotCompleted: as `start_candidate`.
        BackboneChanged: the study's backbone is not to be had here.
        JobCancelled: from `progress`.
    """
    study, trial = completed_trial(workspace, study_id, trial_number)
    before = sealed_readings(workspace, study.dataset_version_id)
    holder = _Told(study, progress)
    spec = StudySpec.from_json(study.spec)
    began = Tracking(workspace.settings).tags(study.parent_run_id) if study.parent_run_id else {}
    ready = computing.resolve(workspace.settings, spec, began_with(spec, began), holder.report)
    refuse_other_backbones(study, began, ready)
    version, images = read_version(workspace, study.dataset_version_id)
    setup = StudySetup(
        settings=workspace.settings,
        study_id=study.id,
        spec=spec,
        version=version,
        pictures=study_pictures(images),
        backbones={name: one.backbone for name, one in ready.items()},
    )
    computing.load(setup, holder.report)
    backbone = str(trial.params.get("backbone", spec.backbone))
    model = register_candidate(*computing.candidate_context(holder, backbone), trial)
    after = sealed_readings(workspace, study.dataset_version_id)
    if after > before:
        with workspace.session() as session:
            what = (
                f"{MADE_CANDIDATE} trial {trial_number + 1} of study '{study.name}', model version {model.version}: "
                f"reading {after} of the sealed test pictures of dataset version {version.number}"
            )
            record_event(session, version.dataset_id, what, who=who, now=now())
    return model


class _Told:
    """A finished study in the hands of a job: nobody else works on it, so there is no lease to keep alive."""

    def __init__(self, study: Study, progress: Progress) -> None:
        self.study = study
        self._told: dict[str, Any] = {}
        self._on_progress = progress

    def fence(self, session: Session) -> None:
        """Nobody else may write to a finished study's models but jobs for other trials of it."""

    def check(self) -> None:
        """Stop where the job is cancelled."""
        self.report({})

    def report(self, progress: Mapping[str, Any], *, at_once: bool = False) -> None:  # noqa: ARG002
        """Tell the job's progress instead of the study's."""
        self._told.update(progress)
        text = str(self._told.get("message") or self._told.get("phase") or "preparing")
        self._on_progress(int(self._told.get("done", 0)), int(self._told.get("total", 0)), text)


def main(arguments: Sequence[str]) -> None:
    """Make a trial a candidate in this process."""
    study_id, trial_number, who = int(arguments[0]), int(arguments[1]), arguments[2]
    logging.basicConfig(level=logging.INFO)
    settings = Settings()

    def do(progress: Progress) -> Any:
        model = make(open_workspace(settings), study_id, trial_number, who=who, progress=progress)
        return {"version": model.version}

    jobs.work(settings, job_key(study_id, trial_number), do)


if __name__ == "__main__":
    main(sys.argv[1:])
