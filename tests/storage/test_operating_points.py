"""Operating points of models and people's words on pictures, on SQLite and PostgreSQL."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from storage import models, operating_points, reviews
from storage.database import session
from storage.errors import ModelNotFound, OperatingPointNotFound
from storage.records import DatasetVersion, Edit, Label, Model, OperatingPoint, Study, ThresholdSource

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
CALIBRATION = {"threshold": 0.5, "false_reject_rate": 0.05, "scores": [0.1] * 19}
DIGEST = "ab" * 32


@pytest.fixture
def model(engine: Engine, make_study: Callable[..., Study]) -> Model:
    study = make_study("plates")
    with session(engine) as opened:
        return models.create_model(
            opened,
            dataset_version_id=study.dataset_version_id,
            study_id=study.id,
            trial_number=0,
            run_id="abc",
            version=1,
            config={},
            figures={"calibration": CALIBRATION},
            now=START,
        )


def add(engine: Engine, model: Model, threshold: float, **changes: Any) -> OperatingPoint:
    values: dict[str, Any] = {
        "model_id": model.id,
        "threshold": threshold,
        "source": ThresholdSource.COST,
        "parameters": {"defect_rate": 0.01},
        "figures": {},
        "who": "ada",
        "why": "fewer escapes",
        "now": START + timedelta(hours=1),
    }
    with session(engine) as opened:
        return operating_points.add(opened, **values | changes)


def current(engine: Engine, model: Model) -> OperatingPoint:
    with session(engine) as opened:
        return operating_points.current(opened, model)


def test_model_decides_with_its_own_threshold_until_another_is_set(engine: Engine, model: Model) -> None:
    own = current(engine, model)
    assert (own.id, own.threshold, own.source) == (None, 0.5, ThresholdSource.CALIBRATION)
    assert own.parameters == {"rate": 0.05, "pictures": 19}
    assert own.created_at == START


def test_newest_point_counts_and_all_are_kept(engine: Engine, model: Model) -> None:
    first, second = add(engine, model, 0.7), add(engine, model, 0.6, who="bob", why="cheaper")
    assert current(engine, model) == second
    with session(engine) as opened:
        history = operating_points.history(opened, model)
    assert history[:2] == [second, first]
    assert [point.threshold for point in history] == [0.6, 0.7, 0.5]
    assert (second.who, second.why, second.created_at) == ("bob", "cheaper", START + timedelta(hours=1))


def test_threshold_is_kept_to_the_last_bit(engine: Engine, model: Model) -> None:
    threshold = 0.1 + 0.2
    add(engine, model, threshold)
    assert current(engine, model).threshold == threshold


def test_going_back_is_a_point_of_its_own(engine: Engine, model: Model) -> None:
    first = add(engine, model, 0.7)
    add(engine, model, 0.6)
    back = add(engine, model, 0.7, restores_id=first.id)
    assert current(engine, model) == back
    assert back.restores_id == first.id


def test_points_of_one_model_are_not_those_of_another(
    engine: Engine, model: Model, make_study: Callable[..., Study]
) -> None:
    other = make_study("screws")
    with session(engine) as opened:
        second = models.create_model(
            opened,
            dataset_version_id=other.dataset_version_id,
            study_id=other.id,
            trial_number=0,
            run_id="def",
            version=1,
            config={},
            figures={"calibration": CALIBRATION},
            now=START,
        )
    point = add(engine, model, 0.9)
    assert current(engine, second).threshold == 0.5
    with session(engine) as opened, pytest.raises(OperatingPointNotFound, match=f"point {point.id}"):
        operating_points.get(opened, second.id, point.id or 0)


def test_unknown_model_is_refused(engine: Engine, model: Model) -> None:
    with pytest.raises(ModelNotFound, match="99"):
        add(engine, model, 0.5, model_id=99)


def test_database_refuses_an_unknown_source(engine: Engine, model: Model) -> None:
    point = add(engine, model, 0.5)
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(
            text("UPDATE operating_points SET source = 'guess' WHERE id = :id"), {"id": point.id}
        )


def review(engine: Engine, digest: str = DIGEST, **changes: Any) -> reviews.Review:
    values: dict[str, Any] = {
        "pixel_digest": digest,
        "label": Label.ANOMALOUS,
        "model_id": None,
        "before": None,
        "after": Edit(pixel_digest=digest, label=Label.ANOMALOUS, defect_type="dent"),
        "who": "ada",
        "now": START,
    }
    with session(engine) as opened:
        return reviews.add_review(opened, "plates", **values | changes)


def test_last_word_on_a_picture_counts(engine: Engine, make_version: Callable[..., DatasetVersion]) -> None:
    make_version("plates")
    first = review(engine)
    second = review(engine, label=Label.NORMAL, before=first.after, after=None)
    with session(engine) as opened:
        assert reviews.list_reviews(opened, "plates") == {DIGEST: second}
        assert reviews.last_review(opened, "plates") == second
        assert second.before == first.after
        reviews.forget_review(opened, second.id)
        assert reviews.last_review(opened, "plates") == first


def test_what_a_version_holds_can_not_be_undone(
    engine: Engine, make_version: Callable[..., DatasetVersion]
) -> None:
    version = make_version("plates")
    review(engine)
    with session(engine) as opened:
        reviews.settle_reviews(opened, version.dataset_id, version.id, {"cd" * 32})
        assert reviews.last_review(opened, "plates") is not None
        reviews.settle_reviews(opened, version.dataset_id, version.id, {DIGEST})
        assert reviews.last_review(opened, "plates") is None
        assert reviews.list_reviews(opened, "plates")[DIGEST].version_id == version.id
