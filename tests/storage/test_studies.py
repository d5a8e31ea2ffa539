import json
import subprocess
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from storage import studies
from storage.database import create_database, session
from storage.datasets import create_version
from storage.errors import LeaseLost, StudyFinished, StudyNotFound, VersionNotFound
from storage.heartbeats import Beat, Watch
from storage.records import DatasetVersion, Label, NewImage, Role, Study, StudyState, Wanted
from storage.schema import Base

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
LEASE_SECONDS = 60
FINISHED = [StudyState.COMPLETED, StudyState.FAILED, StudyState.CANCELLED]


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@dataclass
class Desk:
    """Each call is a session of its own, `seconds` after the start; meanwhile somebody watches the heartbeats."""

    engine: Engine
    moment: float = 0
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(LEASE_SECONDS, clock=lambda: self.moment)

    def look(self, seconds: float) -> None:
        """Let the time come, watching."""
        while True:
            with session(self.engine) as opened:
                self.watch.see(studies.study_beats(opened))
            if self.moment >= seconds:
                return
            self.moment = min(seconds, self.moment + LEASE_SECONDS / 10)

    def claim(self, worker_id: str = "w1", seconds: float = 0, clock: float | None = None) -> Study | None:
        self.look(seconds)
        moment, silent = after(seconds if clock is None else clock), self.watch.silent("study")
        with session(self.engine) as opened:  # as a worker does, one after the other
            studies.bring_to_rest(opened, silent=silent, now=moment)
        with session(self.engine) as opened:
            return studies.claim(
                opened, worker_id=worker_id, now=moment, lease_seconds=LEASE_SECONDS, silent=silent
            )

    def claimed(self, worker_id: str = "w1", seconds: float = 0, clock: float | None = None) -> Study:
        study = self.claim(worker_id, seconds, clock)
        assert study is not None
        return study

    def heartbeat(self, held: Study, seconds: float = 0, **changes: Any) -> Wanted:
        self.look(seconds)
        with session(self.engine) as opened:
            return studies.heartbeat(
                opened, **_hold(held) | changes, now=after(seconds), lease_seconds=LEASE_SECONDS
            )

    def finish(
        self,
        held: Study,
        state: StudyState = StudyState.COMPLETED,
        seconds: float = 0,
        error: str | None = None,
    ) -> Study:
        with session(self.engine) as opened:
            return studies.finish(opened, **_hold(held), state=state, error=error, now=after(seconds))

    def release(self, held: Study, seconds: float = 0) -> Study:
        with session(self.engine) as opened:
            return studies.release(opened, **_hold(held), now=after(seconds))

    def want(self, study: Study, wanted: Wanted, seconds: float = 0) -> Study:
        with session(self.engine) as opened:
            return studies.set_wanted(opened, study.id, wanted, after(seconds))

    def get(self, study: Study) -> Study:
        with session(self.engine) as opened:
            return studies.get_study(opened, study.id)


def _hold(study: Study) -> dict[str, Any]:
    return {"study_id": study.id, "worker_id": study.worker_id, "attempt": study.attempt}


@pytest.fixture
def desk(engine: Engine) -> Desk:
    return Desk(engine)


def test_new_study_waits_in_the_queue(engine: Engine, make_version: Callable[..., DatasetVersion]) -> None:
    version = make_version("plates")
    with session(engine) as opened:
        study = studies.create_study(
            opened,
            name="first",
            dataset_version_id=version.id,
            spec={"trials": 8, "σ": [0.01, 0.1]},
            now=START,
        )
    assert study == Study(
        id=study.id,
        name="first",
        dataset_name="plates",
        dataset_version_id=version.id,
        state=StudyState.QUEUED,
        wanted=Wanted.RUN,
        spec={"trials": 8, "σ": [0.01, 0.1]},
        created_at=START,
        started_at=None,
        finished_at=None,
        attempt=0,
        worker_id=None,
        lease_until=None,
        error=None,
        parent_run_id=None,
        progress={},
    )
    with session(engine) as opened:
        assert studies.get_study(opened, study.id) == study


def test_study_of_an_unknown_version_is_refused(engine: Engine) -> None:
    with pytest.raises(VersionNotFound), session(engine) as opened:
        studies.create_study(opened, name="x", dataset_version_id=404, spec={}, now=START)


def test_studies_are_listed_newest_first_and_by_dataset(
    engine: Engine, make_study: Callable[..., Study]
) -> None:
    first, second, third = make_study("plates"), make_study("screws"), make_study("plates")
    with session(engine) as opened:
        assert studies.list_studies(opened) == [third, second, first]
        assert studies.list_studies(opened, dataset="plates") == [third, first]
        assert studies.list_studies(opened, dataset="nuts") == []


def test_claim_takes_the_oldest_and_starts_its_lease(desk: Desk, make_study: Callable[..., Study]) -> None:
    first, second = make_study(), make_study()
    claimed = desk.claimed("w1", seconds=5)
    assert claimed == replace(
        first,
        state=StudyState.RUNNING,
        attempt=1,
        worker_id="w1",
        started_at=after(5),
        lease_until=after(5 + LEASE_SECONDS),
    )
    assert desk.get(first) == claimed
    assert desk.claimed("w2").id == second.id
    assert desk.claim("w3") is None


@pytest.mark.parametrize("wanted", [Wanted.PAUSE, Wanted.CANCEL])
def test_claim_skips_paused_and_cancelled_studies(
    desk: Desk, make_study: Callable[..., Study], wanted: Wanted
) -> None:
    first, second = make_study(), make_study()
    desk.want(first, wanted)
    assert desk.claimed().id == second.id
    assert desk.claim() is None


def test_claim_takes_over_when_the_lease_has_run_out_and_not_before(
    desk: Desk, make_study: Callable[..., Study]
) -> None:
    make_study()
    first = desk.claimed("w1")
    assert desk.claim("w2", seconds=LEASE_SECONDS) is None
    second = desk.claimed("w2", seconds=LEASE_SECONDS + 1)
    assert (second.id, second.attempt, second.worker_id) == (first.id, 2, "w2")
    assert second.started_at == first.started_at


def test_clock_that_is_moved_frees_nobody_and_keeps_nobody(
    desk: Desk, make_study: Callable[..., Study]
) -> None:
    make_study()
    held = desk.claimed("w1")
    for clock in (-3600, 3600):
        assert desk.claim("w2", seconds=LEASE_SECONDS / 2, clock=clock) is None
    desk.heartbeat(held, seconds=LEASE_SECONDS / 2)
    assert desk.claim("w2", seconds=LEASE_SECONDS + 1, clock=3600) is None
    assert desk.claimed("w2", seconds=2 * LEASE_SECONDS, clock=-3600).id == held.id


def test_late_heartbeat_is_heard_before_the_study_is_taken(
    desk: Desk, engine: Engine, make_study: Callable[..., Study]
) -> None:
    make_study()
    held = desk.claimed("w1")
    desk.look(LEASE_SECONDS + 1)
    silent = desk.watch.silent("study")
    assert [(beat.id, beat.attempt) for beat in silent] == [(held.id, 1)]
    desk.heartbeat(held, seconds=0)
    with session(engine) as opened:
        assert studies.claim(opened, worker_id="w2", now=START, lease_seconds=60, silent=silent) is None


def test_worker_that_could_help_leads_a_study_whose_leader_has_fallen_silent(
    desk: Desk, engine: Engine, make_study: Callable[..., Study]
) -> None:
    make_study()
    held = desk.claimed("w1")
    later = make_study()
    desk.look(LEASE_SECONDS + 1)

    def claim(silent: Sequence[Beat]) -> Study | None:
        with session(engine) as opened:
            return studies.claim(
                opened, worker_id="w2", now=START, lease_seconds=60, silent=silent, before=held
            )

    assert claim(()) is None  # its turn is before the later study's, and its leader is well
    led = claim(desk.watch.silent("study"))
    assert led is not None
    assert (led.id, led.attempt, led.worker_id) == (held.id, 2, "w2")
    assert desk.claimed("w3").id == later.id


def test_wish_to_go_on_does_not_free_what_a_wrong_clock_thinks_dead(
    desk: Desk, make_study: Callable[..., Study]
) -> None:
    make_study()
    held = desk.claimed("w1")
    desk.want(held, Wanted.PAUSE, seconds=1)
    assert desk.want(held, Wanted.RUN, seconds=3600).state is StudyState.RUNNING
    assert desk.heartbeat(held) is Wanted.RUN


def test_study_that_pauses_by_itself_tells_why_until_it_goes_on(
    engine: Engine, desk: Desk, make_study: Callable[..., Study]
) -> None:
    make_study()
    held = desk.claimed()
    with session(engine) as opened:
        paused = studies.pause_for(opened, **_hold(held), reason="no room", now=START)
    assert (paused.state, paused.wanted, paused.error) == (StudyState.PAUSED, Wanted.PAUSE, "no room")
    assert desk.claim() is None
    assert desk.want(paused, Wanted.RUN).error is None
    assert desk.claimed().id == held.id


def test_study_that_is_cancelled_while_it_pauses_by_itself_is_cancelled(
    engine: Engine, desk: Desk, make_study: Callable[..., Study]
) -> None:
    make_study()
    held = desk.claimed()
    desk.want(held, Wanted.CANCEL)
    with session(engine) as opened:
        ended = studies.pause_for(opened, **_hold(held), reason="no room", now=START)
    assert ended.state is StudyState.CANCELLED


def test_heartbeat_prolongs_the_lease(desk: Desk, make_study: Callable[..., Study]) -> None:
    make_study()
    held = desk.claimed("w1")
    assert desk.heartbeat(held, seconds=50) is Wanted.RUN
    assert desk.get(held).lease_until == after(50 + LEASE_SECONDS)
    assert desk.claim("w2", seconds=LEASE_SECONDS + 1) is None


def test_late_heartbeat_keeps_a_study_that_nobody_took(desk: Desk, make_study: Callable[..., Study]) -> None:
    make_study()
    held = desk.claimed("w1")
    assert desk.heartbeat(held, seconds=1000) is Wanted.RUN
    assert desk.claim("w2", seconds=1001) is None


@pytest.mark.parametrize("wanted", [Wanted.PAUSE, Wanted.CANCEL])
def test_heartbeat_tells_what_is_wanted(desk: Desk, make_study: Callable[..., Study], wanted: Wanted) -> None:
    make_study()
    held = desk.claimed()
    assert desk.want(held, wanted) == replace(held, wanted=wanted)
    assert desk.heartbeat(held) is wanted


def test_worker_that_lost_its_lease_can_write_nothing(
    engine: Engine, desk: Desk, make_study: Callable[..., Study]
) -> None:
    make_study()
    lost = desk.claimed("w1")
    now_held = desk.claimed("w2", seconds=LEASE_SECONDS + 1)
    writes: list[Callable[[Session], object]] = [
        lambda s: studies.heartbeat(s, **_hold(lost), now=after(99), lease_seconds=LEASE_SECONDS),
        lambda s: studies.set_progress(s, **_hold(lost), progress={"trial": 9}),
        lambda s: studies.set_parent_run(s, **_hold(lost), parent_run_id="lost"),
        lambda s: studies.set_open(s, **_hold(lost), open_to_others=True),
        lambda s: studies.check_held(s, **_hold(lost)),
        lambda s: studies.pause_for(s, **_hold(lost), reason="?", now=after(99)),
        lambda s: studies.finish(s, **_hold(lost), state=StudyState.COMPLETED, now=after(99)),
        lambda s: studies.finish(s, **_hold(lost), state=StudyState.PAUSED, now=after(99)),
        lambda s: studies.release(s, **_hold(lost), now=after(99)),
    ]
    for write in writes:
        with pytest.raises(LeaseLost, match="'w1' does not hold attempt 1"), session(engine) as opened:
            write(opened)
    assert desk.get(lost) == now_held


def test_worker_that_claims_its_own_study_again_is_fenced_by_the_attempt(
    desk: Desk, make_study: Callable[..., Study]
) -> None:
    make_study()
    first = desk.claimed("w1")
    second = desk.claimed("w1", seconds=LEASE_SECONDS + 1)
    with pytest.raises(LeaseLost):
        desk.heartbeat(first)
    assert desk.heartbeat(second, seconds=LEASE_SECONDS + 2) is Wanted.RUN
    with pytest.raises(LeaseLost):
        desk.heartbeat(second, worker_id="w2")


def test_progress_and_parent_run_are_kept(
    engine: Engine, desk: Desk, make_study: Callable[..., Study]
) -> None:
    make_study()
    held = desk.claimed()
    with session(engine) as opened:
        studies.set_progress(opened, **_hold(held), progress={"trial": 3, "best": 0.5})
        studies.set_parent_run(opened, **_hold(held), parent_run_id="abc")
    found = desk.get(held)
    assert (found.progress, found.parent_run_id) == ({"trial": 3, "best": 0.5}, "abc")
    assert desk.claimed(seconds=1000).progress == {"trial": 3, "best": 0.5}


@pytest.mark.parametrize("state", FINISHED)
def test_finishing_ends_the_lease_for_good(
    desk: Desk, make_study: Callable[..., Study], state: StudyState
) -> None:
    make_study()
    held = desk.claimed()
    ended = desk.finish(held, state, seconds=30, error="out of memory")
    assert (ended.state, ended.finished_at, ended.error) == (state, after(30), "out of memory")
    assert (ended.worker_id, ended.lease_until) == (None, None)
    assert desk.get(held) == ended
    assert desk.claim("w2", seconds=10_000) is None
    with pytest.raises(LeaseLost):
        desk.heartbeat(held)


@pytest.mark.parametrize("state", [StudyState.QUEUED, StudyState.RUNNING])
def test_finishing_in_an_unfinished_state_is_refused(
    desk: Desk, make_study: Callable[..., Study], state: StudyState
) -> None:
    make_study()
    held = desk.claimed()
    with pytest.raises(ValueError, match="release"):
        desk.finish(held, state)


@pytest.mark.parametrize(
    ("wanted", "state"),
    [
        (Wanted.RUN, StudyState.QUEUED),
        (Wanted.PAUSE, StudyState.PAUSED),
        (Wanted.CANCEL, StudyState.CANCELLED),
    ],
)
def test_study_that_is_given_back_goes_where_it_is_wanted(
    desk: Desk, make_study: Callable[..., Study], wanted: Wanted, state: StudyState
) -> None:
    make_study()
    held = desk.claimed()
    desk.want(held, wanted)
    given_back = desk.release(held, seconds=7)
    assert (given_back.state, given_back.worker_id, given_back.lease_until) == (state, None, None)
    assert given_back.finished_at == (after(7) if state.finished else None)
    assert (desk.claim("w2") is not None) == (wanted is Wanted.RUN)


def test_study_that_is_wanted_again_while_it_pauses_is_not_left_paused(
    desk: Desk, make_study: Callable[..., Study]
) -> None:
    make_study()
    held = desk.claimed()
    desk.want(held, Wanted.PAUSE)
    assert desk.heartbeat(held) is Wanted.PAUSE
    desk.want(held, Wanted.RUN)
    assert desk.finish(held, StudyState.PAUSED).state is StudyState.QUEUED
    assert desk.claimed("w2").attempt == 2


def test_paused_study_is_claimed_when_it_is_wanted_again(
    desk: Desk, make_study: Callable[..., Study]
) -> None:
    study = make_study()
    assert desk.want(study, Wanted.PAUSE).state is StudyState.PAUSED
    assert desk.claim() is None
    assert desk.want(study, Wanted.RUN).state is StudyState.QUEUED
    assert desk.claimed().id == study.id


def test_cancelling_a_study_that_nobody_runs_ends_it_at_once(
    desk: Desk, make_study: Callable[..., Study]
) -> None:
    queued, paused = make_study(), make_study()
    desk.want(paused, Wanted.PAUSE)
    for study in (queued, paused):
        cancelled = desk.want(study, Wanted.CANCEL, seconds=3)
        assert (cancelled.state, cancelled.finished_at) == (StudyState.CANCELLED, after(3))


@pytest.mark.parametrize(
    ("wanted", "state"), [(Wanted.PAUSE, StudyState.PAUSED), (Wanted.CANCEL, StudyState.CANCELLED)]
)
def test_wish_is_fulfilled_when_the_worker_died_before_or_after_it(
    desk: Desk, make_study: Callable[..., Study], wanted: Wanted, state: StudyState
) -> None:
    before, later = make_study(), make_study()
    desk.claimed("w1")
    desk.claimed("w2")
    desk.want(before, wanted, seconds=1)
    assert desk.get(before).state is StudyState.RUNNING
    assert desk.want(later, wanted, seconds=LEASE_SECONDS + 1).state is state
    assert desk.claim("w3", seconds=LEASE_SECONDS + 1) is None
    assert desk.get(before).state is state
    assert desk.get(before).finished_at == (after(LEASE_SECONDS + 1) if state.finished else None)


@pytest.mark.parametrize("state", FINISHED)
@pytest.mark.parametrize("wanted", list(Wanted))
def test_finished_study_can_not_be_changed(
    desk: Desk, make_study: Callable[..., Study], state: StudyState, wanted: Wanted
) -> None:
    make_study()
    ended = desk.finish(desk.claimed(), state)
    with pytest.raises(StudyFinished, match=f"is {state} and can't be changed"):
        desk.want(ended, wanted)
    assert desk.get(ended) == ended


def test_unknown_study_is_refused(engine: Engine) -> None:
    with session(engine) as opened:
        with pytest.raises(StudyNotFound, match="404"):
            studies.get_study(opened, 404)
        with pytest.raises(StudyNotFound, match="404"):
            studies.set_wanted(opened, 404, Wanted.CANCEL, START)
        with pytest.raises(LeaseLost, match="404"):
            studies.heartbeat(
                opened, study_id=404, worker_id="w1", attempt=1, now=START, lease_seconds=LEASE_SECONDS
            )


def test_eight_processes_never_claim_a_study_twice(
    engine: Engine,
    database_url: str,
    make_study: Callable[..., Study],
    start_script: Callable[..., "subprocess.Popen[str]"],
) -> None:
    version_id = make_study().dataset_version_id
    with session(engine) as opened:
        for number in range(299):
            studies.create_study(
                opened, name=str(number), dataset_version_id=version_id, spec={}, now=after(number)
            )
    processes = [start_script("claim_until_empty.py", database_url, f"w{number}") for number in range(8)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    claims = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    claimed = [study_id for claims_of_one in claims for study_id, _ in claims_of_one]
    assert len(claimed) == len(set(claimed)) == 300
    assert {attempt for claims_of_one in claims for _, attempt in claims_of_one} == {1}
    assert sum(bool(claims_of_one) for claims_of_one in claims) > 1, "the processes did not compete"


class LifeOfAStudy(RuleBasedStateMachine):
    """Two workers, a person and a clock do whatever they like; a plain model says what must come out."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = create_database("sqlite://")
        Base.metadata.create_all(self.engine)  # quicker than to migrate, forty times
        self.desk = Desk(self.engine)
        self.seconds = 0
        self.leases: list[Study] = []  # every lease ever given, the last one may be in force
        with session(self.engine) as opened:
            version = create_version(
                opened, name="plates", source="", source_split=False, images=[_image()], now=START
            )
            self.study = studies.create_study(
                opened, name="s", dataset_version_id=version.id, spec={}, now=START
            )
        self.state = StudyState.QUEUED
        self.wanted = Wanted.RUN
        self.lease_until = 0

    def teardown(self) -> None:
        self.engine.dispose()

    @property
    def abandoned(self) -> bool:
        return self.state is StudyState.RUNNING and self.lease_until < self.seconds

    def come_to_rest(self) -> None:
        self.state = {
            Wanted.RUN: StudyState.QUEUED,
            Wanted.PAUSE: StudyState.PAUSED,
            Wanted.CANCEL: StudyState.CANCELLED,
        }[self.wanted]

    @rule(seconds=st.sampled_from([1, LEASE_SECONDS // 2, LEASE_SECONDS + 1]))
    def time_passes(self, seconds: int) -> None:
        self.seconds += seconds

    @rule(worker_id=st.sampled_from(["w1", "w2"]))
    def claim(self, worker_id: str) -> None:
        if self.abandoned:
            self.come_to_rest()
        claimed = self.desk.claim(worker_id, self.seconds)
        assert (claimed is not None) == (self.state is StudyState.QUEUED)
        if claimed is not None:
            assert claimed.attempt == len(self.leases) + 1
            self.leases.append(claimed)
            self.state = StudyState.RUNNING
            self.lease_until = self.seconds + LEASE_SECONDS

    @rule(wanted=st.sampled_from(Wanted))
    def person_wants(self, wanted: Wanted) -> None:
        if self.state.finished:
            with pytest.raises(StudyFinished):
                self.desk.want(self.study, wanted, self.seconds)
            return
        self.desk.want(self.study, wanted, self.seconds)
        self.wanted = wanted
        if self.state is not StudyState.RUNNING or (self.abandoned and wanted is not Wanted.RUN):
            self.come_to_rest()

    def expected(self, lease: Study) -> Any:
        holds = self.state is StudyState.RUNNING and lease is self.leases[-1]
        return nullcontext() if holds else pytest.raises(LeaseLost)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        with self.expected(lease):
            assert self.desk.heartbeat(lease, self.seconds) is self.wanted
            self.lease_until = self.seconds + LEASE_SECONDS

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), state=st.sampled_from([*FINISHED, StudyState.PAUSED]))
    def finish(self, data: st.DataObject, state: StudyState) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        with self.expected(lease):
            self.desk.finish(lease, state, self.seconds)
            if state is StudyState.PAUSED:
                self.come_to_rest()
            else:
                self.state = state

    @invariant()
    def database_agrees(self) -> None:
        found = self.desk.get(self.study)
        assert (found.state, found.wanted, found.attempt) == (self.state, self.wanted, len(self.leases))
        running = found.state is StudyState.RUNNING
        assert (found.lease_until is not None) == (found.worker_id is not None) == running
        assert (found.finished_at is not None) == found.state.finished
        if running:
            assert found.lease_until == after(self.lease_until)
            assert found.worker_id == self.leases[-1].worker_id


def _image() -> NewImage:
    return NewImage(
        digest="0" * 64,
        pixel_digest="0" * 64,
        name="a.png",
        height=1,
        width=1,
        role=Role.TRAIN,
        label=Label.NORMAL,
    )


LifeOfAStudy.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLifeOfAStudy = LifeOfAStudy.TestCase
