"""The threshold that a model decides with: chosen without training anything anew, every choice kept.

`current` is the one place that knows it. Every function works in the session it is given and leaves committing to it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.errors import OperatingPointNotFound
from storage.models import get_model
from storage.records import Model, OperatingPoint, ThresholdSource
from storage.schema import OperatingPointRow

_FRESH = {"populate_existing": True}
_TOLD = ("normal", "false_rejects", "anomalous", "escapes", "synthetic")  # of what follows of a threshold


def current(session: Session, model: Model) -> OperatingPoint:
    """The operating point of a model: the newest that was set, else the one it was made with."""
    row = session.scalar(
        select(OperatingPointRow)
        .where(OperatingPointRow.model_id == model.id)
        .order_by(OperatingPointRow.id.desc())
        .limit(1),
        execution_options=_FRESH,
    )
    return own(model) if row is None else _point(row)


def own(model: Model) -> OperatingPoint:
    """The operating point that a model was made with, by its study on the calibration pictures."""
    calibration = model.figures["calibration"]
    rate = calibration.get("false_reject_rate")
    found = {role: model.figures.get(role) for role in ("validation", "test")}
    return OperatingPoint(
        id=None,
        model_id=model.id,
        threshold=calibration["threshold"],
        source=ThresholdSource.CALIBRATION,
        parameters={} if rate is None else {"rate": rate, "pictures": len(calibration["scores"])},
        figures={role: {key: of[key] for key in _TOLD} for role, of in found.items() if of},
        who="study",
        why="set by the study that made the model",
        created_at=model.created_at,
        restores_id=None,
    )


def add(
    session: Session,
    *,
    model_id: int,
    threshold: float,
    source: ThresholdSource,
    parameters: Mapping[str, Any],
    figures: Mapping[str, Any],
    who: str,
    why: str,
    now: datetime,
    restores_id: int | None = None,
) -> OperatingPoint:
    """Make a threshold the one that the model decides with.

    Args:
        threshold: finite.
        parameters, figures: JSON (no NaN).
        restores_id: of the earlier point that this one repeats.
    Raises:
        ModelNotFound: there is no such model.
    """
    get_model(session, model_id)
    row = OperatingPointRow(
        model_id=model_id,
        threshold=threshold,
        source=source,
        parameters=dict(parameters),
        figures=dict(figures),
        restores_id=restores_id,
        who=who,
        why=why,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return _point(row)


def get(session: Session, model_id: int, point_id: int) -> OperatingPoint:
    """An operating point of a model.

    Raises:
        OperatingPointNotFound: it has none of this id.
    """
    row = session.get(OperatingPointRow, point_id)
    if row is None or row.model_id != model_id:
        raise OperatingPointNotFound(
            f"This model has no operating point {point_id}. Take one from its history: "
            "simplenet threshold DATASET --show"
        )
    return _point(row)


def history(session: Session, model: Model) -> list[OperatingPoint]:
    """All operating points of a model, the newest, which counts, first; the last is the one it was made with."""
    rows = session.scalars(
        select(OperatingPointRow)
        .where(OperatingPointRow.model_id == model.id)
        .order_by(OperatingPointRow.id.desc()),
        execution_options=_FRESH,
    )
    return [*(_point(row) for row in rows), own(model)]


def _point(row: OperatingPointRow) -> OperatingPoint:
    return OperatingPoint(
        id=row.id,
        model_id=row.model_id,
        threshold=row.threshold,
        source=row.source,
        parameters=row.parameters,
        figures=row.figures,
        who=row.who,
        why=row.why,
        created_at=row.created_at,
        restores_id=row.restores_id,
    )
