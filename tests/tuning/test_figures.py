"""Figures of merit of a set of pictures: every one of images with the interval that its number of pictures leaves."""

import numpy as np
import pytest

from tuning.figures import figures


def of(count: int):
    draw = np.random.default_rng(0)
    scores = np.concatenate([draw.normal(0, 1, count), draw.normal(1.5, 1, count)])
    kinds = [None] * count + ["dent"] * count
    return figures(scores, kinds, [], [], threshold=0.8, synthetic=False).to_json()


@pytest.mark.parametrize("name", ["image_auroc", "average_precision", "f1"])
def test_interval_holds_the_figure_and_shrinks_with_more_pictures(name):
    few, many = of(20), of(500)
    for found in (few, many):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    width = [found[f"{name}_high"] - found[f"{name}_low"] for found in (few, many)]
    assert width[0] > 1.5 * width[1]
