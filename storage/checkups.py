"""What the dataset doctor found in each version, and which findings people have accepted.

Every function works in the session it is given and leaves committing to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from storage.datasets import get_dataset, get_version
from storage.schema import AcceptedRow, CheckupRow
from storage.upserts import put_rows


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """One examination of a version; a new one replaces it."""

    findings: Mapping[str, Any]  # as JSON; tuning writes and reads it
    created_at: datetime


def put_checkup(session: Session, version_id: int, findings: Mapping[str, Any], *, now: datetime) -> None:
    """Keep what was found in a version.

    Raises:
        VersionNotFound: there is no such version.
    """
    get_version(session, version_id)
    row = {"version_id": version_id, "findings": dict(findings), "created_at": now}
    put_rows(session, CheckupRow, [row], replace=True)


def get_checkup(session: Session, version_id: int) -> Checkup | None:
    """The last examination of a version, if any."""
    row = session.get(CheckupRow, version_id, populate_existing=True)
    return None if row is None else Checkup(findings=row.findings, created_at=row.created_at)


def accept_finding(
    session: Session, name: str, finding: str, subject: str, *, who: str, now: datetime
) -> None:
    """Say that a finding is as it should be, for this and all later versions of a dataset.

    Args:
        finding: its kind.
        subject: pixel digest of the picture, two of them joined by "+", or "" for the whole dataset.
    Raises:
        DatasetNotFound: there is no such dataset.
    """
    row = {
        "dataset_id": get_dataset(session, name).id,
        "finding": finding,
        "subject": subject,
        "who": who,
        "created_at": now,
    }
    put_rows(session, AcceptedRow, [row], replace=True)


def reopen_finding(session: Session, name: str, finding: str, subject: str) -> None:
    """Take an acceptance back."""
    session.execute(
        delete(AcceptedRow).where(
            AcceptedRow.dataset_id == get_dataset(session, name).id,
            AcceptedRow.finding == finding,
            AcceptedRow.subject == subject,
        )
    )


def accepted_findings(session: Session, name: str) -> set[tuple[str, str]]:
    """(finding, subject) of everything accepted in a dataset.

    Raises:
        DatasetNotFound: there is no such dataset.
    """
    dataset_id = get_dataset(session, name).id
    query = select(AcceptedRow.finding, AcceptedRow.subject).where(AcceptedRow.dataset_id == dataset_id)
    return {(row.finding, row.subject) for row in session.execute(query)}
