"""The false-reject rate that is promised is the one that comes, on real tiles and whatever the scores are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import guarantee
from benchmarks.guarantee import normal_pictures, realised, scores_of_unseen, table
from engine.backbones.resolve import resolve_backbone
from engine.config import SimpleNetConfig

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("wanted", [0.05, 0.1, 0.2])
def test_promise_holds_for_scores_of_any_kind(wanted: float) -> None:
    draw = np.random.default_rng(3)
    for scores in (draw.normal(size=99), draw.exponential(size=140), draw.standard_cauchy(size=200)):
        found = realised(scores, wanted)
        assert found.expected <= wanted
        assert found.kept, found


def test_threshold_that_promises_less_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(3).normal(size=120)

    def careless(scores: Any, rate: float) -> float:
        return float(np.quantile(scores, 1 - 2 * rate))

    monkeypatch.setattr(guarantee, "conformal_threshold", careless)
    assert not realised(scores, 0.1).kept


def test_table_tells_each_rate() -> None:
    found = realised(np.arange(100.0), 0.05)
    assert "| 5% | 50 and 50 |" in table([found, replace(found, wanted=0.1)])


@pytest.mark.slow
def test_promise_is_kept_on_magnetic_tiles(magnetic_tile: Path) -> None:
    paths = normal_pictures(magnetic_tile)
    scores = scores_of_unseen(paths, 60, SimpleNetConfig(epochs=10), resolve_backbone("auto", None))
    assert len(scores) == len(paths) - 60
    assert len(set(scores.tolist())) == len(scores)  # the law is exact where no two are equal
    found = realised(scores, 0.05, splits=200)
    assert found.kept, found
    assert found.mean <= 0.05 + (found.band_of_mean[1] - found.expected)
