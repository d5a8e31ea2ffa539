"""Slots of a study's budget on real databases: taken once each, given back, taken from the dead."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine

from storage import slots, studies
from storage.database import session
from storage.errors import LeaseLost
from storage.heartbeats import Beat, Watch
from storage.records import Study, StudyState, TrialSlot, Wanted

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
LEASE_SECONDS = 60


@pytest.fixture
def led(engine: Engine, make_study: Callable[..., Study]) -> Study:
    """A study that worker `lead` holds."""
    make_study()
    with session(engine) as opened:
        study = studies.claim(opened, worker_id="lead", now=START, lease_seconds=LEASE_SECONDS)
    assert study is not None
    return study


@pytest.fixture
def take(engine: Engine, led: Study) -> Callable[..., TrialSlot | None]:
    """Takes a slot of the study: `take("w1", limit=3)`."""

    def claim(worker_id: str = "w1", limit: int | None = 3) -> TrialSlot | None:
        with session(engine) as opened:
            return slots.claim_slot(opened, study_id=led.id, worker_id=worker_id, limit=limit)

    return claim


def held(take: Callable[..., TrialSlot | None], *arguments: Any, **keywords: Any) -> TrialSlot:
    slot = take(*arguments, **keywords)
    assert slot is not None
    return slot


def test_budget_is_handed_out_exactly(engine: Engine, take: Any, led: Study) -> None:
    first, second = held(take, "w1", limit=2), held(take, "w2", limit=2)
    assert (first.number, second.number) == (1, 2)
    assert take("w3", limit=2) is None
    with session(engine) as opened:
        slots.finish_slot(opened, first)
    assert take("w3", limit=2) is None, "a trial that is done is used up"
    assert held(take, "w3", limit=3).number == 3, "a budget that is raised has more"
    with session(engine) as opened:
        assert [slot.number for slot in slots.list_slots(opened, led.id)] == [2, 3]


def test_slot_that_is_given_back_is_taken_before_new_ones(engine: Engine, take: Any) -> None:
    first = held(take)
    held(take)
    with session(engine) as opened:
        begun = slots.begin_trial(opened, first, 7)
        slots.free_slot(opened, first)
    assert begun.trial_number == 7
    again = held(take, "w2")
    assert (again.number, again.attempt, again.trial_number) == (1, 2, None)


@pytest.mark.parametrize("wanted", [Wanted.PAUSE, Wanted.CANCEL])
def test_study_that_should_stop_hands_nothing_out(
    engine: Engine, take: Any, led: Study, wanted: Wanted
) -> None:
    first = held(take)
    with session(engine) as opened:
        slots.free_slot(opened, first)
        studies.set_wanted(opened, led.id, wanted, START)
    assert take() is None


def test_holder_that_lost_its_slot_can_write_nothing(engine: Engine, take: Any) -> None:
    lost = held(take, "w1")
    with session(engine) as opened:
        slots.beat_slot(opened, lost, {"epoch": 3})
        (beat,) = slots.slot_beats(opened)
        taken = slots.take_silent_slot(opened, beat, worker_id="w2")
    assert taken is not None
    assert (taken.attempt, taken.progress) == (2, {"epoch": 3})
    writes: list[Callable[[Any], object]] = [
        lambda s: slots.beat_slot(s, lost),
        lambda s: slots.begin_trial(s, lost, 1),
        lambda s: slots.free_slot(s, lost),
        lambda s: slots.finish_slot(s, lost),
    ]
    for write in writes:
        with (
            pytest.raises(LeaseLost, match="'w1' does not hold attempt 1 of trial slot 1"),
            session(engine) as opened,
        ):
            write(opened)
    with session(engine) as opened:
        assert slots.take_silent_slot(opened, beat, worker_id="w3") is None, "it was taken already"


def test_slot_is_silent_only_for_who_watched_a_whole_lease(engine: Engine, take: Any) -> None:
    moment = [0.0]
    watch = Watch(LEASE_SECONDS, clock=lambda: moment[0])
    slot = held(take)

    def look(seconds: float) -> list[Beat]:
        moment[0] = seconds
        with session(engine) as opened:
            watch.see(slots.slot_beats(opened))
        return watch.silent("slot")

    for seconds in range(0, 61, 10):
        assert look(seconds) == []
    with session(engine) as opened:
        slots.beat_slot(opened, slot)
    for seconds in range(70, 131, 10):
        assert look(seconds) == []
    assert [beat.id for beat in look(140)] == [slot.id]


def test_watcher_that_slept_takes_from_nobody() -> None:
    """Neither its holders nor the watcher could do anything meanwhile: a machine asleep, a database away."""
    moment = [0.0]
    watch = Watch(LEASE_SECONDS, clock=lambda: moment[0])
    beat = Beat(kind="slot", id=1, attempt=1, beats=5)
    watch.see([beat])
    moment[0] = 3600
    watch.see([beat])
    assert watch.silent("slot") == []


def test_trials_of_an_older_program_count(engine: Engine, take: Any, led: Study) -> None:
    hold = {"study_id": led.id, "worker_id": "lead", "attempt": led.attempt}
    with session(engine) as opened:
        slots.recount(opened, **hold, done=1)
    assert held(take).number == 2
    with session(engine) as opened:
        slots.recount(opened, **hold, done=1)
    assert held(take).number == 3
    assert take() is None
    with pytest.raises(LeaseLost), session(engine) as opened:
        slots.recount(opened, **hold | {"attempt": 7}, done=0)


def test_slots_that_nobody_shall_take_are_forgotten(engine: Engine, take: Any, led: Study) -> None:
    first, second = held(take), held(take)
    with session(engine) as opened:
        slots.free_slot(opened, first)
        slots.drop_free_slots(opened, led.id)
        assert [slot.id for slot in slots.list_slots(opened, led.id)] == [second.id]


def test_open_studies_are_offered_to_others(engine: Engine, take: Any, led: Study) -> None:
    hold = {"study_id": led.id, "worker_id": "lead", "attempt": led.attempt}
    with session(engine) as opened:
        assert studies.first_open(opened) is None, "not prepared"
        studies.set_open(opened, **hold, open_to_others=True)
        found = studies.first_open(opened)
        assert found is not None
        assert found.id == led.id
        assert studies.first_open(opened, without=[led.id]) is None
        studies.finish(opened, **hold, state=StudyState.COMPLETED, now=START)
        assert studies.first_open(opened) is None
        slots.drop_slots(opened, led.id)


def test_turn_is_of_one_worker_and_no_write_waits_for_it(engine: Engine, led: Study) -> None:
    shared = engine.dialect.name == "postgresql"  # else a study has one worker, whose turn it always is
    with session(engine) as mine:
        assert studies.take_turn(mine, led.id)
        with session(engine) as other:
            assert studies.take_turn(other, led.id) is not shared
            assert studies.take_turn(other, led.id + 1)
            studies.set_wanted(other, led.id, Wanted.PAUSE, START)
            studies.lock_study(other, led.id)
    with session(engine) as other:
        assert studies.take_turn(other, led.id)


def test_eight_processes_together_take_the_budget_and_none_of_it_twice(
    engine: Engine, database_url: str, led: Study, start_script: Callable[..., "subprocess.Popen[str]"]
) -> None:
    processes = [
        start_script("claim_slots.py", database_url, f"w{number}", led.id, 300) for number in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    taken = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert sorted(number for of_one in taken for number in of_one) == list(range(1, 301))
    assert sum(bool(of_one) for of_one in taken) > 1, "the processes did not compete"
