"""Calls of MLflow that wait in order while it is away. The real MLflow that goes away is in tests/faults."""

import errno
import inspect
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import outbox
from storage.errors import DiskFull, TrackingError, TrackingUnavailable
from storage.outbox import PatientTracking
from storage.settings import Settings
from storage.tracking import Tracking


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "RETRY_SECONDS", (0.01,))


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[PatientTracking]:
    home = tmp_path / "home"
    home.mkdir()
    tracking = PatientTracking(Settings(home=home), lambda _: None)
    yield tracking
    tracking.close()


def fails(times: int, then: Callable[[], Any], error: Exception) -> Callable[[], Any]:
    """A call that fails so often before it succeeds."""
    left = [times]

    def call() -> Any:
        if left[0]:
            left[0] -= 1
            raise error
        return then()

    return call


def test_calls_are_made_in_order_and_once_though_some_fail_first(patient: PatientTracking) -> None:
    made: list[int] = []
    for number in range(20):
        patient.later(
            fails(number % 3, lambda number=number: made.append(number), TrackingUnavailable("away"))
        )
    assert patient.answer(lambda: list(made)) == list(range(20))


def test_who_waits_is_told_why_and_may_stop_waiting(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    told: list[str | None] = []

    def wait(trouble: str | None) -> None:
        told.append(trouble)
        if trouble is not None:
            raise KeyboardInterrupt

    tracking = PatientTracking(Settings(home=tmp_path / "home"), wait)
    ended = threading.Event()
    tracking.later(fails(10**9, ended.set, TrackingUnavailable("away since noon")))
    late: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        tracking.answer(lambda: late.append(1))
    assert told[-1] == "away since noon"
    tracking.close()
    assert not ended.is_set()
    assert late == []


def test_refusal_is_told_to_the_next_who_waits(patient: PatientTracking) -> None:
    patient.later(fails(1, lambda: None, TrackingError("no such run")))
    with pytest.raises(TrackingError, match="no such run"):
        patient.flush()
    patient.flush()


def test_full_disk_is_not_waited_for(patient: PatientTracking) -> None:
    def full() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise TrackingUnavailable("MLflow could not log it") from error

    patient.later(full)
    with pytest.raises(DiskFull, match="has no room left"):
        patient.flush()


def test_too_many_calls_wait_for_room(patient: PatientTracking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LIMIT", 3)
    made: list[int] = []
    for number in range(10):
        patient.later(lambda number=number: made.append(number))
        assert len(patient._calls) <= 3
    patient.flush()
    assert made == list(range(10))


def test_every_call_that_speaks_to_mlflow_is_patient() -> None:
    public = {
        name
        for name, value in vars(Tracking).items()
        if not name.startswith("_") and inspect.isfunction(value)
    }
    assert public == {*outbox._QUEUED, *outbox._ANSWERED, "log_metrics"}


def test_real_run_holds_what_was_sent(patient: PatientTracking) -> None:
    run_id = patient.start_run("plates", "trial 1", tags={"kind": "trial"})
    for epoch in (1, 2, 3):
        patient.log_metrics(run_id, {"loss": 1 / epoch}, step=epoch)
    patient.set_tags(run_id, {"state": "fine"})
    patient.end_run(run_id)
    found = patient.run(run_id)
    assert (found.status, found.tags["state"], found.metrics["loss"]) == ("FINISHED", "fine", 1 / 3)
