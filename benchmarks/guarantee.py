"""Whether the wanted false-reject rate is kept on real pictures, over many random splits of the normal ones.

    python -m benchmarks.guarantee ../shared/data/magnetic_tile

One model is trained on some of the normal pictures and scores all others once. Then these are split at random again
and again: one half sets the threshold that should reject at most a share of normal parts, the other half is decided
with it. Where scores are exchangeable and differ, the number of rejects of one split follows a beta-binomial law
exactly, whatever the scores are: with n calibration pictures, m others and the k-th smallest score as the threshold,
BetaBinomial(m, n + 1 − k, k). Told are the mean rate beside its expectation, and how many splits lie within the law's
central 95 %.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from benchmarks.measuring import RESULTS, add_backbone_options, chosen_backbone, machine, write_json
from engine.backbones.resolve import Backbone
from engine.calibration import conformal_threshold, images_needed
from engine.config import SimpleNetConfig
from engine.features import FeatureExtractor, aggregate, extract, fitted
from engine.images import decode
from engine.scoring import Detector
from engine.training import train

SPLITS = 200
RATES = (0.02, 0.05, 0.1, 0.2)
BAND = 0.95  # of the law that should hold so many splits at least


@dataclass(frozen=True, kw_only=True)
class Realised:
    """What came of one wanted rate."""

    wanted: float
    calibration: int  # pictures that set the threshold
    judged: int  # pictures that were decided with it
    expected: float  # mean rate of the law
    mean: float  # rate over the splits
    band: tuple[float, float]  # central 95 % of the law for the rate of one split
    band_of_mean: tuple[float, float]  # and for the mean of all splits
    within: int  # splits inside the band
    splits: int

    @property
    def kept(self) -> bool:
        """Whether the mean lies in its band, and no fewer splits in theirs than chance allows (1 in 1,000)."""
        least = int(stats.binom.ppf(0.001, self.splits, BAND))
        return self.band_of_mean[0] <= self.mean <= self.band_of_mean[1] and self.within >= least


def normal_pictures(folder: Path) -> list[Path]:
    """The normal pictures of a data set in the layout of MVTec AD."""
    return sorted([*(folder / "train" / "good").iterdir(), *(folder / "test" / "good").iterdir()])


def scores_of_unseen(
    paths: Sequence[Path], trained_on: int, config: SimpleNetConfig, backbone: Backbone, seed: int = 0
) -> NDArray[np.float64]:
    """Train one model on some of the pictures, drawn at random, and score the others."""
    order = np.random.default_rng(seed).permutation(len(paths))
    pictures = [decode(paths[number].read_bytes(), paths[number].name) for number in order]
    device = torch.device("cpu")
    extractor = FeatureExtractor(backbone, config.layers, device, torch.float32)
    config = fitted(config, extractor)
    features = [
        aggregate(
            extract(extractor, [picture], config.height, config.width, config.resize),
            config.layers,
            config.patch_size,
            config.feature_dim,
        )
        for picture in pictures[:trained_on]
    ]
    model = train(torch.cat(features), config, device=device)
    detector = Detector(extractor, model, config)
    return np.array([detector.score([picture])[0].score for picture in pictures[trained_on:]])


def realised(scores: NDArray[np.float64], wanted: float, *, splits: int = SPLITS, seed: int = 0) -> Realised:
    """Split scores of normal pictures at random again and again, and decide one half by the other.

    Args:
        scores: of pictures that nothing was trained on.
    """
    draw = np.random.default_rng(seed)
    calibration = max((len(scores) + 1) // 2, images_needed(wanted))
    judged = len(scores) - calibration
    rejects = []
    for _ in range(splits):
        order = draw.permutation(scores)
        threshold = conformal_threshold(order[:calibration], wanted)
        rejects.append(int((order[calibration:] > threshold).sum()))
    rank = math.ceil((calibration + 1) * (1 - wanted) - 1e-9)
    law = stats.betabinom(judged, calibration + 1 - rank, rank)
    low, high = law.interval(BAND)
    deviation = law.std() / math.sqrt(splits) / judged
    expected = law.mean() / judged
    return Realised(
        wanted=wanted,
        calibration=calibration,
        judged=judged,
        expected=float(expected),
        mean=float(np.mean(rejects) / judged),
        band=(float(low / judged), float(high / judged)),
        band_of_mean=(float(expected - 3.3 * deviation), float(expected + 3.3 * deviation)),
        within=sum(bool(low <= count <= high) for count in rejects),
        splits=splits,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, score, split, tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a data set in the layout of MVTec AD")
    parser.add_argument("--train", type=int, default=60, help="normal pictures to train on; default: 60")
    parser.add_argument("--splits", type=int, default=SPLITS, help=f"default: {SPLITS}")
    parser.add_argument("--epochs", type=int, help="of the training; default: the product's")
    parser.add_argument("--json", type=Path, default=RESULTS / "guarantee.json", metavar="FILE")
    add_backbone_options(parser)
    options = parser.parse_args(arguments)
    paths = normal_pictures(options.data)
    if not 0 < options.train < len(paths) - 40:
        parser.error(f"--train is {options.train}; of {len(paths)} normal pictures 40 must be left")
    config = SimpleNetConfig() if options.epochs is None else SimpleNetConfig(epochs=options.epochs)
    with chosen_backbone(options) as backbone:
        scores = scores_of_unseen(paths, options.train, config, backbone)
    rates = [rate for rate in RATES if images_needed(rate) <= len(scores) - 20]
    found = [realised(scores, rate, splits=options.splits) for rate in rates]
    write_json(
        options.json, {"machine": machine(), "trained_on": options.train, "rates": [*map(asdict, found)]}
    )
    print(table(found))


def table(found: Sequence[Realised]) -> str:
    """Markdown: a row per wanted rate."""
    lines = [
        "| wanted | calibration and judged pictures | expected mean | realised mean (its 99.9 % band) | "
        "splits within the law's 95 % |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.wanted:.0%} | {one.calibration} and {one.judged} | {one.expected:.2%} | "
        f"{one.mean:.2%} ({one.band_of_mean[0]:.2%}–{one.band_of_mean[1]:.2%}) | {one.within} of {one.splits} |"
        for one in found
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
