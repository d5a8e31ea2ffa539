"""Logs of a study's workers on real databases: one row each, read together."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine

from storage import study_logs
from storage.database import session
from storage.records import Study
from storage.study_logs import WORKERS

START = datetime(2030, 1, 1, 12, tzinfo=UTC)


def test_logs_of_several_workers_are_read_in_the_order_of_time(
    engine: Engine, make_study: Callable[..., Study]
) -> None:
    study, other = make_study(), make_study("bolts")
    second = START.timestamp() + 1
    with session(engine) as opened:
        for entries in ([(second, "gone")], [(START.timestamp(), "one"), (second + 1, "three\0")]):
            study_logs.put_log(
                opened, study_id=study.id, worker_id="a", hostname="first", entries=entries, now=START
            )
        study_logs.put_log(
            opened,
            study_id=study.id,
            worker_id="b",
            hostname="second",
            entries=[(second, "two")],
            now=START,
        )
    with session(engine) as opened:
        found = study_logs.list_log(opened, study.id)
        assert study_logs.list_log(opened, other.id) == []
    assert [(entry.worker_id, entry.hostname, entry.text) for entry in found] == [
        ("a", "first", "one"),
        ("b", "second", "two"),
        ("a", "first", "three\0"),
    ]
    assert found[0].at == START


def test_of_many_workers_those_are_read_that_wrote_last(
    engine: Engine, make_study: Callable[..., Study]
) -> None:
    study = make_study()
    with session(engine) as opened:
        for number in range(WORKERS + 3):
            study_logs.put_log(
                opened,
                study_id=study.id,
                worker_id=f"w{number}",
                hostname="first",
                entries=[(float(number), str(number))],
                now=START + timedelta(seconds=number),
            )
    with session(engine) as opened:
        texts = [entry.text for entry in study_logs.list_log(opened, study.id)]
    assert texts == [str(number) for number in range(3, WORKERS + 3)]
