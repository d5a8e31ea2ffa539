import json
import statistics

import pytest

from engine.config import SimpleNetConfig
from tuning.paper_protocol import EpochFigures, PaperResult, SeedFigures
from tuning.published_figures import IMAGE_AUROC, table


def result(*aurocs: float, aupro: float | None = 0.5) -> PaperResult:
    """Of one seed per value; the best epoch on test is 0.1 better."""
    return PaperResult(
        config=SimpleNetConfig(),
        backbone="drawnet",
        weights_digest="0",
        device="cpu",
        precision="float32",
        train_pictures=10,
        test_pictures=20,
        anomalous_pictures=10,
        masked_pictures=10,
        seeds=tuple(
            SeedFigures(
                epoch=10,
                image_auroc=auroc,
                pixel_auroc=0.75,
                aupro=aupro,
                seed=seed,
                training_seconds=1.0,
                best_on_test=EpochFigures(epoch=7, image_auroc=auroc + 0.1, pixel_auroc=0.75, aupro=aupro),
            )
            for seed, auroc in enumerate(aurocs)
        ),
        seconds=3.0,
    )


def test_published_figures_are_those_of_the_15_categories_and_have_the_papers_mean() -> None:
    assert len(IMAGE_AUROC) == 15
    assert round(statistics.fmean(IMAGE_AUROC.values()), 3) == 0.996
    assert min(IMAGE_AUROC, key=lambda name: IMAGE_AUROC[name]) == "capsule"


def test_mean_is_taken_over_categories_first_and_then_over_seeds() -> None:
    rows = table({"bottle": result(0.6, 0.8), "screw": result(0.8, 0.6, aupro=None)}, published=True)
    assert list(rows) == ["bottle", "screw", "mean"]
    # Per category the seeds differ; the mean over both categories is the same for either seed.
    assert rows["bottle"]["image_auroc"]["deviation"] > 0.1
    assert rows["mean"]["image_auroc"] == {"mean": pytest.approx(0.7), "deviation": pytest.approx(0)}
    assert rows["mean"]["best_on_test"]["image_auroc"]["mean"] == pytest.approx(0.8)
    assert rows["mean"]["pixel_auroc"]["mean"] == 0.75
    assert rows["mean"]["aupro"] is None  # one category has none
    assert rows["mean"]["published"]["image_auroc"] == pytest.approx((1.0 + 0.982) / 2)
    assert rows["mean"]["test_pictures"] == 40
    assert json.loads(json.dumps(rows)) == rows


def test_only_known_categories_have_published_figures_and_a_mean_only_if_all_do() -> None:
    rows = table({"bottle": result(0.9), "plates": result(0.9)}, published=True)
    assert rows["bottle"]["published"]["image_auroc"] == 1.0
    assert "CVPR 2023" in rows["bottle"]["published"]["source"]
    assert "published" not in rows["plates"]
    assert "published" not in rows["mean"]


def test_no_published_figure_stands_beside_another_set_and_no_mean_beside_one_category() -> None:
    rows = table({"bottle": result(0.9)}, published=False)
    assert list(rows) == ["bottle"]
    assert "published" not in rows["bottle"]
