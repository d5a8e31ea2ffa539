"""Who did what to a dataset, and when; kept for ever."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.records import Event
from storage.schema import DatasetRow, EventRow


def record_event(session: Session, dataset_id: int, what: str, *, who: str, now: datetime) -> None:
    """Write an event into the history of a dataset, in the transaction of what it tells of."""
    session.add(EventRow(dataset_id=dataset_id, who=who, what=what, created_at=now))
    session.flush()


def list_events(session: Session, name: str) -> list[Event]:
    """The history of a dataset, deleted or not; the newest first."""
    query = (
        select(EventRow, DatasetRow.name)
        .join(DatasetRow, DatasetRow.id == EventRow.dataset_id)
        .where(DatasetRow.name == name)
        .order_by(EventRow.id.desc())
    )
    return [
        Event(dataset_name=of, who=row.who, what=row.what, created_at=row.created_at)
        for row, of in session.execute(query)
    ]
