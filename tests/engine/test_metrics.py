from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import ndimage
from sklearn import metrics as sklearn_metrics

from engine.errors import ShapeMismatch, UndefinedMetric
from engine.metrics import (
    aupro,
    average_precision,
    best_f1,
    bootstrap_interval,
    f1_at,
    image_auroc,
    paired_bootstrap,
    pixel_auroc,
)

# Few distinct values, so that ties are common.
labelled = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


def split(rows: list[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [float(score) for score, _ in rows], [label for _, label in rows]


@given(labelled)
def test_auroc_and_average_precision_equal_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    scores, labels = split(rows)
    assert image_auroc(scores, labels) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores))
    assert average_precision(scores, labels) == pytest.approx(
        sklearn_metrics.average_precision_score(labels, scores)
    )


@given(labelled)
def test_auroc_is_unchanged_by_monotone_maps(rows: list[tuple[int, bool]]) -> None:
    scores, labels = split(rows)
    assert image_auroc(np.exp(scores), labels) == image_auroc(scores, labels)
    assert image_auroc(-np.asarray(scores), labels) == pytest.approx(1 - image_auroc(scores, labels))


@given(labelled)
def test_best_f1_is_reached_and_never_exceeded(rows: list[tuple[int, bool]]) -> None:
    scores, labels = split(rows)
    f1, threshold = best_f1(scores, labels)
    assert f1_at(scores, labels, threshold) == pytest.approx(f1)
    for other in [min(scores) - 1, *scores]:
        assert f1_at(scores, labels, other) <= f1 + 1e-12


@given(labelled, st.integers(-6, 6))
def test_f1_equals_scikit_learns(rows: list[tuple[int, bool]], threshold: int) -> None:
    scores, labels = split(rows)
    expected = sklearn_metrics.f1_score(labels, np.asarray(scores) > threshold, zero_division=0)
    assert f1_at(scores, labels, threshold) == pytest.approx(expected)


def test_threshold_lies_midway_between_the_classes() -> None:
    assert best_f1([1, 2, 4, 5], [False, False, True, True]) == (1.0, 3.0)


def test_threshold_between_neighbouring_floats_still_separates() -> None:
    low = 1.0
    high = float(np.nextafter(low, 2))
    f1, threshold = best_f1([low, high], [False, True])
    assert (f1, f1_at([low, high], [False, True], threshold)) == (1.0, 1.0)


@pytest.mark.parametrize("figure", [image_auroc, average_precision, best_f1, lambda s, y: f1_at(s, y, 0.0)])
def test_image_figures_refuse_what_they_can_not_judge(figure: Callable[..., object]) -> None:
    for labels in ([True, True], [False, False]):
        with pytest.raises(UndefinedMetric, match="at least one of each kind"):
            figure([1.0, 2.0], labels)
    with pytest.raises(UndefinedMetric, match="not finite"):
        figure([1.0, float("nan")], [True, False])
    with pytest.raises(ShapeMismatch, match=r"\(3,\).*\(2,\)"):
        figure([1.0, 2.0, 3.0], [True, False])
    with pytest.raises(UndefinedMetric):
        figure([], [])


@pytest.mark.parametrize("case", ["easy", "medium", "chance"])
def test_pixel_figures_match_the_reference(shared: Path, case: str) -> None:
    with np.load(shared / "golden" / "aupro_reference.npz") as golden:
        maps, masks = list(golden[f"{case}/maps"]), list(golden[f"{case}/masks"])
        assert aupro(maps, masks) == pytest.approx(float(golden[f"{case}/aupro_exhaustive"]), abs=1e-9)
        assert aupro(maps, masks) == pytest.approx(float(golden[f"{case}/aupro_anomalib_2_7"]), abs=1e-6)
        assert pixel_auroc(maps, masks) == pytest.approx(
            float(golden[f"{case}/pixel_auroc_sklearn"]), abs=1e-12
        )


def exhaustive_aupro(maps: list[np.ndarray], masks: list[np.ndarray], max_fpr: float) -> float:
    """The slow path: the whole curve, a point per distinct value."""
    values = np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]
    normal = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    regions = []
    for values_of_map, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [values_of_map[labels == index] for index in range(1, count + 1)]
    fpr = np.array([0.0, *[(normal >= v).mean() for v in values]])
    pro = np.array([0.0, *[np.mean([(r >= v).mean() for r in regions]) for v in values]])
    keep = fpr <= max_fpr
    x, y = list(fpr[keep]), list(pro[keep])
    if x[-1] < max_fpr:
        first = int(keep.sum())
        slope = (pro[first] - pro[first - 1]) / (fpr[first] - fpr[first - 1])
        y.append(pro[first - 1] + slope * (max_fpr - fpr[first - 1]))
        x.append(max_fpr)
    return float(np.trapezoid(y, x) / max_fpr)


@given(st.integers(0, 10**6), st.sampled_from([1, 3, 1000]), st.sampled_from([0.05, 0.3, 1.0]))
def test_pixel_figures_equal_the_slow_path(seed: int, levels: int, max_fpr: float) -> None:
    generator = np.random.default_rng(seed)
    sizes = [(9, 7), (5, 12), (8, 8)]
    masks = [generator.random(size) < 0.2 for size in sizes]
    maps = [
        (np.rint(generator.normal(0, 2, size) * levels) / levels + mask).astype(np.float32)
        for size, mask in zip(sizes, masks, strict=True)
    ]
    assume(any(mask.any() for mask in masks))
    assert aupro(maps, masks, max_fpr) == pytest.approx(exhaustive_aupro(maps, masks, max_fpr), abs=1e-9)
    labels = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([values.ravel() for values in maps])
    assert pixel_auroc(maps, masks) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12)


def test_pixel_auroc_where_defects_are_the_majority() -> None:
    generator = np.random.default_rng(0)
    maps, masks = (
        [generator.random((9, 9)) for _ in range(2)],
        [generator.random((9, 9)) < 0.8 for _ in range(2)],
    )
    expected = sklearn_metrics.roc_auc_score(np.ravel(masks), np.ravel(maps).astype(np.float32))
    assert pixel_auroc(maps, masks) == pytest.approx(expected, abs=1e-12)


def test_flat_maps_are_chance() -> None:
    masks = [np.eye(8, dtype=bool)]
    assert pixel_auroc([np.zeros((8, 8))], masks) == 0.5
    assert aupro([np.zeros((8, 8))], masks) == pytest.approx(0.15)


def test_signed_zeros_are_one_value() -> None:
    mask = np.array([[True, False, False, False]])
    plus, mixed = np.array([[0.0, 0.0, -1, -2]]), np.array([[0.0, -0.0, -1, -2]])
    assert aupro([plus], [mask], 0.3) == aupro([mixed], [mask], 0.3)


def test_small_region_counts_as_much_as_a_large_one() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[0, 0] = True
    mask[5:15, 5:15] = True
    found_small = np.zeros((20, 20))
    found_small[0, 0] = 1
    found_large = np.zeros((20, 20))
    found_large[5:15, 5:15] = 1
    assert aupro([found_small], [mask]) == pytest.approx(aupro([found_large], [mask]))


@pytest.mark.parametrize("figure", [pixel_auroc, aupro])
def test_pixel_figures_refuse_what_they_can_not_judge(figure: Callable[..., float]) -> None:
    values = np.zeros((4, 4))
    for mask in (np.zeros((4, 4), bool), np.ones((4, 4), bool)):
        with pytest.raises(UndefinedMetric, match="at least one of each kind"):
            figure([values], [mask])
    with pytest.raises(UndefinedMetric):
        figure([], [])
    with pytest.raises(UndefinedMetric, match="not finite"):
        figure([values + np.nan], [np.eye(4, dtype=bool)])
    with pytest.raises(ShapeMismatch, match="1 maps and 2 masks"):
        figure([values], [np.eye(4, dtype=bool)] * 2)
    with pytest.raises(ShapeMismatch, match="Resize the map"):
        figure([values], [np.eye(5, dtype=bool)])


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.1])
def test_aupro_limit_out_of_range_is_refused(limit: float) -> None:
    with pytest.raises(UndefinedMetric, match="max_fpr"):
        aupro([np.zeros((4, 4))], [np.eye(4, dtype=bool)], limit)


def scores_of_two_classes(count: int, distance: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 2 == 0
    return np.random.default_rng(seed).normal(0, 1, count) + distance * labels, labels


def test_interval_holds_the_figure_and_narrows_with_more_images() -> None:
    def width(count: int) -> float:
        scores, labels = scores_of_two_classes(count, 1.0, 0)
        low, high = bootstrap_interval(image_auroc, scores, labels, resamples=300)
        assert low < image_auroc(scores, labels) < high
        return high - low

    assert width(400) < width(40)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = 0.7602  # P(N(1, 1) > N(0, 1)) = Φ(1/√2)
    hits = 0
    for seed in range(60):
        scores, labels = scores_of_two_classes(80, 1.0, seed)
        low, high = bootstrap_interval(image_auroc, scores, labels, resamples=200, seed=seed)
        hits += low <= truth <= high
    assert 52 <= hits <= 60


def test_interval_is_reproducible() -> None:
    scores, labels = scores_of_two_classes(40, 1.0, 0)
    first, again, other = (bootstrap_interval(image_auroc, scores, labels, 100, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_difference_of_a_model_to_itself_is_zero() -> None:
    scores, labels = scores_of_two_classes(40, 1.0, 0)
    same = paired_bootstrap(image_auroc, scores, scores, labels, 100)
    assert (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)


def test_better_model_has_an_interval_above_zero() -> None:
    good, labels = scores_of_two_classes(200, 3.0, 0)
    poor, _ = scores_of_two_classes(200, 0.3, 1)
    paired = paired_bootstrap(image_auroc, good, poor, labels, 300)
    assert 0 < paired.low < paired.difference < paired.high
    reverse = paired_bootstrap(image_auroc, poor, good, labels, 300)
    assert reverse.difference == pytest.approx(-paired.difference)
