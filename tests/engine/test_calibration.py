import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.calibration import (
    Calibration,
    InvalidRate,
    ThresholdMethod,
    calibrate,
    conformal_threshold,
    cost_threshold,
    f1_threshold,
    images_needed,
)
from engine.errors import BadCheckpoint, TooFewCalibrationImages, UndefinedMetric


def maps_of(scores: list[float]) -> list[np.ndarray]:
    return [np.linspace(0, score, 16, dtype=np.float32).reshape(4, 4) for score in scores]


def test_threshold_is_the_conformal_quantile() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1, 100))
    assert conformal_threshold(scores, 0.05) == 95  # ceil(100 × 0.95)-th smallest of 99
    assert conformal_threshold(scores, 0.01) == 99
    assert conformal_threshold(scores, 0.5) == 50


@given(st.integers(1, 400), st.sampled_from([0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9]))
def test_threshold_exists_exactly_from_the_number_needed_on(n: int, rate: float) -> None:
    scores = list(range(n))
    if n >= images_needed(rate):
        threshold = conformal_threshold(scores, rate)
        # Of n + 1 exchangeable pictures at most rate × (n + 1) can be the one above all but that many.
        assert sum(score > threshold for score in scores) + 1 <= rate * (n + 1) + 1e-6
    else:
        with pytest.raises(TooFewCalibrationImages) as refusal:
            conformal_threshold(scores, rate)
        assert (refusal.value.needed, refusal.value.had) == (images_needed(rate), n)


def test_too_few_images_are_named() -> None:
    with pytest.raises(
        TooFewCalibrationImages, match=r"1 % needs at least 99 calibration images; you have 40"
    ):
        conformal_threshold([0.0] * 40, 0.01)


def test_false_rejects_of_new_pictures_keep_the_promise() -> None:
    generator = np.random.default_rng(0)
    rejected = [
        (generator.normal(size=50) > conformal_threshold(generator.normal(size=39), 0.1)).mean()
        for _ in range(400)
    ]
    assert np.mean(rejected) == pytest.approx(0.1, abs=0.012)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_rate_out_of_range_is_refused(rate: float) -> None:
    for refuse in (lambda: conformal_threshold([1.0] * 99, rate), lambda: images_needed(rate)):
        with pytest.raises(InvalidRate, match="false-reject rate"):
            refuse()
    with pytest.raises(InvalidRate):
        calibrate([1.0], maps_of([1.0]), rate)


def test_cost_threshold_weighs_escapes_against_false_rejects() -> None:
    scores, labels = [1, 2, 3, 4, 5, 6], [False, False, True, False, True, True]
    careful = cost_threshold(scores, labels, escape_cost=100, false_reject_cost=1, defect_rate=0.5)
    assert careful.threshold == 2.5
    assert careful.escapes_per_1000 == 0
    assert careful.false_rejects_per_1000 == pytest.approx(500 / 3)
    assert careful.cost_per_1000 == pytest.approx(500 / 3)
    lenient = cost_threshold(scores, labels, escape_cost=1, false_reject_cost=100, defect_rate=0.5)
    assert lenient.threshold == 4.5
    assert lenient.escapes_per_1000 == pytest.approx(500 / 3)


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({label for _, label in rows}) == 2
    ),
    st.floats(0, 100),
    st.floats(0, 100),
    st.floats(0, 1),
)
def test_no_threshold_costs_less(
    rows: list[tuple[int, bool]], escape: float, false_reject: float, defect_rate: float
) -> None:
    scores, labels = np.array([s for s, _ in rows], float), np.array([y for _, y in rows])
    best = cost_threshold(scores, labels, escape, false_reject, defect_rate)

    def cost(threshold: float) -> float:
        missed = (scores[labels] <= threshold).mean()
        stopped = (scores[~labels] > threshold).mean()
        return 1000 * float(defect_rate * missed * escape + (1 - defect_rate) * stopped * false_reject)

    assert cost(best.threshold) == pytest.approx(best.cost_per_1000, abs=1e-6)
    assert all(best.cost_per_1000 <= cost(t) + 1e-6 for t in [-6.0, *scores])


@pytest.mark.parametrize(
    ("costs", "name"),
    [
        ((-1, 1, 0.5), "escape cost"),
        ((1, float("inf"), 0.5), "false-reject cost"),
        ((1, 1, 1.5), "defect rate"),
    ],
)
def test_costs_out_of_range_are_refused(costs: tuple[float, float, float], name: str) -> None:
    with pytest.raises(InvalidRate, match=name):
        cost_threshold([1, 2], [False, True], *costs)


def test_cost_threshold_needs_both_classes() -> None:
    with pytest.raises(UndefinedMetric):
        cost_threshold([1, 2], [True, True], 1, 1, 0.5)


def test_f1_threshold_separates() -> None:
    assert f1_threshold([1, 2, 4, 5], [False, False, True, True]) == 3


def test_calibration_keeps_the_wanted_rate_when_it_can() -> None:
    scores = [float(score) for score in range(19, 0, -1)]
    calibration = calibrate(scores, maps_of(scores), 0.05)
    assert calibration.n == 19
    assert calibration.threshold == 19
    assert calibration.false_reject_rate == 0.05
    assert calibration.threshold_method is ThresholdMethod.FALSE_REJECT
    assert calibration.note is None
    assert calibration.scores == tuple(sorted(scores))


def test_calibration_says_which_rate_it_can_guarantee() -> None:
    scores = [float(score) for score in range(1, 10)]
    calibration = calibrate(scores, maps_of(scores), 0.05)
    assert calibration.threshold == 9
    assert calibration.false_reject_rate == 0.1
    assert calibration.note is not None
    assert "needs 19 calibration pictures; with 9 the threshold guarantees 10 %" in calibration.note


@pytest.mark.parametrize("count", range(1, 60))
def test_any_number_of_pictures_can_be_calibrated(count: int) -> None:
    scores = [float(score) for score in range(count)]
    assert calibrate(scores, maps_of(scores), 0.001).threshold == count - 1


def test_colour_scale_is_absolute_with_the_threshold_in_its_middle() -> None:
    scores = [float(score) for score in range(1, 20)]
    calibration = calibrate(scores, maps_of(scores), 0.05)
    assert calibration.map_threshold == pytest.approx(19)
    assert calibration.map_low < calibration.map_threshold < calibration.map_high
    assert calibration.map_low == pytest.approx(np.median([np.median(m) for m in maps_of(scores)]))


def test_flat_maps_still_give_a_scale() -> None:
    calibration = calibrate([1.0, 1.0], [np.ones((4, 4))] * 2, 0.5)
    assert calibration.map_high > calibration.map_low


def test_calibration_without_pictures_is_refused() -> None:
    with pytest.raises(UndefinedMetric, match="at least one"):
        calibrate([], [], 0.05)
    with pytest.raises(UndefinedMetric, match="one map per score"):
        calibrate([1.0], [], 0.05)
    with pytest.raises(UndefinedMetric, match="not finite"):
        calibrate([float("nan")], maps_of([1.0]), 0.05)


def test_decision_rejects_above_the_threshold_only() -> None:
    calibration = calibrate([1.0, 2.0, 3.0], maps_of([1.0, 2.0, 3.0]), 0.25)
    assert [calibration.rejects(score) for score in (2.9, 3.0, 3.1)] == [False, False, True]
    assert calibration.quantile(2.0) == pytest.approx(2 / 3)


def test_another_threshold_keeps_the_scale_and_drops_the_guarantee() -> None:
    calibration = calibrate([1.0, 2.0, 3.0], maps_of([1.0, 2.0, 3.0]), 0.25)
    other = calibration.with_threshold(2.2, ThresholdMethod.COST)
    assert (other.threshold, other.threshold_method, other.false_reject_rate) == (2.2, "cost", None)
    assert (other.map_low, other.map_high) == (calibration.map_low, calibration.map_high)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_calibration_survives_json(scores: list[float], rate: float) -> None:
    calibration = calibrate(scores, maps_of(scores), rate)
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


@pytest.mark.parametrize("change", [{"threshold_method": "guess"}, {"scores": None}, {"surprise": 1}])
def test_unreadable_calibration_is_refused(change: dict[str, object]) -> None:
    values = calibrate([1.0], maps_of([1.0]), 0.5).to_json()
    with pytest.raises(BadCheckpoint, match="Calibrate the model anew"):
        Calibration.from_json({**values, **change})
    values.pop("threshold")
    with pytest.raises(BadCheckpoint):
        Calibration.from_json(values)
