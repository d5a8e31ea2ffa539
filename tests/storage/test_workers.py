from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from storage import workers
from storage.database import session
from storage.errors import WorkerNotFound
from storage.records import Study

START = datetime(2030, 1, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_workers_come_give_signs_of_life_and_go(engine: Engine, make_study: Callable[..., Study]) -> None:
    study = make_study()
    with session(engine) as opened:
        for number in (1, 2):
            workers.register_worker(
                opened, worker_id=f"w{number}", hostname="gpu", pid=number, device="cpu", now=after(number)
            )
        beaten = workers.beat_worker(opened, worker_id="w1", study_id=study.id, now=after(100))
    assert (beaten.heartbeat_at, beaten.study_id, beaten.started_at) == (after(100), study.id, after(1))
    with session(engine) as opened:
        assert [worker.id for worker in workers.list_workers(opened)] == ["w1", "w2"]
        assert workers.list_workers(opened, alive_since=after(50)) == [beaten]
        workers.remove_worker(opened, worker_id="w1")
        workers.remove_worker(opened, worker_id="w1")
        assert [worker.id for worker in workers.list_workers(opened)] == ["w2"]
        with pytest.raises(WorkerNotFound, match="'w1'"):
            workers.beat_worker(opened, worker_id="w1", study_id=None, now=after(101))


def test_worker_that_registers_again_is_replaced(engine: Engine) -> None:
    for pid in (1, 2):
        with session(engine) as opened:
            workers.register_worker(
                opened, worker_id="w", hostname="gpu", pid=pid, device="cuda:0", now=after(pid)
            )
    with session(engine) as opened:
        assert [(worker.pid, worker.started_at) for worker in workers.list_workers(opened)] == [(2, after(2))]
