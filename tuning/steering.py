"""What people ask of a study that exists: more trials, a configuration, a narrower follow-up, a clone, another name."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from storage import datasets, studies, study_edits
from storage.errors import BadStudyEdit
from storage.records import Study, StudyState, Wanted, now
from storage.workspace import Workspace
from tuning import search as searching
from tuning.budget import counted, ended_by, own
from tuning.commands import launch_study
from tuning.errors import BadSpec
from tuning.narrowing import narrowed
from tuning.spec import Sampler, StudySpec
from tuning.wishes import configuration, given_up, read_wish


def add_trials(workspace: Workspace, study_id: int, count: int) -> Study:
    """Let a study try more configurations; one that has completed or failed goes back to the queue.

    Where it ended by its time or its patience, that limit is dropped: the new trials are wanted all the same.

    Raises:
        StudyNotFound: there is none.
        BadSpec: the number breaks its rule, or nothing is left of a grid.
        BadStudyEdit: it was cancelled, or somebody else changed it meanwhile.
    """
    if count < 1:
        raise BadSpec(f"{count} more trials: at least 1 is needed. To stop a study, pause or cancel it.")
    return _extend(workspace, study_id, count, by_hand=False)


def _extend(workspace: Workspace, study_id: int, count: int, *, by_hand: bool) -> Study:
    """Make room for more trials; `by_hand`: for configurations that are asked for, which no grid needs to have."""
    study = _study(workspace, study_id)
    spec = StudySpec.from_json(study.spec)
    trials = searching.trials_of(workspace.settings.optuna_url, study_id)
    if spec.trials is None and not study.state.finished:
        raise BadSpec(
            f"Study '{study.name}' ({study_id}) has no number of trials to add to: it ends by its time or patience. "
            "Wait for its end, then add trials."
        )
    so_far = counted(trials) if study.state.finished else (spec.trials or 0)
    larger = replace(spec, trials=so_far + count)
    if study.state.finished and ended_by(trials, larger) is not None:
        larger = replace(larger, minutes=None, patience=None)
        if not by_hand and spec.sampler is Sampler.GRID and (reason := ended_by(trials, larger)) is not None:
            raise BadSpec(
                f"Study '{study.name}' ({study_id}) has no more to try: {reason}. Clone it with more grid steps, or "
                "with another sampler."
            )
    with workspace.session() as session:
        return study_edits.extend_study(session, study_id, larger.to_json(), study.spec)


def enqueue(workspace: Workspace, study_id: int, wanted: Mapping[str, Any]) -> tuple[Study, dict[str, Any]]:
    """Let a study try a configuration of a person's choice next, beyond its budget.

    Args:
        wanted: by parameter; what is left out, the sampler chooses.
    Returns:
        The study, and the values as they will be tried.
    Raises:
        StudyNotFound: there is none.
        BadSpec: the configuration lies outside the study's space, or was tried already.
        BadStudyEdit: the study was cancelled.
    """
    study = _study(workspace, study_id)
    if study.state is StudyState.CANCELLED or study.wanted is Wanted.CANCEL:
        raise BadStudyEdit(
            f"Study '{study.name}' ({study_id}) was cancelled, for good. Clone it, then enqueue there."
        )
    spec = StudySpec.from_json(study.spec)
    wish = read_wish(spec, wanted)
    url = workspace.settings.optuna_url
    for trial in own(searching.trials_of(url, study_id)):
        if not given_up(trial) and set(wish) == set(spec.space) and configuration(trial) == wish:
            raise BadSpec(
                f"This configuration is trial {trial.number + 1} of study '{study.name}' ({study_id}) already; trained "
                "again it gives the same. Change a value."
            )
    if spec.trials is not None or study.state.finished:  # first, for it may be refused
        study = _extend(workspace, study_id, 1, by_hand=True)
    searching.enqueue(url, study_id, spec, wish)
    return study, wish


def narrow(
    workspace: Workspace, study_id: int, *, trials: int | None = None, name: str | None = None
) -> Study:
    """Launch a study of the same pictures around the best trials of another, starting from its trials.

    Args:
        trials: that the new one runs itself; None: as many as the old one's specification says.
    Raises:
        StudyNotFound: there is none.
        BadSpec: too few trials completed, or the number breaks its rule.
        DatasetDeleted: its dataset was deleted.
    """
    study = _study(workspace, study_id)
    spec = narrowed(
        StudySpec.from_json(study.spec),
        searching.trials_of(workspace.settings.optuna_url, study_id),
        study_id,
    )
    if trials is not None:
        spec = replace(spec, trials=trials)
    return launch_study(
        workspace,
        study.dataset_name,
        spec,
        name=name or f"{study.name}, narrowed",
        version_id=study.dataset_version_id,
    )


def clone(workspace: Workspace, study_id: int, *, name: str | None = None) -> Study:
    """Launch the same study again, of the dataset's latest version.

    Raises:
        StudyNotFound, BadSpec, DatasetTooSmall: there is none, or the dataset can't carry it any more.
    """
    study = _study(workspace, study_id)
    spec = StudySpec.from_json(study.spec)
    with workspace.session() as session:
        latest = datasets.latest_version(session, study.dataset_name)
    if latest.id != study.dataset_version_id:  # values of other pictures say nothing
        spec = replace(spec, follows=None)
    return launch_study(workspace, study.dataset_name, spec, name=name or f"{study.name}, again")


def like(study: Study) -> StudySpec:
    """The specification to begin another study with: it may be changed, so it starts from nobody's trials."""
    return replace(StudySpec.from_json(study.spec), follows=None)


def rename(workspace: Workspace, study_id: int, name: str) -> Study:
    """Call a study something else.

    Raises:
        StudyNotFound, BadStudyEdit: there is none, or the name breaks its rule.
    """
    with workspace.session() as session:
        return study_edits.rename_study(session, study_id, name)


def archive(workspace: Workspace, study_id: int) -> Study:
    """Leave an ended study out of lists; its trials, runs and models stay.

    Raises:
        StudyNotFound, BadStudyEdit: there is none, or it has not ended.
    """
    with workspace.session() as session:
        return study_edits.archive_study(session, study_id, now())


def unarchive(workspace: Workspace, study_id: int) -> Study:
    """Show a study in lists again.

    Raises:
        StudyNotFound: there is none.
    """
    with workspace.session() as session:
        return study_edits.unarchive_study(session, study_id)


def move_up(workspace: Workspace, study_id: int) -> Study:
    """Let a study be taken before all others that wait.

    Raises:
        StudyNotFound, BadStudyEdit: there is none, or it has ended.
    """
    with workspace.session() as session:
        return study_edits.move_up(session, study_id)


def _study(workspace: Workspace, study_id: int) -> Study:
    with workspace.session() as session:
        return studies.get_study(session, study_id)
