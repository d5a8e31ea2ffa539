"""Rows of studies, and the leases that workers hold on them.

A study is led by whoever holds its lease: `claim` gives it, `heartbeat` prolongs it, `finish` or `release` ends it,
and one whose heartbeats stand still can be claimed by another worker, which tells so by its own clock
(`storage.heartbeats`). Every claim raises the study's attempt number, and whatever a worker writes names the attempt it
holds: a worker that was away too long gets `LeaseLost` instead of overwriting its successor. Trials of one study may be
run by several workers at once; `storage.slots` hands them out.

Every function works in the session it is given and leaves committing to it. `now` is for people, and for
`lease_until`, by which a person's wish is fulfilled at once where a study's worker has died; no lease is taken by it.
Where several machines take part, pass what `common_clock` answers.
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    SQLColumnExpression,
    and_,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Session

from storage.datasets import get_version, lock_dataset
from storage.errors import LeaseLost, StudyFinished, StudyNotFound
from storage.heartbeats import Beat
from storage.records import Study, StudyState, Wanted
from storage.schema import DatasetRow, StudyRow, TrialSlotRow, VersionRow

_FINISHED = [state for state in StudyState if state.finished]
# Where a study goes that nobody runs, by what is wanted of it.
_AT_REST = {
    Wanted.RUN: StudyState.QUEUED,
    Wanted.PAUSE: StudyState.PAUSED,
    Wanted.CANCEL: StudyState.CANCELLED,
}
_TURNS = (
    0x5475726E  # any number that all our processes share; with a study's, a lock of PostgreSQL's own kind
)
# Higher priority first, then the older.
_TURN = (StudyRow.priority.desc(), StudyRow.id)


def common_clock(session: Session, now: datetime) -> datetime:
    """The one clock that heartbeats are written and read by: PostgreSQL's own, for its machines' clocks need not agree.

    Args:
        now: by the caller's clock, which is everybody's where SQLite is used: all are on one machine.
    """
    if session.get_bind().dialect.name != "postgresql":
        return now
    moment: datetime = session.execute(select(func.now())).scalar_one()
    return moment.astimezone(UTC)


def create_study(
    session: Session,
    *,
    name: str,
    dataset_version_id: int,
    spec: Mapping[str, Any],
    now: datetime,
    priority: int = 0,
) -> Study:
    """Put a study into the queue.

    Args:
        name: for people; need not be unique.
        spec: what to search, as JSON; storage never looks into it.
        priority: higher is claimed first.
    Raises:
        VersionNotFound: there is no such dataset version.
        DatasetDeleted: its dataset was deleted.
    """
    # Else a deletion that does not see this study yet could come in between, and leave it queued for ever.
    lock_dataset(session, get_version(session, dataset_version_id).dataset_id)
    row = StudyRow(
        name=name,
        dataset_version_id=dataset_version_id,
        state=StudyState.QUEUED,
        wanted=Wanted.RUN,
        spec=dict(spec),
        created_at=now,
        attempt=0,
        progress={},
        priority=priority,
    )
    session.add(row)
    session.flush()
    return study_of(row)


def get_study(session: Session, study_id: int) -> Study:
    """The study of this id.

    Raises:
        StudyNotFound: there is none.
    """
    row = session.get(StudyRow, study_id, populate_existing=True)
    if row is None:
        raise StudyNotFound(f"There is no study with id {study_id}. Take one from the list of studies.")
    return study_of(row)


def list_studies(session: Session, *, dataset: str | None = None) -> list[Study]:
    """All studies, or those of the dataset of this name; the newest first."""
    query = select(StudyRow).order_by(StudyRow.id.desc())
    if dataset is not None:
        query = query.join(StudyRow.version).join(VersionRow.dataset).where(DatasetRow.name == dataset)
    return [study_of(row) for row in session.scalars(query, execution_options={"populate_existing": True})]


def claim(
    session: Session,
    *,
    worker_id: str,
    now: datetime,
    lease_seconds: float,
    study_id: int | None = None,
    silent: Collection[Beat] = (),
    before: Study | None = None,
    without: Collection[int] = (),
) -> Study | None:
    """Give the first study that waits to a worker, or None when none waits; with `study_id` that one or none.

    Waiting are queued studies, paused ones that are wanted again, and running ones whose worker has fallen silent; of
    the last, `bring_to_rest` sees to those that should be paused or cancelled.

    Args:
        silent: the last signs of life of workers that were not heard of for a lease; whoever was heard of since keeps
            its study.
        before: only a study whose turn is before this running one's, or this one itself, where its worker has fallen
            silent: helping alone would never end it.
        without: studies that the asker can not work on.
    """
    abandoned = _abandoned(silent)
    waiting = and_(
        StudyRow.wanted == Wanted.RUN,
        or_(StudyRow.state.in_([StudyState.QUEUED, StudyState.PAUSED]), abandoned),
        StudyRow.id.not_in(without),
    )
    if study_id is not None:
        waiting = and_(waiting, StudyRow.id == study_id)
    if before is not None:
        waiting = and_(waiting, or_(_before(before), StudyRow.id == before.id))
    # One statement that finds and takes: with two, several workers find the same study. PostgreSQL skips those that
    # another worker is taking at this moment; SQLite lets one worker at a time do this.
    first = select(StudyRow.id).where(waiting).order_by(*_TURN).limit(1).with_for_update(skip_locked=True)
    row = session.scalar(
        update(StudyRow)
        .where(StudyRow.id == first.scalar_subquery(), waiting)
        .values(
            state=StudyState.RUNNING,
            worker_id=worker_id,
            lease_until=now + timedelta(seconds=lease_seconds),
            attempt=StudyRow.attempt + 1,
            started_at=case((StudyRow.started_at.is_(None), now), else_=StudyRow.started_at),
            error=None,
            open=False,
        )
        .returning(StudyRow),
        execution_options={"synchronize_session": False, "populate_existing": True},
    )
    return None if row is None else study_of(row)


def bring_to_rest(session: Session, *, silent: Collection[Beat], now: datetime) -> list[Study]:
    """Pause or cancel what should be and whose worker has fallen silent. Whoever cancels ends the trials, too.

    Args:
        silent: as for `claim`.
    """
    rows = session.scalars(
        update(StudyRow)
        .where(_abandoned(silent), StudyRow.wanted != Wanted.RUN)
        .values(**_rest_values(StudyRow.wanted, now))
        .returning(StudyRow),
        execution_options={"synchronize_session": False, "populate_existing": True},
    )
    return [study_of(row) for row in rows]


def first_open(
    session: Session, *, study_id: int | None = None, without: Collection[int] = ()
) -> Study | None:
    """The first running study that other workers may take trials of; with `study_id` that one or none.

    Args:
        without: studies that the asker can not work on.
    """
    query = (
        select(StudyRow)
        .where(StudyRow.state == StudyState.RUNNING, StudyRow.wanted == Wanted.RUN)
        .where(
            or_(
                StudyRow.open,
                exists().where(TrialSlotRow.study_id == StudyRow.id, TrialSlotRow.worker_id.is_(None)),
            )
        )
        .where(StudyRow.id.not_in(without))
        .order_by(*_TURN)
        .limit(1)
    )
    if study_id is not None:
        query = query.where(StudyRow.id == study_id)
    row = session.scalar(query, execution_options={"populate_existing": True})
    return None if row is None else study_of(row)


def set_open(session: Session, *, study_id: int, worker_id: str, attempt: int, open_to_others: bool) -> None:
    """Say whether other workers may take trials of a study: it is prepared, and its budget is not used up.

    Raises:
        LeaseLost: the worker doesn't hold this attempt of the study any more.
    """
    _write_held(session, study_id, worker_id, attempt, {"open": open_to_others})


def study_beats(session: Session) -> list[Beat]:
    """The signs of life of all workers that hold a study."""
    query = select(StudyRow.id, StudyRow.attempt, StudyRow.beats).where(StudyRow.state == StudyState.RUNNING)
    return [
        Beat(kind="study", id=id_, attempt=attempt, beats=beats)
        for id_, attempt, beats in session.execute(query)
    ]


def wish(session: Session, study_id: int) -> tuple[StudyState, Wanted]:
    """The state of a study and what is wanted of it; the quickest question about it.

    Raises:
        StudyNotFound: there is none.
    """
    found = session.execute(
        select(StudyRow.state, StudyRow.wanted).where(StudyRow.id == study_id)
    ).one_or_none()
    if found is None:
        raise StudyNotFound(f"There is no study with id {study_id}. Take one from the list of studies.")
    return found.state, found.wanted


def lock_study(session: Session, study_id: int) -> None:
    """Have others that lock the study wait until this session ends; where SQLite is used there are no others."""
    session.execute(select(StudyRow.id).where(StudyRow.id == study_id).with_for_update())


def take_turn(session: Session, study_id: int) -> bool:
    """Keep the turn of a study until this session ends, unless another worker has it. Nothing is locked but the turn.

    Where SQLite is used each study has one worker, which always has it.
    """
    if session.get_bind().dialect.name != "postgresql":
        return True
    mine: bool = session.execute(select(func.pg_try_advisory_xact_lock(_TURNS, study_id))).scalar_one()
    return mine


def check_held(session: Session, *, study_id: int, worker_id: str, attempt: int) -> None:
    """Keep the lease from being taken before this session ends; call it first where other tables are written.

    Raises:
        LeaseLost: the worker doesn't hold this attempt of the study any more.
    """
    _write_held(session, study_id, worker_id, attempt, {"attempt": attempt})


def heartbeat(
    session: Session, *, study_id: int, worker_id: str, attempt: int, now: datetime, lease_seconds: float
) -> Wanted:
    """Prolong a lease and learn what is wanted.

    Raises:
        LeaseLost: the worker doesn't hold this attempt of the study any more.
    """
    values = {"lease_until": now + timedelta(seconds=lease_seconds), "beats": StudyRow.beats + 1}
    return _write_held(session, study_id, worker_id, attempt, values).wanted


def set_progress(
    session: Session, *, study_id: int, worker_id: str, attempt: int, progress: Mapping[str, Any]
) -> None:
    """Replace what a study shows of its progress.

    Raises:
        LeaseLost: the worker doesn't hold this attempt of the study any more.
    """
    _write_held(session, study_id, worker_id, attempt, {"progress": dict(progress)})


def set_parent_run(
    session: Session, *, study_id: int, worker_id: str, attempt: int, parent_run_id: str
) -> None:
    """Remember the MLflow run above the runs of a study's trials.

    Raises:
        LeaseLost: the worker doesn't hold this attempt of the study any more.
    """
    _write_held(session, study_id, worker_id, attempt, {"parent_run_id": parent_run_id})


def finish(
    session: Session,
    *,
    study_id: int,
    worker_id: str,
    attempt: int,
    state: StudyState,
    error: str | None = None,
    now: datetime,
) -> Study:
    """End a lease and say how the study ended, or that it is paused.

    Args:
        state: a finished one, or `PAUSED`: then what a person wants by now decides (see `release`).
        error: why it failed, for people.
    Raises:
        LeaseLost: the worker doesn't hold this attempt of the study any more.
        ValueError: state is QUEUED or RUNNING.
    """
    if state is StudyState.PAUSED:
        return release(session, study_id=study_id, worker_id=worker_id, attempt=attempt, now=now)
    if not state.finished:
        raise ValueError(f"a study can't be finished as {state}; call release to give it back")
    values = {
        "state": state,
        "error": error,
        "finished_at": now,
        "worker_id": None,
        "lease_until": None,
        "open": False,
    }
    return study_of(_write_held(session, study_id, worker_id, attempt, values))


def pause_for(
    session: Session, *, study_id: int, worker_id: str, attempt: int, reason: str, now: datetime
) -> Study:
    """Pause a study by itself, for a reason that a person must mend before it can go on.

    Raises:
        LeaseLost: the worker doesn't hold this attempt of the study any more.
    """
    pause = literal(Wanted.PAUSE, StudyRow.wanted.type)
    wanted = case((StudyRow.wanted == Wanted.CANCEL, StudyRow.wanted), else_=pause)
    values = {"wanted": wanted, "error": reason}
    _write_held(session, study_id, worker_id, attempt, values)
    return release(session, study_id=study_id, worker_id=worker_id, attempt=attempt, now=now)


def release(
    session: Session,
    *,
    study_id: int,
    worker_id: str,
    attempt: int,
    now: datetime,
    reason: str | None = None,
) -> Study:
    """Give a study back unfinished: it is then queued, paused or cancelled, as is wanted of it by now.

    Args:
        reason: why, for people, where there is something to mend; shown until the next claim. None: none is shown.
    Raises:
        LeaseLost: the worker doesn't hold this attempt of the study any more.
    """
    values = _rest_values(StudyRow.wanted, now)
    if reason is not None:
        values["error"] = reason
    return study_of(_write_held(session, study_id, worker_id, attempt, values))


def set_wanted(session: Session, study_id: int, wanted: Wanted, now: datetime) -> Study:
    """Say what a person wants of a study.

    One that nobody runs is at once queued, paused or cancelled; one that runs learns it at its worker's next
    heartbeat. One whose lease is over by the caller's clock is paused or cancelled at once, too: should its worker live
    after all, it stops at its next heartbeat, as was wanted.

    Raises:
        StudyNotFound: there is no such study.
        StudyFinished: it has ended already.
    """
    held = StudyRow.state == StudyState.RUNNING
    if wanted is not Wanted.RUN:
        held = and_(held, StudyRow.lease_until >= now)
    error = {"error": None} if wanted is Wanted.RUN else {}
    rest = _rest_values(literal(wanted, StudyRow.wanted.type), now)
    row = session.scalar(
        update(StudyRow)
        .where(StudyRow.id == study_id, StudyRow.state.not_in(_FINISHED))
        .values(
            wanted=wanted,
            **error,
            **{name: case((held, getattr(StudyRow, name)), else_=value) for name, value in rest.items()},
        )
        .returning(StudyRow),
        execution_options={"synchronize_session": False, "populate_existing": True},
    )
    if row is None:
        study = get_study(session, study_id)
        raise StudyFinished(
            f"Study '{study.name}' ({study_id}) is {study.state} and can't be changed. Start a new one."
        )
    return study_of(row)


def _rest_values(wanted: SQLColumnExpression[Wanted], now: datetime) -> dict[str, Any]:
    """What the columns of a study become that nobody runs any more."""
    state = StudyRow.state.type
    return {
        "state": case(
            *(
                (wanted == value, literal(_AT_REST[value], state))
                for value in Wanted
                if value is not Wanted.RUN
            ),
            else_=literal(_AT_REST[Wanted.RUN], state),
        ),
        "finished_at": case((wanted == Wanted.CANCEL, literal(now, StudyRow.finished_at.type)), else_=None),
        "worker_id": None,
        "lease_until": None,
        "open": False,
    }


def _before(other: Study) -> ColumnElement[bool]:
    """Whether a study's turn is before that of another."""
    return or_(
        StudyRow.priority > other.priority, and_(StudyRow.priority == other.priority, StudyRow.id < other.id)
    )


def _abandoned(silent: Collection[Beat]) -> ColumnElement[bool]:
    """Whether a study runs by its record, and nothing was heard of its worker since these signs of life."""
    seen = [(beat.id, beat.attempt, beat.beats) for beat in silent if beat.kind == "study"]
    return and_(
        StudyRow.state == StudyState.RUNNING,
        tuple_(StudyRow.id, StudyRow.attempt, StudyRow.beats).in_(seen),
    )


def _write_held(
    session: Session, study_id: int, worker_id: str, attempt: int, values: Mapping[str, Any]
) -> StudyRow:
    """Write to a study in one statement that also checks that the worker holds it."""
    row: StudyRow | None = session.scalar(
        update(StudyRow)
        .where(
            StudyRow.id == study_id,
            StudyRow.worker_id == worker_id,
            StudyRow.attempt == attempt,
            StudyRow.state == StudyState.RUNNING,
        )
        .values(**values)
        .returning(StudyRow),
        execution_options={"synchronize_session": False, "populate_existing": True},
    )
    if row is None:
        raise LeaseLost(
            f"Worker '{worker_id}' does not hold attempt {attempt} of study {study_id} any more. "
            "Its lease ran out or the study was ended; stop working on it."
        )
    return row


def study_of(row: StudyRow) -> Study:
    """The record of a row."""
    return Study(
        id=row.id,
        name=row.name,
        dataset_name=row.version.dataset.name,
        dataset_version_id=row.dataset_version_id,
        state=row.state,
        wanted=row.wanted,
        spec=row.spec,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        attempt=row.attempt,
        worker_id=row.worker_id,
        lease_until=row.lease_until,
        error=row.error,
        parent_run_id=row.parent_run_id,
        progress=row.progress,
        priority=row.priority,
        archived_at=row.archived_at,
    )
