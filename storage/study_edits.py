"""What people change of a study that exists: its name, its place in lists and in the queue, and how far it goes.

Like those of `storage.studies`, every function works in the session it is given and leaves committing to it; each is
one statement that holds beside workers, for none touches what a worker writes.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, case, func, literal, select, update
from sqlalchemy.orm import Session

from storage.datasets import get_version, lock_dataset
from storage.errors import BadStudyEdit
from storage.records import Study, StudyState, Wanted
from storage.schema import StudyRow
from storage.studies import get_study, study_of

MAX_NAME = 200  # characters of a study's name
_ENDED = [state for state in StudyState if state.finished]


def rename_study(session: Session, study_id: int, name: str) -> Study:
    """Call a study something else.

    Raises:
        StudyNotFound: there is none.
        BadStudyEdit: the name is empty or too long.
    """
    name = " ".join(name.split())
    if not 1 <= len(name) <= MAX_NAME:
        raise BadStudyEdit(
            f"Name of {len(name)} characters for study {study_id}: it must have 1 to {MAX_NAME}. Give a shorter one."
            if name
            else f"Study {study_id} can't be called nothing: a name must have 1 to {MAX_NAME} characters. Give one."
        )
    return _changed(session, study_id, {"name": name})


def archive_study(session: Session, study_id: int, now: datetime) -> Study:
    """Leave a study out of lists; `unarchive_study` brings it back. One that is archived stays as it is.

    Raises:
        StudyNotFound: there is none.
        BadStudyEdit: it has not ended.
    """
    row = _change(
        session,
        study_id,
        {"archived_at": case((StudyRow.archived_at.is_(None), now), else_=StudyRow.archived_at)},
        StudyRow.state.in_(_ENDED),
    )
    if row is None:
        study = get_study(session, study_id)
        raise BadStudyEdit(
            f"Study '{study.name}' ({study_id}) is {study.state}, and only what has ended is archived. "
            "Wait for its end, or cancel it first."
        )
    return study_of(row)


def unarchive_study(session: Session, study_id: int) -> Study:
    """Show a study in lists again.

    Raises:
        StudyNotFound: there is none.
    """
    return _changed(session, study_id, {"archived_at": None})


def set_priority(session: Session, study_id: int, priority: int) -> Study:
    """Say how early a study is claimed among those that wait; higher is earlier.

    Raises:
        StudyNotFound: there is none.
    """
    return _changed(session, study_id, {"priority": priority})


def move_up(session: Session, study_id: int) -> Study:
    """Put a study before all others that have not ended.

    Raises:
        StudyNotFound: there is none.
        BadStudyEdit: it has ended, so it waits for nothing.
    """
    study = get_study(session, study_id)
    if study.state.finished:
        raise BadStudyEdit(
            f"Study '{study.name}' ({study_id}) is {study.state} and waits for no worker. "
            "Add trials to it, or clone it; the new one can be moved up."
        )
    highest = session.scalar(
        select(func.max(StudyRow.priority)).where(StudyRow.id != study_id, StudyRow.state.not_in(_ENDED))
    )
    if highest is None or study.priority > highest:
        return study
    return set_priority(session, study_id, highest + 1)


def extend_study(session: Session, study_id: int, spec: Mapping[str, Any], was: Mapping[str, Any]) -> Study:
    """Give a study a larger budget; one that has completed or failed goes back to the queue.

    Args:
        spec: its new specification.
        was: the one that the new one was made of: whoever changed it meanwhile is not overwritten.
    Raises:
        StudyNotFound: there is none.
        DatasetDeleted: its dataset was deleted meanwhile.
        BadStudyEdit: it was cancelled, or its specification changed meanwhile.
    """
    study = get_study(session, study_id)
    # A deletion of the dataset must not come between: it would leave the study queued for ever.
    lock_dataset(session, get_version(session, study.dataset_version_id).dataset_id)
    study = get_study(session, study_id)  # as it is now that nobody else extends it
    if dict(study.spec) != dict(was):
        raise BadStudyEdit(
            f"Study '{study.name}' ({study_id}) was changed by somebody else meanwhile. Look again, then repeat it."
        )
    again = StudyRow.state.in_([StudyState.COMPLETED, StudyState.FAILED])
    row = _change(
        session,
        study_id,
        {
            "spec": dict(spec),
            "state": case((again, literal(StudyState.QUEUED, StudyRow.state.type)), else_=StudyRow.state),
            "wanted": case((again, literal(Wanted.RUN, StudyRow.wanted.type)), else_=StudyRow.wanted),
            "finished_at": case((again, None), else_=StudyRow.finished_at),
            "error": case((again, None), else_=StudyRow.error),
            "archived_at": None,
        },
        StudyRow.state != StudyState.CANCELLED,
        StudyRow.wanted != Wanted.CANCEL,
    )
    if row is None:
        raise BadStudyEdit(
            f"Study '{study.name}' ({study_id}) was cancelled, for good. Clone it, or narrow it into a study that "
            "starts from its trials."
        )
    return study_of(row)


def _changed(session: Session, study_id: int, values: Mapping[str, Any]) -> Study:
    row = _change(session, study_id, values)
    return get_study(session, study_id) if row is None else study_of(row)  # which says that there is none


def _change(
    session: Session, study_id: int, values: Mapping[str, Any], *conditions: ColumnElement[bool]
) -> StudyRow | None:
    row: StudyRow | None = session.scalar(
        update(StudyRow).where(StudyRow.id == study_id, *conditions).values(**values).returning(StudyRow),
        execution_options={"synchronize_session": False, "populate_existing": True},
    )
    return row
