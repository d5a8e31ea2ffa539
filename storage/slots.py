"""The trials of a study's budget, handed out one by one to whoever works on it.

A slot is one trial of the budget. It is taken by one guarded statement, so that any number of workers together take
as many as the budget has and none twice; its holder gives signs of life; and it goes when its trial is done. A slot
that is given back, or whose holder died, is free for the next worker. Every taking raises the slot's attempt, and
whatever its holder writes names the attempt.

Every function works in the session it is given and leaves committing to it.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session

from storage.errors import LeaseLost
from storage.heartbeats import Beat
from storage.records import StudyState, TrialSlot, Wanted
from storage.schema import StudyRow, TrialSlotRow
from storage.studies import check_held

_UNSEEN = {"synchronize_session": False, "populate_existing": True}


def claim_slot(session: Session, *, study_id: int, worker_id: str, limit: int | None) -> TrialSlot | None:
    """Take the next trial of a running study's budget, or None where none is left, or it should not go on.

    Args:
        limit: trials of the budget; None: as many as are asked for.
    """
    running = (StudyRow.id == study_id, StudyRow.state == StudyState.RUNNING, StudyRow.wanted == Wanted.RUN)
    free = (
        select(TrialSlotRow.id)
        .where(TrialSlotRow.study_id == study_id, TrialSlotRow.worker_id.is_(None), exists().where(*running))
        .order_by(TrialSlotRow.number)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = session.scalar(
        update(TrialSlotRow)
        .where(TrialSlotRow.id == free.scalar_subquery(), TrialSlotRow.worker_id.is_(None))
        .values(worker_id=worker_id, attempt=TrialSlotRow.attempt + 1, progress={})
        .returning(TrialSlotRow),
        execution_options=_UNSEEN,
    )
    if row is not None:
        return _slot(row)
    # Counted in the study's own row, which this locks: two that counted rows at once would both take the last trial.
    number = session.scalar(
        update(StudyRow)
        .where(*running, *(() if limit is None else (StudyRow.slots < limit,)))
        .values(slots=StudyRow.slots + 1)
        .returning(StudyRow.slots),
        execution_options={"synchronize_session": False},
    )
    if number is None:
        return None
    row = TrialSlotRow(
        study_id=study_id,
        number=number,
        worker_id=worker_id,
        attempt=1,
        beats=0,
        trial_number=None,
        progress={},
    )
    session.add(row)
    session.flush()
    return _slot(row)


def list_slots(session: Session, study_id: int) -> list[TrialSlot]:
    """The trials of a study that are under way or given back, in the order of the budget."""
    query = select(TrialSlotRow).where(TrialSlotRow.study_id == study_id).order_by(TrialSlotRow.number)
    return [_slot(row) for row in session.scalars(query, execution_options={"populate_existing": True})]


def slot_beats(session: Session) -> list[Beat]:
    """The signs of life of all that hold a slot."""
    query = select(TrialSlotRow.id, TrialSlotRow.attempt, TrialSlotRow.beats)
    rows = session.execute(query.where(TrialSlotRow.worker_id.is_not(None)))
    return [Beat(kind="slot", id=id_, attempt=attempt, beats=beats) for id_, attempt, beats in rows]


def beat_slot(session: Session, slot: TrialSlot, progress: Mapping[str, Any] | None = None) -> None:
    """Give a sign of life, and say how far the trial is where that has changed.

    Raises:
        LeaseLost: another worker has the slot.
    """
    values: dict[str, Any] = {"beats": TrialSlotRow.beats + 1}
    _write_held(session, slot, values if progress is None else values | {"progress": dict(progress)})


def begin_trial(session: Session, slot: TrialSlot, trial_number: int | None) -> TrialSlot:
    """Remember which of Optuna's trials the slot's holder runs; None: none at present.

    Raises:
        LeaseLost: another worker has the slot.
    """
    return _write_held(session, slot, {"trial_number": trial_number, "progress": {}})


def free_slot(session: Session, slot: TrialSlot) -> None:
    """Give a slot back, for its trial to be run by somebody else or later.

    Raises:
        LeaseLost: another worker has it.
    """
    _write_held(session, slot, {"worker_id": None, "trial_number": None, "progress": {}})


def finish_slot(session: Session, slot: TrialSlot) -> None:
    """Its trial has ended: that part of the budget is used up.

    Raises:
        LeaseLost: another worker has it.
    """
    held = _held(slot)
    if session.scalar(delete(TrialSlotRow).where(*held).returning(TrialSlotRow.id)) is None:
        raise _lost(slot)


def take_silent_slot(session: Session, beat: Beat, *, worker_id: str) -> TrialSlot | None:
    """Take the slot of a holder that was not heard of; None where it was heard of after all, or somebody was quicker.

    Its trial is still named: it is the taker's to end.
    """
    row = session.scalar(
        update(TrialSlotRow)
        .where(
            TrialSlotRow.id == beat.id,
            TrialSlotRow.attempt == beat.attempt,
            TrialSlotRow.beats == beat.beats,
            TrialSlotRow.worker_id.is_not(None),
        )
        .values(worker_id=worker_id, attempt=TrialSlotRow.attempt + 1)
        .returning(TrialSlotRow),
        execution_options=_UNSEEN,
    )
    return None if row is None else _slot(row)


def recount(session: Session, *, study_id: int, worker_id: str, attempt: int, done: int) -> None:
    """Set how much of the budget is handed out to what is done and what is under way.

    For studies that were begun before slots were counted, and after a crash between two databases. Call it under
    `storage.studies.lock_study`.

    Raises:
        LeaseLost: the worker doesn't hold this attempt of the study.
    """
    check_held(session, study_id=study_id, worker_id=worker_id, attempt=attempt)
    session.execute(
        update(StudyRow)
        .where(StudyRow.id == study_id)
        .values(slots=done + len(list_slots(session, study_id))),
        execution_options={"synchronize_session": False},
    )


def drop_free_slots(session: Session, study_id: int) -> None:
    """Forget the slots of a study that were given back and that nobody shall take any more."""
    session.execute(
        delete(TrialSlotRow).where(TrialSlotRow.study_id == study_id, TrialSlotRow.worker_id.is_(None)),
        execution_options={"synchronize_session": False},
    )


def drop_slots(session: Session, study_id: int) -> None:
    """Forget the slots of a study that has ended."""
    ended = select(StudyRow.id).where(
        StudyRow.id == study_id, StudyRow.state.in_([state for state in StudyState if state.finished])
    )
    session.execute(
        delete(TrialSlotRow).where(TrialSlotRow.study_id.in_(ended)),
        execution_options={"synchronize_session": False},
    )


def _held(slot: TrialSlot) -> tuple[Any, ...]:
    return (
        TrialSlotRow.id == slot.id,
        TrialSlotRow.worker_id == slot.worker_id,
        TrialSlotRow.attempt == slot.attempt,
    )


def _write_held(session: Session, slot: TrialSlot, values: Mapping[str, Any]) -> TrialSlot:
    row = session.scalar(
        update(TrialSlotRow).where(*_held(slot)).values(**values).returning(TrialSlotRow),
        execution_options=_UNSEEN,
    )
    if row is None:
        raise _lost(slot)
    return _slot(row)


def _lost(slot: TrialSlot) -> LeaseLost:
    return LeaseLost(
        f"Worker '{slot.worker_id}' does not hold attempt {slot.attempt} of trial slot {slot.number} of study "
        f"{slot.study_id} any more. It was not heard of for too long, or the study was ended; stop working on it."
    )


def _slot(row: TrialSlotRow) -> TrialSlot:
    return TrialSlot(
        id=row.id,
        study_id=row.study_id,
        number=row.number,
        worker_id=row.worker_id,
        attempt=row.attempt,
        trial_number=row.trial_number,
        progress=row.progress,
    )
