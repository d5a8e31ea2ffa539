"""What a certificate grants and what it refuses."""

import pytest

from engine.certificate import Certificate, Comparison, certificate


def compared(ours: list[float], theirs: list[float]) -> Comparison:
    return Comparison(
        names=[f"{place}.png" for place in range(len(ours))],
        original_scores=ours,
        export_scores=theirs,
        original_ms=[10.0] * len(ours),
        export_ms=[5.0] * len(ours),
    )


def certified(ours: list[float], theirs: list[float], threshold: float) -> Certificate:
    found = compared(ours, theirs)
    return certificate(found, threshold=threshold, threshold_inside=found.threshold_between(threshold))


def test_picture_at_the_threshold_stays_accepted_though_its_last_digits_differ() -> None:
    granted = certified([0.0, 0.5, 1.0], [0.0, 0.5001, 1.0], threshold=0.5)
    assert granted.granted
    assert granted.reason is None
    assert (granted.flipped, granted.pictures) == (0, 3)
    assert (granted.original_p50_ms, granted.export_p95_ms) == (10.0, 5.0)
    assert Certificate.from_json(granted.to_json()) == granted


def test_flipped_decision_withholds_the_export_and_names_the_picture() -> None:
    withheld = certified([0.0, 0.4999, 0.5001, 1.0], [0.0, 0.5001, 0.4999, 1.0], threshold=0.5)
    assert not withheld.granted
    assert withheld.flipped_pictures == ("1.png", "2.png")
    assert withheld.reason is not None
    assert "2 of 4 pictures otherwise than the original ('1.png', '2.png'" in withheld.reason
    assert "safetensors" in withheld.reason


@pytest.mark.parametrize(
    ("theirs", "between"),
    [
        ([0.0, 0.4, 0.7, 1.0], (0.5, 0.5)),  # the original's will do
        ([0.0, 0.4999, 0.5001, 1.0], (0.5, 0.5)),
        ([0.0, 0.502, 0.51, 1.0], (0.502, 0.51)),  # up, past what the original accepts
        ([0.0, 0.3, 0.499, 1.0], (0.3, 0.499)),  # down, below what it rejects
    ],
)
def test_threshold_inside_flips_nothing_where_that_is_possible(
    theirs: list[float], between: tuple[float, float]
) -> None:
    found = compared([0.0, 0.5, 0.505, 1.0], theirs)
    inside = found.threshold_between(0.5)
    assert certificate(found, threshold=0.5, threshold_inside=inside).flipped == 0
    assert between[0] <= inside <= between[1]


def test_without_rejects_or_accepts_the_threshold_stays() -> None:
    assert compared([0.1, 0.2], [0.1, 0.2]).threshold_between(5.0) == 5.0
    assert compared([0.1, 0.2], [0.1, 0.2]).threshold_between(0.05) == 0.05


def test_scores_that_differ_by_more_than_rounding_withhold_the_export() -> None:
    withheld = certified([0.0, 1.0], [0.05, 1.0], threshold=0.5)
    assert withheld.flipped == 0
    assert not withheld.granted
    assert withheld.reason is not None
    assert "by up to 0.05; only 0.01" in withheld.reason


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_score_that_is_no_number_withholds_the_export(broken: float) -> None:
    withheld = certified([0.0, 1.0], [0.0, broken], threshold=0.5)
    assert not withheld.granted


def test_without_pictures_nothing_is_certified() -> None:
    assert not certified([], [], threshold=0.5).granted
