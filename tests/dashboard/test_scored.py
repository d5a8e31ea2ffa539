"""Decisions, outcomes, filters and orders of scored pictures, under one model and several."""

from typing import Any

import pytest

from dashboard.scored import (
    Judge,
    Order,
    Outcome,
    ScoredPicture,
    Show,
    chosen,
    judge,
    scored_picture,
    scored_pictures,
)
from storage.records import ImageRecord, Label, Model, ModelState, Role, now

THRESHOLD = 0.5


def _model(**changes: Any) -> Model:
    calibration = {
        "scores": [0.1, 0.3, 0.4],
        "threshold": THRESHOLD,
        "threshold_method": "false_reject",
        "false_reject_rate": 0.05,
        "map_low": 0.0,
        "map_high": 1.0,
        "note": None,
    }
    values: dict[str, Any] = {
        "id": 1,
        "dataset_name": "parts",
        "dataset_version_id": 1,
        "study_id": 1,
        "trial_number": 0,
        "run_id": "r",
        "version": 1,
        "state": ModelState.CHAMPION,
        "config": {},
        "figures": {"calibration": calibration},
        "created_at": now(),
        "promoted_at": None,
    }
    return Model(**values | changes)


JUDGE = Judge(model=_model(), threshold=THRESHOLD, spread=0.2)


def _image(name: str, defect_type: str | None = None) -> ImageRecord:
    return ImageRecord(
        id=1,
        digest="d",
        pixel_digest=name,
        name=name,
        height=8,
        width=8,
        role=Role.TEST,
        label=Label.ANOMALOUS if defect_type else Label.NORMAL,
        defect_type=defect_type,
        mask_digest=None,
    )


def _picture(name: str, score: float, defect_type: str | None = None) -> ScoredPicture:
    return scored_picture(_image(name, defect_type), score, JUDGE)


PICTURES = [
    _picture("normal low", 0.1),
    _picture("normal high", 0.7),
    _picture("scratch low", 0.46, "scratch"),
    _picture("scratch high", 0.9, "scratch"),
    _picture("dent high", 0.6, "dent"),
]


def _names(show: Show = Show.ALL, order: Order = Order.NAME, **options: Any) -> list[str]:
    return [picture.image.name for picture in chosen(PICTURES, show, order, **options)]


def test_score_at_the_threshold_is_accepted() -> None:
    assert _picture("x", THRESHOLD).decision == "accept"
    assert _picture("x", THRESHOLD + 1e-9).decision == "reject"


@pytest.mark.parametrize(
    ("score", "defect_type", "outcome", "wrong"),
    [
        (0.1, None, Outcome.ACCEPTED, None),
        (0.9, None, Outcome.FALSE_REJECT, "false reject"),
        (0.9, "dent", Outcome.CAUGHT, None),
        (0.1, "dent", Outcome.ESCAPE, "escape"),
    ],
)
def test_outcome(score: float, defect_type: str | None, outcome: Outcome, wrong: str | None) -> None:
    picture = _picture("x", score, defect_type)
    assert (picture.outcome, picture.wrong) == (outcome, wrong)


def test_filters_keep_what_they_name() -> None:
    assert len(_names()) == 5
    assert _names(Show.REJECTS) == ["dent high", "normal high", "scratch high"]
    assert _names(Show.ACCEPTS) == ["normal low", "scratch low"]
    assert _names(Show.FALSE_REJECTS) == ["normal high"]
    assert _names(Show.ESCAPES) == ["scratch low"]
    assert _names(Show.CAUGHT) == ["dent high", "scratch high"]
    assert _names(Show.PASSED) == ["normal low"]
    assert _names(Show.NEAR) == ["scratch low"]
    assert _names(defect_type="dent") == ["dent high"]


def test_orders() -> None:
    assert _names(order=Order.HIGHEST)[0] == "scratch high"
    assert _names(order=Order.LOWEST)[0] == "normal low"
    assert _names(order=Order.NEAREST)[:2] == ["scratch low", "dent high"]
    # A normal picture far above comes before a defect just below; then what is right, the surest last.
    assert _names(order=Order.AGAINST_LABEL) == [
        "normal high",
        "scratch low",
        "dent high",
        "normal low",
        "scratch high",
    ]


def test_most_useful_to_review_are_near_or_wrong_and_what_was_reviewed_comes_last() -> None:
    # near 0.8 + wrong 1; wrong 1; near 0.5; neither
    assert _names(order=Order.USEFUL)[:3] == ["scratch low", "normal high", "dent high"]
    assert _names(order=Order.USEFUL, reviewed={"scratch low"})[-1] == "scratch low"


def test_pictures_on_which_models_disagree_most_come_first() -> None:
    other = Judge(model=_model(id=2, version=2), threshold=10.0, spread=4.0)  # another scale altogether
    images = [_image(name) for name in ("same", "apart", "decided otherwise")]
    found = scored_pictures(
        images,
        JUDGE,
        {"same": 0.4, "apart": 0.1, "decided otherwise": 0.55},
        [(other, {"same": 8.0, "apart": 9.6, "decided otherwise": 9.0})],
    )
    listed = chosen(found, Show.ALL, Order.DISAGREEMENT)
    assert [picture.image.name for picture in listed] == ["decided otherwise", "apart", "same"]
    assert listed[0].usefulness == pytest.approx(0.75 + 1 + 1)
    assert listed[2].disagreement == (False, pytest.approx(0.0))


def test_picture_without_label_is_neither_right_nor_wrong() -> None:
    class Uploaded:
        label = None
        role = None
        defect_type = None
        name = pixel_digest = "u"

    picture = scored_picture(Uploaded(), 0.9, JUDGE)  # type: ignore[arg-type]
    assert (picture.decision, picture.outcome, picture.wrong) == ("reject", None, None)
    assert chosen([picture], Show.FALSE_REJECTS, Order.NAME) == []
    assert chosen([picture], Show.REJECTS, Order.AGAINST_LABEL) == [picture]


def test_picture_that_a_model_has_no_score_of_is_left_out() -> None:
    assert scored_pictures([_image("a"), _image("b")], JUDGE, {"a": 0.1}) == [_picture("a", 0.1)]


def test_another_operating_point_does_not_change_what_far_means() -> None:
    first, second = judge(_model(), 0.5), judge(_model(), 0.9)
    assert first.spread == second.spread == pytest.approx(0.2)
    assert second.distance(1.1) == pytest.approx(1)
