"""Trials that two workers end in the same moment, on PostgreSQL: one of them does, and neither dies of it."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import optuna
import pytest
from optuna.trial import TrialState

from tests.postgres import running_postgres
from tuning import retries
from tuning.budget import counted
from tuning.search import open_storage
from tuning.wishes import LOST, RETRY_OF

pytestmark = pytest.mark.postgres
TRIALS = 30  # without the mend about one in two of them raises


@pytest.fixture
def url():
    with running_postgres() as postgres:
        url = postgres.new_database()
        yield url
        storage = open_storage(url)  # held for the whole process
        storage.remove_session()
        storage.engine.dispose()
        open_storage.cache_clear()


@pytest.fixture
def search(url):
    return optuna.create_study(storage=open_storage(url), study_name="study-1")


@pytest.fixture
def at_once():
    """Calls functions in the same moment, each in a thread: `at_once(f, g)`; answers what they answer."""
    with ThreadPoolExecutor(2) as pool:

        def call(*functions):
            barrier = Barrier(len(functions))

            def one(function):
                barrier.wait(10)
                return function()

            return list(pool.map(one, functions))

        yield call


def test_trial_that_two_give_up_at_once_is_given_up_by_one(url, search, at_once):
    for _ in range(TRIALS):
        number = search.ask().number
        given = at_once(*[lambda number=number: retries.lose(url, search, number, "cancelled")] * 2)
        assert sorted(given) == [False, True]
        assert search.trials[number].state is TrialState.FAIL


def test_trial_that_completes_while_it_is_given_up_has_completed(url, search):
    trial = search.ask()
    trial.set_user_attr(
        LOST, "the worker died during this trial"
    )  # and in this moment the worker tells its value
    search.tell(trial, 0.5)
    assert counted(search.trials) == 1
    assert not retries.try_again(url, search, trial.number, "the worker died during this trial")
    assert search.get_trials(states=(TrialState.WAITING,)) == []


def test_trial_that_is_told_while_it_is_given_up_ends_once(url, search, at_once):
    for _ in range(TRIALS):
        number = search.ask().number
        _, given = at_once(
            lambda number=number: retries.tell(search, number, value=0.5, state=TrialState.COMPLETE),
            lambda number=number: retries.lose(url, search, number, "cancelled"),
        )
        assert search.trials[number].state is (TrialState.FAIL if given else TrialState.COMPLETE)
    completed = [trial for trial in search.trials if trial.state is TrialState.COMPLETE]
    assert counted(search.trials) == len(completed)  # one that was told counts, whatever the other wrote


def test_trial_that_two_find_dead_at_once_is_tried_again_once(url, search, at_once):
    for _ in range(TRIALS):
        number = search.ask().number
        again = at_once(*[lambda number=number: retries.try_again(url, search, number, "it died")] * 2)
        assert again == [True, True]
        waiting = search.get_trials(states=(TrialState.WAITING,))
        assert [trial.user_attrs[RETRY_OF] for trial in waiting] == [number]
        search.tell(search.ask(), 0.5)
