"""What was measured on pictures when they were read, by the digest of their pixels; shared by all datasets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.schema import ImageRow, MeasuresRow
from storage.upserts import put_rows


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
    put_rows(session, MeasuresRow, rows, replace=False)


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
