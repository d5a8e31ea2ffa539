"""Figures of merit, on raw scores: higher is more anomalous, label or mask true is anomalous.

A picture is rejected when its score is above the threshold, never at it; thresholds lie midway between
scores. Pixel figures are exact (every distinct value is a threshold) and hold in memory, besides one map at a
time, only the values of the rarer kind of pixel.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

from engine.errors import ShapeMismatch, UndefinedMetric

Scores = Sequence[float] | npt.NDArray[Any]
Labels = Sequence[bool] | npt.NDArray[Any]
Statistic = Callable[[npt.NDArray[np.float64], npt.NDArray[np.bool_]], float]


def image_auroc(scores: Scores, labels: Labels) -> float:
    """Give the probability that an anomalous image scores above a normal one, ties counting half.

    Args:
        scores: (N,), finite.
        labels: (N,), true is anomalous.
    Returns:
        0 to 1; 0.5 is chance.
    Raises:
        UndefinedMetric: one class is absent, or a score is not finite.
        ShapeMismatch: lengths differ.
    """
    values, anomalous = checked(scores, labels)
    positives = int(anomalous.sum())
    negatives = len(anomalous) - positives
    ranks = stats.rankdata(values)
    return float((ranks[anomalous].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: Scores, labels: Labels) -> float:
    """Give the precision averaged over recall steps, without interpolation, as scikit-learn defines it.

    Raises:
        UndefinedMetric, ShapeMismatch: as `image_auroc`.
    """
    values, anomalous = checked(scores, labels)
    _, true_positives, rejected = cuts(values, anomalous)
    steps = np.diff(true_positives, prepend=0) / anomalous.sum()
    return float((steps * true_positives / rejected).sum())


def best_f1(scores: Scores, labels: Labels) -> tuple[float, float]:
    """Give the highest F1 that any threshold reaches, and that threshold.

    Of thresholds with equal F1 the highest is taken: it rejects the fewest.

    Returns:
        f1, threshold.
    Raises:
        UndefinedMetric, ShapeMismatch: as `image_auroc`.
    """
    values, anomalous = checked(scores, labels)
    distinct, true_positives, rejected = cuts(values, anomalous)
    f1 = 2 * true_positives / (rejected + anomalous.sum())
    best = int(f1.argmax())
    return float(f1[best]), thresholds_below(distinct)[best]


def f1_at(scores: Scores, labels: Labels, threshold: float) -> float:
    """Give the F1 of rejecting what scores above the threshold; 0 when nothing anomalous is rejected.

    Raises:
        UndefinedMetric, ShapeMismatch: as `image_auroc`.
    """
    values, anomalous = checked(scores, labels)
    rejected = values > threshold
    return float(2 * (rejected & anomalous).sum() / (rejected.sum() + anomalous.sum()))


def thresholds_below(distinct: npt.NDArray[np.float64]) -> list[float]:
    """Give, for each of the falling distinct scores, a threshold that rejects it and nothing lower.

    It lies midway to the next lower score; below the lowest it lies just below it.
    """
    # Halved before adding, so that the largest floats do not overflow.
    middles = distinct[:-1] / 2 + distinct[1:] / 2
    # Between neighbouring floats there is no middle; the lower one is then the threshold, which it does not
    # exceed.
    middles = np.where(middles < distinct[:-1], middles, distinct[1:])
    return [*middles.tolist(), float(np.nextafter(distinct[-1], -np.inf))]


def cuts(
    values: npt.NDArray[np.float64], anomalous: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give the distinct scores, falling, and how many anomalous and how many at all reach each."""
    distinct, position = np.unique(values, return_inverse=True)
    positives = np.bincount(position, weights=anomalous, minlength=len(distinct))[::-1].cumsum()
    both = np.bincount(position, minlength=len(distinct))[::-1].cumsum()
    return distinct[::-1], positives.astype(np.int64), both.astype(np.int64)


def checked(scores: Scores, labels: Labels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    values = np.asarray(scores, dtype=np.float64)
    anomalous = np.asarray(labels, dtype=np.bool_)
    if values.ndim != 1 or values.shape != anomalous.shape:
        raise ShapeMismatch(
            f"Scores are of shape {values.shape} and labels of {anomalous.shape}; both must be (N,). Give "
            "one label per score."
        )
    if not np.isfinite(values).all():
        raise UndefinedMetric(
            f"{int((~np.isfinite(values)).sum())} of {len(values)} scores are not finite. Train anew."
        )
    positives = int(anomalous.sum())
    if positives in (0, len(anomalous)):
        raise UndefinedMetric(
            f"Of {len(anomalous)} images {positives} are anomalous; the figure needs at least one of each "
            "kind. "
            "Add images of the missing kind."
        )
    return values, anomalous


def pixel_auroc(maps: Sequence[npt.NDArray[Any]], masks: Sequence[npt.NDArray[Any]]) -> float:
    """Give the probability that a defect's pixel scores above a normal pixel, over all images, ties counting
    half.

    Args:
        maps: per image (H, W), compared as float32; sizes may differ.
        masks: per image (H, W), true or above 0 is defect.
    Returns:
        0 to 1.
    Raises:
        UndefinedMetric: no defect pixel or no normal pixel at all, or a value is not finite.
        ShapeMismatch: a map and its mask differ in size.
    """
    positives = sum(int(mask.sum()) for _, mask in _pixels(maps, masks))
    total = sum(mask.size for _, mask in _pixels(maps, masks))
    _require_both(positives, total)
    defects_are_rare = 2 * positives <= total
    rare = np.sort(
        np.concatenate([values[mask == defects_are_rare] for values, mask in _pixels(maps, masks)])
    )
    below = 0.0  # over all common pixels, the number of rare ones below, ties counting half
    for values, mask in _pixels(maps, masks):
        common = np.sort(values[mask != defects_are_rare])
        left = np.searchsorted(rare, common, side="left").sum(dtype=np.int64)
        right = np.searchsorted(rare, common, side="right").sum(dtype=np.int64)
        below += (int(left) + int(right)) / 2
    share = below / (positives * (total - positives))
    return 1 - share if defects_are_rare else share


def aupro(maps: Sequence[npt.NDArray[Any]], masks: Sequence[npt.NDArray[Any]], max_fpr: float = 0.3) -> float:
    """Give the area under the per-region overlap against the false-positive rate, up to `max_fpr`, divided by
    it.

    A region is an 8-connected component of a mask and counts as much as any other, however small. Every
    distinct value is a threshold; between thresholds the curve is straight.

    Args:
        maps, masks: as `pixel_auroc`.
        max_fpr: above 0, at most 1.
    Returns:
        0 to 1; for max_fpr = 0.3, 0.15 is chance.
    Raises:
        UndefinedMetric, ShapeMismatch: as `pixel_auroc`; also when max_fpr is out of range.
    Source: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021.
    """
    if not 0 < max_fpr <= 1:
        raise UndefinedMetric(
            f"max_fpr is {max_fpr}; it must be above 0 and at most 1. The usual one is 0.3."
        )
    values, shares, negatives = _regions(maps, masks)
    # The limit falls on the value `cut`: `above` normal pixels lie above it and `at` on it.
    cut, above, at = _nth_highest_normal(maps, masks, max_fpr * negatives, negatives)
    order = np.argsort(values)
    values = values[order]
    # overlap[i] is the mean share of the regions' pixels from the i-th lowest value up.
    overlap = np.append(shares[order][::-1].cumsum()[::-1], 0.0)
    area = 0.0
    for scores, mask in _pixels(maps, masks):
        high = np.sort(scores[~mask & (scores > cut)])
        area += float(overlap[np.searchsorted(values, high, side="left")].sum()) / 2
        area += float(overlap[np.searchsorted(values, high, side="right")].sum()) / 2
    # The last stretch ends within the pixels that share the value `cut`.
    part = max_fpr * negatives - above
    start, end = (overlap[np.searchsorted(values, cut, side=side)] for side in ("right", "left"))
    area += part * (start + (end - start) * part / at / 2)
    return float(area / (negatives * max_fpr))


def _regions(
    maps: Sequence[npt.NDArray[Any]], masks: Sequence[npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], int]:
    """Give every defect pixel's value, its share of the mean overlap, and the number of normal pixels."""
    values, shares = [], []
    count = positives = total = 0
    for scores, mask in _pixels(maps, masks):
        labelled, regions = ndimage.label(mask, structure=np.ones((3, 3), dtype=bool))
        region = labelled[mask]
        values.append(scores[mask])
        shares.append(1 / np.bincount(region, minlength=regions + 1)[region])
        count += regions
        positives += len(region)
        total += mask.size
    _require_both(positives, total)
    return np.concatenate(values), np.concatenate(shares) / count, total - positives


def _nth_highest_normal(
    maps: Sequence[npt.NDArray[Any]], masks: Sequence[npt.NDArray[Any]], rank: float, negatives: int
) -> tuple[np.float32, int, int]:
    """Find the value at which the count of normal pixels, from the highest down, reaches `rank`.

    Two counting passes over halves of the value's bits: exact, in constant memory.

    Returns:
        the value, how many normal pixels lie above it, how many have it.
    """
    above = 0
    prefix = 0
    for shift in (16, 0):
        counts = np.zeros(1 << 16, dtype=np.int64)
        for scores, mask in _pixels(maps, masks):
            keys = _ordered_bits(scores[~mask])
            if shift == 0:
                keys = keys[keys >> 16 == prefix]
            counts += np.bincount((keys >> shift) & 0xFFFF, minlength=1 << 16)
        reached = above + counts[::-1].cumsum()
        # `rank` may exceed the count by rounding when it means all of them.
        digit = (1 << 16) - 1 - int(np.searchsorted(reached, min(rank, negatives), side="left"))
        above += int(counts[digit + 1 :].sum())
        prefix = (prefix << 16) | digit
    bits = prefix ^ 0x80000000 if prefix >= 0x80000000 else prefix ^ 0xFFFFFFFF
    return np.array([bits], dtype=np.uint32).view(np.float32)[0], above, int(counts[digit])


def _ordered_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Give unsigned integers that order as the floats do."""
    # Adding zero turns -0 into +0, which is equal to it but has other bits.
    bits = np.ascontiguousarray(values + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31 == 1, ~bits, bits | np.uint32(0x80000000))


def _pixels(
    maps: Sequence[npt.NDArray[Any]], masks: Sequence[npt.NDArray[Any]]
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Walk over maps as float32 and masks as bool, one pair at a time."""
    if len(maps) != len(masks):
        raise ShapeMismatch(f"There are {len(maps)} maps and {len(masks)} masks. Give one mask per map.")
    for index, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
        if scores.shape != mask.shape or scores.ndim != 2:
            raise ShapeMismatch(
                f"Map {index} is of shape {scores.shape} and its mask of {mask.shape}; both must be (H, W). "
                "Resize the map to the mask."
            )
        values = np.asarray(scores, dtype=np.float32)
        if not np.isfinite(values).all():
            raise UndefinedMetric(f"Map {index} holds values that are not finite. Train anew.")
        yield values, np.asarray(mask) > 0


def _require_both(positives: int, total: int) -> None:
    if positives in (0, total):
        raise UndefinedMetric(
            f"Of {total} pixels {positives} are defects; the figure needs at least one of each kind. "
            "Add masked images of the missing kind."
        )


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """By how much one model's figure exceeds another's on the same images, with a 95 % interval."""

    difference: float  # a − b on all images
    low: float
    high: float


def bootstrap_interval(
    statistic: Statistic,
    scores: Scores,
    labels: Labels,
    resamples: int = 1000,
    seed: int = 0,
    *,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Give the percentile interval of a figure over resampled images.

    Images are resampled within each class, so that every resample has both.

    Args:
        statistic: for instance `image_auroc`.
    Returns:
        low, high.
    Raises:
        UndefinedMetric, ShapeMismatch: as `image_auroc`.
    """
    values, anomalous = checked(scores, labels)
    figures = [
        statistic(values[chosen], anomalous[chosen]) for chosen in _resamples(anomalous, resamples, seed)
    ]
    return _percentiles(figures, confidence)


def paired_bootstrap(
    statistic: Statistic,
    scores_a: Scores,
    scores_b: Scores,
    labels: Labels,
    resamples: int = 1000,
    seed: int = 0,
    *,
    confidence: float = 0.95,
) -> PairedDifference:
    """Compare two models on the same images: both are figured on each resample of images.

    Raises:
        UndefinedMetric, ShapeMismatch: as `image_auroc`.
    """
    first, anomalous = checked(scores_a, labels)
    second, _ = checked(scores_b, labels)
    differences = [
        statistic(first[chosen], anomalous[chosen]) - statistic(second[chosen], anomalous[chosen])
        for chosen in _resamples(anomalous, resamples, seed)
    ]
    low, high = _percentiles(differences, confidence)
    return PairedDifference(
        difference=statistic(first, anomalous) - statistic(second, anomalous), low=low, high=high
    )


def _resamples(anomalous: npt.NDArray[np.bool_], count: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    strata = [np.flatnonzero(anomalous == kind) for kind in (False, True)]
    for _ in range(count):
        yield np.concatenate([generator.choice(stratum, len(stratum)) for stratum in strata])


def _percentiles(figures: Iterable[float], confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(list(figures)), [tail, 1 - tail])
    return float(low), float(high)
