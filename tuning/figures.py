"""Figures of merit of a model on a set of pictures, with their intervals; always computed on raw scores."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import metrics
from tuning.objective import Figure, Objective


@dataclass(frozen=True, kw_only=True)
class DefectTypeFigures:
    """How one kind of defect stands out from all normal pictures."""

    images: int
    image_auroc: float
    escapes: int  # of this kind, at the threshold


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a model is worth on one set of pictures; every figure but the counts lies in 0..1, higher is better."""

    images: int
    normal: int
    anomalous: int
    synthetic: bool  # the anomalous ones carry planted defects
    image_auroc: float
    image_auroc_low: float  # 95 % bootstrap interval over images, as those below
    image_auroc_high: float
    average_precision: float
    average_precision_low: float
    average_precision_high: float
    f1: float  # at the threshold
    f1_low: float
    f1_high: float
    best_f1: float  # over all thresholds: needs the labels, so no model reaches it by rule
    false_rejects: int  # normal pictures above the threshold
    escapes: int  # anomalous pictures at or below it
    pixel_auroc: float | None  # None where no picture has a mask
    aupro: float | None
    by_defect_type: dict[str, DefectTypeFigures] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)

    def to_metrics(self, prefix: str) -> dict[str, float]:
        """The single numbers, under `prefix.`, as MLflow metrics."""
        return {
            f"{prefix}.{name}": float(value)
            for name, value in asdict(self).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }


def objective_value(
    objective: Objective,
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.bool_],
    maps: Sequence[NDArray[np.floating[Any]]],
    masks: Sequence[NDArray[np.bool_] | None],
) -> float:
    """What a study maximises: a figure, or the weighted mean of several.

    Args:
        scores, labels: (N,) raw image scores, and whether each image is anomalous.
        maps, masks: (H, W) each; only read by objectives on pixels. A mask is None where nobody has marked the pixels.
    """
    return sum(
        share * _figure(figure, scores, labels, maps, masks) for figure, share in objective.shares.items()
    )


def _figure(
    figure: Figure,
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.bool_],
    maps: Sequence[NDArray[np.floating[Any]]],
    masks: Sequence[NDArray[np.bool_] | None],
) -> float:
    match figure:
        case Figure.IMAGE_AUROC:
            return metrics.image_auroc(scores, labels)
        case Figure.AVERAGE_PRECISION:
            return metrics.average_precision(scores, labels)
        case Figure.F1:
            return metrics.best_f1(scores, labels)[0]
        case Figure.AUPRO:
            marked = [(map_, mask) for map_, mask in zip(maps, masks, strict=True) if mask is not None]
            return metrics.aupro([map_ for map_, _ in marked], [mask for _, mask in marked])


def figures(
    scores: NDArray[np.floating[Any]],
    defect_types: Sequence[str | None],
    maps: Sequence[NDArray[np.floating[Any]]],
    masks: Sequence[NDArray[np.bool_] | None],
    *,
    threshold: float,
    synthetic: bool,
    seed: int = 0,
) -> Figures:
    """All figures on one set of pictures.

    Args:
        scores: (N,) raw image scores.
        defect_types: N; None for a normal picture.
        maps, masks: N of (H, W) each; a mask is None where nobody has marked the pixels of an anomalous picture.
        threshold: scores above it are rejected.
        synthetic: whether the defects are planted.
        seed: of the bootstrap.
    Raises:
        UndefinedMetric: the pictures are all normal or all anomalous.
    """
    labels = np.array([kind is not None for kind in defect_types])
    rejected = scores > threshold
    marked = [(map_, mask) for map_, mask in zip(maps, masks, strict=True) if mask is not None]
    has_pixels = any(mask.any() for _, mask in marked)
    pixel_maps, pixel_masks = [map_ for map_, _ in marked], [mask for _, mask in marked]

    def interval(statistic: metrics.Statistic) -> tuple[float, float]:
        return metrics.bootstrap_interval(statistic, scores, labels, seed=seed)

    auroc, precision = interval(metrics.image_auroc), interval(metrics.average_precision)
    f1 = interval(lambda values, anomalous: metrics.f1_at(values, anomalous, threshold))
    return Figures(
        images=len(labels),
        normal=int((~labels).sum()),
        anomalous=int(labels.sum()),
        synthetic=synthetic,
        image_auroc=metrics.image_auroc(scores, labels),
        image_auroc_low=auroc[0],
        image_auroc_high=auroc[1],
        average_precision=metrics.average_precision(scores, labels),
        average_precision_low=precision[0],
        average_precision_high=precision[1],
        f1=metrics.f1_at(scores, labels, threshold),
        f1_low=f1[0],
        f1_high=f1[1],
        best_f1=metrics.best_f1(scores, labels)[0],
        false_rejects=int((rejected & ~labels).sum()),
        escapes=int((~rejected & labels).sum()),
        pixel_auroc=metrics.pixel_auroc(pixel_maps, pixel_masks) if has_pixels else None,
        aupro=metrics.aupro(pixel_maps, pixel_masks) if has_pixels else None,
        by_defect_type={
            kind: _of_defect_type(kind, scores, defect_types, labels, rejected)
            for kind in sorted({kind for kind in defect_types if kind is not None})
        },
    )


def _of_defect_type(
    kind: str,
    scores: NDArray[np.floating[Any]],
    defect_types: Sequence[str | None],
    labels: NDArray[np.bool_],
    rejected: NDArray[np.bool_],
) -> DefectTypeFigures:
    of_kind = np.array([defect_type == kind for defect_type in defect_types])
    chosen = of_kind | ~labels
    return DefectTypeFigures(
        images=int(of_kind.sum()),
        image_auroc=metrics.image_auroc(scores[chosen], labels[chosen]),
        escapes=int((of_kind & ~rejected).sum()),
    )
