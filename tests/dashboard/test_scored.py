"""Decisions, outcomes, filters and orders of scored pictures."""

import pytest

from dashboard.scored import Order, Outcome, ScoredPicture, Show, chosen, scored_picture
from storage.records import ImageRecord, Label, Role

THRESHOLD = 0.5


def _picture(name: str, score: float, defect_type: str | None = None) -> ScoredPicture:
    image = ImageRecord(
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
    return scored_picture(image, score, THRESHOLD)


PICTURES = [
    _picture("normal low", 0.1),
    _picture("normal high", 0.7),
    _picture("scratch low", 0.45, "scratch"),
    _picture("scratch high", 0.9, "scratch"),
    _picture("dent high", 0.6, "dent"),
]


def _names(show: Show, order: Order = Order.NAME, defect_type: str | None = None) -> list[str]:
    listed = chosen(PICTURES, show, order, defect_type=defect_type, threshold=THRESHOLD)
    return [picture.image.name for picture in listed]


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
    assert len(_names(Show.ALL)) == 5
    assert _names(Show.REJECTS) == ["dent high", "normal high", "scratch high"]
    assert _names(Show.ACCEPTS) == ["normal low", "scratch low"]
    assert _names(Show.FALSE_REJECTS) == ["normal high"]
    assert _names(Show.ESCAPES) == ["scratch low"]
    assert _names(Show.ALL, defect_type="dent") == ["dent high"]


def test_orders() -> None:
    assert _names(Show.ALL, Order.HIGHEST)[0] == "scratch high"
    assert _names(Show.ALL, Order.LOWEST)[0] == "normal low"
    assert _names(Show.ALL, Order.NEAREST)[:2] == ["scratch low", "dent high"]
