"""How far a study is, in words and as a fraction."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from dashboard.following import fraction_done, seconds_left, status_line
from storage.records import Study, StudyState, Wanted

STARTED = datetime(2025, 11, 23, 12, tzinfo=UTC)


def _study(
    state: StudyState, progress: Mapping[str, Any] | None = None, trials: int | None = 20, **limits: float
) -> Study:
    return Study(
        id=1,
        name="plates 1",
        dataset_name="plates",
        dataset_version_id=1,
        state=state,
        wanted=Wanted.RUN,
        spec={"trials": trials, **limits},
        created_at=STARTED,
        started_at=STARTED,
        finished_at=None,
        attempt=1,
        worker_id="w",
        lease_until=None,
        error=None,
        parent_run_id=None,
        progress=progress or {},
    )


RUNNING = StudyState.RUNNING
TRAINING = {"phase": "training", "trial": 7, "epoch": 3, "epochs": 10, "best": 0.94}


@pytest.mark.parametrize(
    ("state", "progress", "line"),
    [
        (StudyState.QUEUED, {}, "waiting for a worker"),
        (RUNNING, {}, "preparing"),
        (RUNNING, {"phase": "features", "done": 8, "total": 90}, "computing features, 8 of 90 pictures"),
        (RUNNING, TRAINING, "6 of 20 trials, epoch 3 of 10, best 0.940"),
        (RUNNING, {"phase": "champion", "best": 0.94, "message": "sealed test"}, "best 0.940; sealed test"),
        (
            StudyState.COMPLETED,
            TRAINING,
            "20 trials, best 0.940",
        ),  # by a worker that did not tell how many ended
        (StudyState.COMPLETED, {**TRAINING, "ended": 12}, "12 trials, best 0.940"),  # its patience was over
        (StudyState.CANCELLED, TRAINING, "cancelled after 6 of 20 trials, best 0.940"),
        (StudyState.FAILED, {}, "failed after 0 of 20 trials"),
    ],
)
def test_status_line(state: StudyState, progress: Mapping[str, Any], line: str) -> None:
    assert status_line(_study(state, progress)) == line


def test_status_line_without_epochs_changes_once_per_trial() -> None:
    assert status_line(_study(RUNNING, TRAINING), with_epoch=False) == "6 of 20 trials, best 0.940"


def test_fraction_counts_epochs_within_the_trial() -> None:
    assert fraction_done(_study(RUNNING, {"trial": 1, "epoch": 0})) == 0
    assert fraction_done(_study(RUNNING, TRAINING)) == pytest.approx(6.3 / 20)
    assert fraction_done(_study(StudyState.COMPLETED)) == 1
    assert fraction_done(_study(StudyState.QUEUED)) == 0


def test_time_left_follows_the_time_spent_in_trials() -> None:
    """Not the time since the study began: it may have been paused, or given more trials, a week later."""
    told = {**TRAINING, "ended": 6, "searched": 60.0, "elapsed": 3.0}
    assert seconds_left(_study(RUNNING, told)) == pytest.approx(137)
    assert seconds_left(_study(RUNNING, told, trials=30)) == pytest.approx(237)


def test_time_left_counts_what_other_workers_have_under_way() -> None:
    told = {**TRAINING, "ended": 1, "under_way": 3.0, "searched": 60.0, "elapsed": 0.0, "epoch": 0}
    assert seconds_left(_study(RUNNING, told)) == pytest.approx(16 * 15)


def test_last_trial_that_is_slow_is_still_waited_for() -> None:
    told = {**TRAINING, "ended": 19, "searched": 190.0, "elapsed": 60.0}
    assert seconds_left(_study(RUNNING, told)) == pytest.approx(140)


def test_time_left_is_not_guessed_in_the_first_trial_or_while_paused() -> None:
    assert seconds_left(_study(RUNNING, {**TRAINING, "ended": 0, "searched": 0.0, "elapsed": 60.0})) is None
    assert seconds_left(_study(RUNNING, TRAINING)) is None  # an older worker tells no seconds
    assert seconds_left(_study(StudyState.PAUSED, {**TRAINING, "ended": 6, "searched": 60.0})) is None
    others = {**TRAINING, "ended": 19, "searched": 60.0, "waiting_for_others": True}
    assert seconds_left(_study(RUNNING, others)) is None


def test_minutes_are_known_from_the_first_trial_on() -> None:
    first = {"phase": "training", "trial": 1, "ended": 0, "searched": 0.0, "elapsed": 90.0}
    study = _study(RUNNING, first, None, minutes=30)
    assert seconds_left(study) == 60 * 30 - 90
    assert fraction_done(study) == pytest.approx(90 / 1800)
    paused = _study(StudyState.PAUSED, {**first, "searched": 900.0}, None, minutes=30)
    assert fraction_done(paused) == pytest.approx(0.5)
    over = _study(RUNNING, {**first, "searched": 1790.0}, None, minutes=30)
    assert (fraction_done(over), seconds_left(over)) == (1, None)


def test_limit_that_comes_first_counts() -> None:
    told = {**TRAINING, "ended": 6, "searched": 60.0, "elapsed": 0.0, "epoch": 0}
    assert seconds_left(_study(RUNNING, told, minutes=2)) == pytest.approx(60)
    assert fraction_done(_study(RUNNING, told, minutes=2)) == pytest.approx(0.5)
    assert seconds_left(_study(RUNNING, told, minutes=60)) == pytest.approx(140)


def test_patience_alone_has_no_known_end_and_is_told_in_words() -> None:
    told = {**TRAINING, "ended": 6, "searched": 60.0, "elapsed": 3.0, "fruitless": 3}
    study = _study(RUNNING, told, None, patience=10)
    assert fraction_done(study) is None
    assert seconds_left(study) is None
    assert status_line(study, with_epoch=False) == "6 trials, 3 of 10 without improvement, best 0.940"
    assert fraction_done(_study(StudyState.COMPLETED, told, None, patience=10)) == 1
