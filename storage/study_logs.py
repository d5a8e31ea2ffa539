"""The end of what each worker logged of a study.

A row belongs to its worker, whose id never comes again, and nobody else writes it. So it needs no fence: a worker that
has lost a study may still say so, and its last words stay when it dies.

Every function works in the session it is given and leaves committing to it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.records import LogEntry
from storage.schema import StudyLogRow
from storage.upserts import put_rows

WORKERS = 32  # of a study, whose logs are read: those that wrote last


def put_log(
    session: Session,
    *,
    study_id: int,
    worker_id: str,
    hostname: str,
    entries: Sequence[tuple[float, str]],
    now: datetime,
) -> None:
    """Replace what is kept of a worker's log of a study.

    Args:
        hostname: where the worker runs, for people.
        entries: seconds since 1970 by the worker's clock, and text that may have several lines; the latest last.
    """
    row = {
        "study_id": study_id,
        "worker_id": worker_id,
        "hostname": hostname,
        "entries": [list(entry) for entry in entries],
        "written_at": now,
    }
    put_rows(session, StudyLogRow, [row], replace=True)


def list_log(session: Session, study_id: int) -> list[LogEntry]:
    """What is kept of the logs of all workers of a study, in the order of their clocks."""
    query = select(StudyLogRow).where(StudyLogRow.study_id == study_id)
    rows = session.scalars(
        query.order_by(StudyLogRow.written_at.desc(), StudyLogRow.worker_id).limit(WORKERS),
        execution_options={"populate_existing": True},
    )
    entries = [
        LogEntry(
            at=datetime.fromtimestamp(at, UTC), worker_id=row.worker_id, hostname=row.hostname, text=text
        )
        for row in rows
        for at, text in row.entries
    ]
    return sorted(entries, key=lambda entry: entry.at)  # stable: those of a worker stay in their order
