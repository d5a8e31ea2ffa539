"""Three ways to choose a threshold, against brute force, and their refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve, roc_curve

from engine.errors import TooFewCalibrationImages, UndefinedMetric
from storage.records import ImageRecord, Label, Role, ThresholdSource
from tuning.errors import BadOperatingPoint
from tuning.operating_points import (
    Evidence,
    Scores,
    by_costs,
    by_f1,
    by_false_reject_rate,
    by_value,
    curves,
    outcomes,
)
from tuning.pictures import Picture

# Few distinct values, so that ties are common.
SCORES = st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=30).filter(
    lambda pairs: len({anomalous for _, anomalous in pairs}) == 2
)


def scores(pairs: list[tuple[float, bool]], *, synthetic: bool = False) -> Scores:
    pictures = tuple(
        Picture(
            image=ImageRecord(
                id=number,
                digest="d",
                pixel_digest=f"{number}",
                name=f"{number}.png",
                height=8,
                width=8,
                role=Role.VALIDATION,
                label=Label.ANOMALOUS if anomalous else Label.NORMAL,
                defect_type=None,
                mask_digest=None,
            )
        )
        for number, (_, anomalous) in enumerate(pairs)
    )
    return Scores(
        pictures=pictures, scores=np.array([value for value, _ in pairs], dtype=float), synthetic=synthetic
    )


def evidence(
    validation: list[tuple[float, bool]], calibration: list[float] | None = None, *, synthetic: bool = False
) -> Evidence:
    nothing = Scores(pictures=(), scores=np.empty(0), synthetic=False)
    return Evidence(
        calibration=tuple(sorted(calibration or [0.0])),
        validation=scores(validation, synthetic=synthetic),
        test=nothing,
    )


def candidates(pairs: list[tuple[float, bool]]) -> list[float]:
    """A threshold between every two neighbouring scores, and one on either side of all."""
    distinct = sorted({value for value, _ in pairs})
    return [distinct[0] - 1, *(value + 0.5 for value in distinct)]


@given(pairs=SCORES, escape=st.floats(0, 100), false_reject=st.floats(0, 100), defect_rate=st.floats(0, 1))
@settings(deadline=None)
def test_no_threshold_costs_less_than_the_one_chosen_by_costs(
    pairs: list[tuple[float, bool]], escape: float, false_reject: float, defect_rate: float
) -> None:
    def cost(threshold: float) -> float:
        found = outcomes(scores(pairs), threshold)
        missed = found.escapes / found.anomalous
        lost = found.false_rejects / found.normal
        return escape * defect_rate * missed + false_reject * (1 - defect_rate) * lost

    chosen = by_costs(evidence(pairs), escape=escape, false_reject=false_reject, defect_rate=defect_rate)
    assert chosen.source is ThresholdSource.COST
    assert cost(chosen.threshold) <= min(map(cost, candidates(pairs))) + 1e-9


@given(pairs=SCORES)
@settings(deadline=None)
def test_no_threshold_has_a_higher_f1_than_the_one_chosen_by_it(pairs: list[tuple[float, bool]]) -> None:
    def f1(threshold: float) -> float:
        caught = sum(value > threshold and anomalous for value, anomalous in pairs)
        rejected = sum(value > threshold for value, _ in pairs)
        return 2 * caught / (rejected + sum(anomalous for _, anomalous in pairs))

    assert f1(by_f1(evidence(pairs)).threshold) == pytest.approx(max(map(f1, candidates(pairs))))


@given(pairs=SCORES, threshold=st.integers(-1, 13))
def test_outcomes_count_every_picture_once(pairs: list[tuple[float, bool]], threshold: int) -> None:
    found = outcomes(scores(pairs), threshold)
    assert found.normal + found.anomalous == len(pairs)
    assert found.false_rejects == sum(value > threshold and not anomalous for value, anomalous in pairs)
    assert found.escapes == sum(value <= threshold and anomalous for value, anomalous in pairs)


def test_outcomes_of_1000_parts_are_those_of_the_production_not_of_the_pictures() -> None:
    # Half of the defects escape and a quarter of the normal parts is rejected.
    found = outcomes(
        scores([(9, True), (1, True), (9, False), (1, False), (1, False), (1, False)]), threshold=5
    )
    escapes, false_rejects = found.per_1000(defect_rate=0.02)
    assert (escapes, false_rejects) == (pytest.approx(10), pytest.approx(245))


def test_wanted_false_reject_rate_takes_the_conformal_quantile() -> None:
    calibration = [float(number) for number in range(1, 40)]  # 39 pictures: (39 + 1) × 0.95 = 38
    chosen = by_false_reject_rate(evidence([(0, True), (1, False)], calibration), 0.05)
    assert chosen.threshold == 38
    assert chosen.parameters == {"rate": 0.05, "pictures": 39}


def test_rate_that_too_few_calibration_pictures_can_not_promise_is_refused() -> None:
    with pytest.raises(
        TooFewCalibrationImages, match=r"at most 1 % needs at least 99 calibration images; you have 40"
    ):
        by_false_reject_rate(evidence([(0, True), (1, False)], [1.0] * 40), 0.01)


def test_test_pictures_change_no_choice() -> None:
    alone = evidence([(1, False), (2, True), (3, False), (4, True)], [1.0] * 19)
    beside = Evidence(
        calibration=alone.calibration,
        validation=alone.validation,
        test=scores([(100, False), (-100, True)] * 50),
    )
    for choose in (
        by_f1,
        lambda found: by_costs(found, escape=5, false_reject=1, defect_rate=0.3),
        lambda found: by_false_reject_rate(found, 0.05),
    ):
        assert choose(alone) == choose(beside)


def test_choices_on_planted_defects_say_so() -> None:
    found = evidence([(1, False), (2, True)], synthetic=True)
    assert "synthetic defects" in by_f1(found).about
    assert "synthetic defects" in by_costs(found, escape=1, false_reject=1, defect_rate=0.1).about


def test_validation_of_one_kind_is_refused() -> None:
    found = evidence([(1, False), (2, False)])
    for choose in (by_f1, lambda found: by_costs(found, escape=1, false_reject=1, defect_rate=0.1)):
        with pytest.raises(UndefinedMetric, match="0 are anomalous"):
            choose(found)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_threshold_that_is_no_number_is_refused(threshold: float) -> None:
    with pytest.raises(BadOperatingPoint, match="finite"):
        by_value(threshold)


@given(pairs=SCORES)
@settings(deadline=None)
def test_curves_are_those_of_scikit_learn(pairs: list[tuple[float, bool]]) -> None:
    given_scores, labels = [value for value, _ in pairs], [anomalous for _, anomalous in pairs]
    found = curves(scores(pairs))
    false_rejects, caught, _ = roc_curve(labels, given_scores, drop_intermediate=False)
    assert found.false_reject_rate == pytest.approx(false_rejects.tolist())
    assert found.caught_rate == pytest.approx(caught.tolist())
    precision, recall, _ = precision_recall_curve(labels, given_scores)
    assert list(found.precision) == pytest.approx(precision[::-1].tolist())
    assert list(found.caught_rate) == pytest.approx(recall[::-1].tolist())


@given(pairs=SCORES)
def test_each_point_of_a_curve_is_what_its_threshold_does(pairs: list[tuple[float, bool]]) -> None:
    found = curves(scores(pairs))
    for threshold, rate, caught in zip(
        found.thresholds, found.false_reject_rate, found.caught_rate, strict=True
    ):
        did = outcomes(scores(pairs), threshold)
        assert did.false_rejects / did.normal == pytest.approx(rate)
        assert 1 - did.escapes / did.anomalous == pytest.approx(caught)
