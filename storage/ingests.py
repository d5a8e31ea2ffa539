"""What reading the pictures of a version left out, and what is to be known of those that it took."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.datasets import get_dataset
from storage.records import Ingest, Remark, Skipped
from storage.schema import IngestRow, VersionRow


def put_ingest(session: Session, version_id: int, ingest: Ingest) -> None:
    """Keep the report of the reading that made a version; one that has a report keeps it."""
    if session.get(IngestRow, version_id) is None:
        session.add(IngestRow(version_id=version_id, report=asdict(ingest)))
        session.flush()


def get_ingest(session: Session, version_id: int) -> Ingest:
    """The report of the reading that made a version; an empty one where it was made without reading pictures."""
    row = session.get(IngestRow, version_id)
    return Ingest() if row is None else _ingest(row.report)


def dataset_remarks(session: Session, name: str) -> tuple[Remark, ...]:
    """Everything that was remarked of a dataset's pictures, in any of its versions.

    Raises:
        DatasetNotFound: there is no such dataset.
    """
    reports = session.scalars(
        select(IngestRow.report)
        .join(VersionRow, VersionRow.id == IngestRow.version_id)
        .where(VersionRow.dataset_id == get_dataset(session, name).id)
        .order_by(VersionRow.number)
    )
    return tuple(remark for report in reports for remark in _ingest(report).remarks)


def _ingest(report: Mapping[str, Any]) -> Ingest:
    return Ingest(
        skipped=tuple(Skipped(**one) for one in report["skipped"]),
        remarks=tuple(Remark(**one) for one in report["remarks"]),
        notes=tuple(report["notes"]),
    )
