"""What was measured on pictures when they were read, by the digest of their pixels; shared by all datasets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from storage.schema import ImageRow, MeasuresRow

ROWS_AT_ONCE = 500  # a database takes only so many values in one statement


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measures of one picture."""

    values: Mapping[str, Any]  # numbers by name, as the engine measured them
    signature: bytes  # a small grey copy


def put_measures(session: Session, measures: Mapping[str, Measured]) -> None:
    """Keep measures by pixel digest; a picture that has some keeps them."""
    rows = [
        {"pixel_digest": digest, "values": dict(one.values), "signature": one.signature}
        for digest, one in measures.items()
    ]
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    for start in range(0, len(rows), ROWS_AT_ONCE):
        session.execute(
            dialect.insert(MeasuresRow).on_conflict_do_nothing(), rows[start : start + ROWS_AT_ONCE]
        )


def version_measures(session: Session, version_id: int) -> dict[str, Measured]:
    """Measures of a version's images by pixel digest; images read by older programs have none."""
    query = (
        select(MeasuresRow.pixel_digest, MeasuresRow.__table__.c["values"], MeasuresRow.signature)
        .join(ImageRow, ImageRow.pixel_digest == MeasuresRow.pixel_digest)
        .where(ImageRow.version_id == version_id)
    )
    return {
        digest: Measured(values=values, signature=signature)
        for digest, values, signature in session.execute(query)
    }
