"""Trials that did not come to their end: given up, put back for later, or tried again a few times.

Optuna's trials are told apart by their number; one that is lost stays as it is, and its configuration is enqueued as a
new one.
"""

from contextlib import suppress
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from tuning.search import RETRIES, open_storage, out_of_reach, study_name
from tuning.wishes import ERROR, LOST, ORIGIN, RETRY_OF, configuration, given_up

SMALLER = "batches_divided_by"  # user attribute of a trial: memory ran out under its configuration before
_KEPT = (ORIGIN, SMALLER, RETRY_OF)  # what a configuration that is put back keeps of the trial that had it


def put_back(url: str, search: optuna.Study, number: int, reason: str) -> bool:
    """Give up a running trial by a person's wish, and enqueue its configuration for when the study goes on.

    Returns:
        Whether it was still running.
    """
    trial = _trial(search, number)
    if given := _lose(url, search, trial, LOST, reason):
        kept = {name: trial.user_attrs[name] for name in _KEPT if name in trial.user_attrs}
        search.enqueue_trial(configuration(trial), user_attrs=kept)
    return given


def try_again(url: str, search: optuna.Study, number: int, reason: str, **marks: Any) -> bool:
    """Fail a running trial and enqueue its configuration once more, at most twice; then it counts as failed.

    Args:
        marks: user attributes of the new trial.
    Returns:
        Whether it is tried again; True too where somebody else has decided so already.
    """
    trial = _trial(search, number)
    if trial.state.is_finished():
        return given_up(trial)
    again = _retries(search, trial) < RETRIES
    if not _lose(url, search, trial, LOST if again else ERROR, reason):
        return given_up(_trial(search, number))
    if again:
        kept = {name: trial.user_attrs[name] for name in _KEPT if name in trial.user_attrs}
        search.enqueue_trial(configuration(trial), user_attrs={**kept, **marks, RETRY_OF: number})
    return again


def will_try_again(search: optuna.Study, number: int) -> bool:
    """Whether the configuration of a trial may be tried once more."""
    return _retries(search, _trial(search, number)) < RETRIES


def lose(url: str, search: optuna.Study, number: int, reason: str) -> bool:
    """Give up a running trial for good; it does not count. Answers whether it was still running."""
    return _lose(url, search, _trial(search, number), LOST, reason)


def give_up(url: str, study_id: int, reason: str, *, waiting: bool) -> list[str]:
    """Fail whatever is left running of a study that has ended.

    Args:
        waiting: and what waits to be tried, where the study never goes on.
    Returns:
        The MLflow runs that those trials left open.
    Raises:
        DatabaseUnavailable: Optuna's database is out of reach.
    """
    states = (TrialState.RUNNING, TrialState.WAITING) if waiting else (TrialState.RUNNING,)
    try:
        search = optuna.load_study(storage=open_storage(url), study_name=study_name(study_id))
        left = search.get_trials(deepcopy=False, states=states)
        lost = [trial for trial in left if _lose(url, search, trial, LOST, reason)]
    except KeyError:  # it never began
        return []
    except StorageInternalError as error:
        raise out_of_reach(error) from error
    return [trial.user_attrs["run_id"] for trial in lost if "run_id" in trial.user_attrs]


def running(search: optuna.Study) -> list[FrozenTrial]:
    """The trials that count as running, whoever runs them."""
    return search.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def tell(search: optuna.Study, number: int, *, value: float | None = None, state: TrialState) -> None:
    """Tell how a trial ended; nothing happens where that was told before, perhaps by a call whose answer got lost."""
    if _trial(search, number).state.is_finished():
        return
    with suppress(UpdateFinishedTrialError):  # by somebody else, this moment
        search.tell(number, values=value, state=state, skip_if_finished=True)


def _trial(search: optuna.Study, number: int) -> FrozenTrial:
    return search.get_trials(deepcopy=False)[number]


def _lose(url: str, search: optuna.Study, trial: FrozenTrial, attribute: str, reason: str) -> bool:
    """Fail a trial; answers False where somebody else has ended it, this moment perhaps.

    Of two that try in one moment one is answered True on PostgreSQL. SQLite locks no rows; there both may be, but one
    worker at a time has a study.
    """
    storage = open_storage(url)
    study_id = storage.get_study_id_from_name(search.study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
    try:
        storage.set_trial_user_attr(trial_id, attribute, reason)
        if trial.state is TrialState.WAITING:  # Optuna ends only what has begun
            storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        storage.set_trial_state_values(trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return False
    return True


def _retries(search: optuna.Study, trial: FrozenTrial) -> int:
    """How often the configuration of `trial` was already tried again."""
    by_number = {other.number: other for other in search.get_trials(deepcopy=False)}
    count = 0
    while RETRY_OF in trial.user_attrs:
        count += 1
        trial = by_number[trial.user_attrs[RETRY_OF]]
    return count
