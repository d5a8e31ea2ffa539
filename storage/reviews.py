"""What people said of pictures while looking at heatmaps: which were looked at, and what can be undone.

The correction that follows of it waits in `storage.edits` like any other. Every function works in the session it is
given and leaves committing to it.
"""

from collections.abc import Container
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from storage.datasets import get_dataset
from storage.records import Edit, Label, Review
from storage.schema import ReviewRow


def add_review(
    session: Session,
    name: str,
    *,
    pixel_digest: str,
    label: Label,
    model_id: int | None,
    before: Edit | None,
    after: Edit | None,
    who: str,
    now: datetime,
) -> Review:
    """Record a person's word on a picture.

    Args:
        before, after: the correction of the picture that waited before, and the one that waits now.
    Raises:
        DatasetNotFound: there is no such dataset.
    """
    row = ReviewRow(
        dataset_id=get_dataset(session, name).id,
        pixel_digest=pixel_digest,
        label=label,
        model_id=model_id,
        before=_values(before),
        after=_values(after),
        who=who,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return _review(row)


def last_review(session: Session, name: str) -> Review | None:
    """The newest word on any picture of a dataset that no version holds yet."""
    row = session.scalar(
        select(ReviewRow)
        .where(ReviewRow.dataset_id == get_dataset(session, name).id, ReviewRow.version_id.is_(None))
        .order_by(ReviewRow.id.desc())
        .limit(1)
    )
    return None if row is None else _review(row)


def list_reviews(session: Session, name: str) -> dict[str, Review]:
    """The last word on each picture of a dataset that was looked at, by its pixel digest."""
    rows = session.scalars(
        select(ReviewRow).where(ReviewRow.dataset_id == get_dataset(session, name).id).order_by(ReviewRow.id)
    )
    return {row.pixel_digest: _review(row) for row in rows}


def forget_review(session: Session, review_id: int) -> None:
    """Take a person's word back."""
    session.execute(delete(ReviewRow).where(ReviewRow.id == review_id))


def settle_reviews(session: Session, dataset_id: int, version_id: int, pixel_digests: Container[str]) -> None:
    """Note that what people said so far of these pictures is part of a version: it can't be undone any more."""
    rows = session.scalars(
        select(ReviewRow).where(ReviewRow.dataset_id == dataset_id, ReviewRow.version_id.is_(None))
    )
    for row in rows:
        if row.pixel_digest in pixel_digests:
            row.version_id = version_id
    session.flush()


def _values(edit: Edit | None) -> dict[str, Any]:
    return {} if edit is None else asdict(edit)


def _edit(values: dict[str, Any]) -> Edit | None:
    if not values:
        return None
    label = values["label"]
    return Edit(**{**values, "label": None if label is None else Label(label)})


def _review(row: ReviewRow) -> Review:
    return Review(
        id=row.id,
        pixel_digest=row.pixel_digest,
        label=row.label,
        model_id=row.model_id,
        before=_edit(row.before),
        after=_edit(row.after),
        who=row.who,
        created_at=row.created_at,
        version_id=row.version_id,
    )
