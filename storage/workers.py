"""The workers that run now or were heard of lately: what pages show of them.

Every function works in the session it is given and leaves committing to it. `now` is what
`storage.studies.common_clock` answers, where several machines take part.
"""

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from storage.errors import WorkerNotFound
from storage.records import Worker
from storage.schema import WorkerRow


def register_worker(
    session: Session,
    *,
    worker_id: str,
    hostname: str,
    pid: int,
    device: str,
    now: datetime,
    threads: int | None = None,
) -> Worker:
    """Add a worker to the list; one of the same id is replaced.

    Args:
        threads: of the processor that its training uses.
    """
    row = session.merge(
        WorkerRow(
            id=worker_id,
            hostname=hostname,
            pid=pid,
            device=device,
            started_at=now,
            heartbeat_at=now,
            study_id=None,
            threads=threads,
            trial_number=None,
        )
    )
    session.flush()
    return _worker(row)


def beat_worker(
    session: Session, *, worker_id: str, study_id: int | None, trial_number: int | None = None, now: datetime
) -> Worker:
    """Record that a worker lives, and what it works on.

    Raises:
        WorkerNotFound: it isn't in the list, perhaps removed because it was silent for long.
    """
    row = session.scalar(
        update(WorkerRow)
        .where(WorkerRow.id == worker_id)
        .values(heartbeat_at=now, study_id=study_id, trial_number=trial_number)
        .returning(WorkerRow),
        execution_options={"synchronize_session": False, "populate_existing": True},
    )
    if row is None:
        raise WorkerNotFound(f"Worker '{worker_id}' is not in the list of workers. Register it again.")
    return _worker(row)


def list_workers(session: Session, *, alive_since: datetime | None = None) -> list[Worker]:
    """All workers, or those that gave a sign of life since; the longest running first."""
    query = select(WorkerRow).order_by(WorkerRow.started_at, WorkerRow.id)
    if alive_since is not None:
        query = query.where(WorkerRow.heartbeat_at >= alive_since)
    return [_worker(row) for row in session.scalars(query, execution_options={"populate_existing": True})]


def remove_worker(session: Session, *, worker_id: str) -> None:
    """Take a worker off the list; nothing happens when it isn't there."""
    session.execute(
        delete(WorkerRow).where(WorkerRow.id == worker_id), execution_options={"synchronize_session": False}
    )


def _worker(row: WorkerRow) -> Worker:
    return Worker(
        id=row.id,
        hostname=row.hostname,
        pid=row.pid,
        device=row.device,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        study_id=row.study_id,
        threads=row.threads,
        trial_number=row.trial_number,
    )
