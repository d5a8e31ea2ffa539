"""Corrections of pictures that wait to become part of a dataset's next version.

They lie in the database, so that a reload, another browser or a crash loses none; one per picture, the last wins.
Every function works in the session it is given and leaves committing to it.
"""

from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from storage.datasets import get_dataset, lock_dataset
from storage.errors import BadEdit
from storage.records import Edit, Label
from storage.schema import EditRow
from storage.upserts import ROWS_AT_ONCE, put_rows


def put_edits(session: Session, name: str, edits: Iterable[Edit], *, who: str, now: datetime) -> None:
    """Add corrections; what is None in one leaves what an earlier one of the same picture says.

    Raises:
        DatasetNotFound: there is no such dataset.
        BadEdit: a defect type or a mask for a picture that this or a waiting edit labels normal.
    """
    dataset_id = get_dataset(session, name).id
    lock_dataset(session, dataset_id)  # or a version that is just being saved would forget them unsaved
    waiting = {edit.pixel_digest: edit for edit in list_edits(session, name)}
    given: dict[str, Edit] = {}
    for edit in edits:
        if edit.label is Label.NORMAL and edit.defect_type:
            raise BadEdit(
                f"Picture {edit.pixel_digest[:12]} is to be normal and of defect type '{edit.defect_type}'; "
                "only anomalous pictures have one. Choose one of the two."
            )
        merged = _merged(waiting.get(edit.pixel_digest), edit)
        if merged.label is Label.NORMAL and (merged.mask_digest or merged.defect_type) and not merged.remove:
            raise BadEdit(
                f"Picture {edit.pixel_digest[:12]} waits to be labelled normal and is given "
                f"{'a mask' if merged.mask_digest else 'a defect type'}; only anomalous pictures have one. Label it "
                "anomalous first, or take the waiting correction back."
            )
        waiting[edit.pixel_digest] = given[edit.pixel_digest] = merged
    rows = [
        {
            "dataset_id": dataset_id,
            "pixel_digest": digest,
            "edit": asdict(edit),
            "who": who,
            "created_at": now,
        }
        for digest, edit in given.items()
    ]
    put_rows(session, EditRow, rows, replace=True)


def list_edits(session: Session, name: str) -> list[Edit]:
    """The waiting corrections of a dataset, the oldest first.

    Raises:
        DatasetNotFound: there is no such dataset.
    """
    query = (
        select(EditRow.edit)
        .where(EditRow.dataset_id == get_dataset(session, name).id)
        .order_by(EditRow.created_at, EditRow.pixel_digest)
    )
    return [_edit(values) for values in session.scalars(query)]


def discard_edits(session: Session, name: str, pixel_digests: Iterable[str] | None = None) -> None:
    """Forget corrections: those of the given pictures, or all.

    Raises:
        DatasetNotFound: there is no such dataset.
    """
    dataset_id = get_dataset(session, name).id
    if pixel_digests is None:
        session.execute(delete(EditRow).where(EditRow.dataset_id == dataset_id))
        return
    digests = list(pixel_digests)
    for start in range(0, len(digests), ROWS_AT_ONCE):
        session.execute(
            delete(EditRow).where(
                EditRow.dataset_id == dataset_id,
                EditRow.pixel_digest.in_(digests[start : start + ROWS_AT_ONCE]),
            )
        )


def _merged(former: Edit | None, edit: Edit) -> Edit:
    if former is None:
        return edit
    if edit.label is Label.NORMAL:  # what an anomalous picture was to have is of no use any more
        return edit
    return replace(
        edit,
        label=edit.label or former.label,
        defect_type=edit.defect_type if edit.label or edit.defect_type is not None else former.defect_type,
        mask_digest=former.mask_digest if edit.mask_digest is None else edit.mask_digest,
    )


def _edit(values: dict[str, object]) -> Edit:
    label = values.pop("label")
    return Edit(label=None if label is None else Label(str(label)), **values)  # type: ignore[arg-type]
