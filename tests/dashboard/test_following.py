"""How far a study is, in words and as a fraction."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dashboard.following import fraction_done, seconds_left, status_line
from storage.records import Study, StudyState, Wanted

STARTED = datetime(2025, 11, 23, 12, tzinfo=UTC)


def _study(state: StudyState, progress: Mapping[str, Any] | None = None, trials: int = 20) -> Study:
    return Study(
        id=1,
        name="plates 1",
        dataset_name="plates",
        dataset_version_id=1,
        state=state,
        wanted=Wanted.RUN,
        spec={"trials": trials},
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
        (RUNNING, TRAINING, "trial 7 of 20, epoch 3 of 10, best 0.940"),
        (RUNNING, {"phase": "champion", "best": 0.94, "message": "sealed test"}, "best 0.940; sealed test"),
        (StudyState.COMPLETED, TRAINING, "20 trials, best 0.940"),
        (StudyState.CANCELLED, TRAINING, "cancelled at trial 7 of 20, best 0.940"),
        (StudyState.FAILED, {}, "failed at trial 0 of 20"),
    ],
)
def test_status_line(state: StudyState, progress: Mapping[str, Any], line: str) -> None:
    assert status_line(_study(state, progress)) == line


def test_status_line_without_epochs_changes_once_per_trial() -> None:
    assert status_line(_study(RUNNING, TRAINING), with_epoch=False) == "trial 7 of 20, best 0.940"


def test_fraction_counts_epochs_within_the_trial() -> None:
    assert fraction_done(_study(RUNNING, {"trial": 1, "epoch": 0})) == 0
    assert fraction_done(_study(RUNNING, TRAINING)) == pytest.approx(6.3 / 20)
    assert fraction_done(_study(StudyState.COMPLETED)) == 1
    assert fraction_done(_study(StudyState.QUEUED)) == 0


def test_time_left_follows_the_pace_so_far() -> None:
    now = STARTED + timedelta(seconds=63)
    assert seconds_left(_study(RUNNING, TRAINING), now) == pytest.approx(137)


def test_time_left_is_not_guessed_in_the_first_trial_or_while_paused() -> None:
    now = STARTED + timedelta(seconds=60)
    assert seconds_left(_study(RUNNING, {"trial": 1, "epoch": 5, "epochs": 10}), now) is None
    assert seconds_left(_study(StudyState.PAUSED, TRAINING), now) is None
