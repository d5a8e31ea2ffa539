"""What SimpleNet's paper reports for MVTec AD, and our figures beside it."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tuning.paper_protocol import BEST_ON_TEST, Figures, PaperResult, spreads

SOURCE = (
    "SimpleNet, Liu et al., CVPR 2023, table 1, at second hand: WideResNet-50, layers 2 and 3, 288 px, "
    "epoch chosen on the test set"
)
# Image AUROC per category of MVTec AD; their mean is the 0.996 that the paper reports.
IMAGE_AUROC = {
    "carpet": 0.997,
    "grid": 0.997,
    "leather": 1.0,
    "tile": 0.998,
    "wood": 1.0,
    "bottle": 1.0,
    "cable": 0.999,
    "capsule": 0.977,
    "hazelnut": 1.0,
    "metal_nut": 1.0,
    "pill": 0.990,
    "screw": 0.982,
    "toothbrush": 0.997,
    "transistor": 1.0,
    "zipper": 0.999,
}


def table(results: Mapping[str, PaperResult], *, published: bool) -> dict[str, dict[str, Any]]:
    """Give every category's result as JSON values, with its published figure and the means where there are some.

    Args:
        results: by category, of equal seeds.
        published: whether categories are those of MVTec AD when they are called so.
    Returns:
        by category `PaperResult.to_json()`; of several categories also "mean": per seed the mean over them, and that
        over the seeds. "published" has the paper's image AUROC; of "mean" it is over the same categories, and
        absent where one of them has none.
    """
    rows = {name: result.to_json() for name, result in results.items()}
    known = [IMAGE_AUROC.get(name) if published else None for name in results]
    if len(results) > 1:
        by_seed = list(zip(*(result.seeds for result in results.values()), strict=True))
        best = spreads([_mean_figures([one.best_on_test for one in own]) for own in by_seed])
        rows["mean"] = {
            **dataclasses.asdict(spreads([_mean_figures(own) for own in by_seed])),
            "best_on_test": {"note": BEST_ON_TEST, **dataclasses.asdict(best)},
            "test_pictures": sum(result.test_pictures for result in results.values()),
            "seconds": sum(result.seconds for result in results.values()),
        }
        known.append(_mean(known))
    for row, value in zip(rows.values(), known, strict=True):
        if value is not None:
            row["published"] = {"image_auroc": value, "source": SOURCE}
    return rows


def _mean_figures(figures: Sequence[Figures]) -> Figures:
    return Figures(
        image_auroc=statistics.fmean(one.image_auroc for one in figures),
        pixel_auroc=_mean([one.pixel_auroc for one in figures]),
        aupro=_mean([one.aupro for one in figures]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    # A mean over fewer categories than its neighbours' would be read as one over all.
    return statistics.fmean(numbers) if numbers and len(numbers) == len(values) else None
