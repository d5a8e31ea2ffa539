"""One-class novelty detection on whole images: each class in turn is normal, all others are anomalous.

The paper's CIFAR-10 task. Nothing is chosen on the test pictures, and they are no sealed test of this product.
"""

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.backbones.resolve import Backbone
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.features import FeatureExtractor, fitted
from engine.metrics import image_auroc
from engine.scoring import image_scores
from engine.simplenet import FusedHead
from engine.training import train
from tuning.errors import DatasetTooSmall
from tuning.paper_protocol import SEEDS, Progress, Spread, patch_batches, spread, training_features

PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True, kw_only=True)
class NoveltyResult:
    """Image AUROC per class and seed."""

    config: SimpleNetConfig  # its seed is the first
    backbone: str  # name, origin and licence
    train_pictures: Mapping[str, int]
    test_pictures: Mapping[str, int]
    image_auroc: Mapping[str, tuple[float, ...]]  # per class, one value per seed
    seconds: float

    def of(self, name: str) -> Spread:
        """One class over the seeds."""
        return spread(self.image_auroc[name])

    @property
    def mean(self) -> Spread:
        """The mean over the classes, over the seeds."""
        return spread([statistics.fmean(values) for values in zip(*self.image_auroc.values(), strict=True)])

    def to_json(self) -> dict[str, Any]:
        """Give everything as a dictionary of JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {"config": self.config.to_json(), "mean": dataclasses.asdict(self.mean)}


def read_classes(root: Path) -> dict[str, tuple[list[Path], list[Path]]]:
    """Give the training and the test pictures of every class: ROOT/train/<class>, ROOT/test/<class>.

    Raises:
        DatasetTooSmall: there are fewer than two classes, or a class has no picture in one of the two.
    """
    names = sorted(path.name for path in _folders(root / "train"))
    if len(names) < 2:
        raise DatasetTooSmall(
            f"{root / 'train'} has {len(names)} folders; one per class is needed, two classes at least. "
            "Give a folder with train/<class> and test/<class>."
        )
    classes = {name: (_pictures(root / "train" / name), _pictures(root / "test" / name)) for name in names}
    for name, (own_train, own_test) in classes.items():
        if not own_train or not own_test:
            raise DatasetTooSmall(
                f"Class '{name}' has {len(own_train)} training and {len(own_test)} test pictures; each needs one "
                f"at least. Add some to {root / ('test' if own_train else 'train') / name}."
            )
    return classes


def novelty(
    classes: Mapping[str, tuple[Sequence[Path], Sequence[Path]]],
    config: SimpleNetConfig,
    *,
    backbone: Backbone,
    seeds: Sequence[int] = SEEDS,
    device: str = "auto",
    precision: str = "auto",
    on_progress: Progress | None = None,
) -> NoveltyResult:
    """Train on each class with each seed, and score the test pictures of all classes once with all of them.

    Args:
        classes: training and test pictures by class, as `read_classes` gives them.
        config: its seed is replaced by each of `seeds`.
        on_progress: called with (done, total, what) along the way; what it raises ends the run.
    Raises:
        EngineError: a picture can't be read, a training diverged.
    """
    started = time.monotonic()
    report = on_progress or (lambda _done, _total, _what: None)
    where = resolve_device(device)
    extractor = FeatureExtractor(backbone, config.layers, where, resolve_precision(precision, where))
    config = fitted(config, extractor)
    heads: dict[str, list[FusedHead]] = {}
    for index, (name, (own_train, _)) in enumerate(classes.items()):
        report(index, len(classes), "classes trained")
        features = training_features(own_train, extractor, config, _nothing)
        heads[name] = [
            train(features, dataclasses.replace(config, seed=seed), device=where).fused() for seed in seeds
        ]
    shown = [(name, path) for name, (_, own_test) in classes.items() for path in own_test]
    scores: dict[str, list[list[float]]] = {name: [[] for _ in seeds] for name in classes}
    paths = [path for _, path in shown]
    for batch, _ in patch_batches(
        paths, extractor, config, lambda done: report(done, len(paths), "test pictures")
    ):
        for name, own in heads.items():
            for index, head in enumerate(own):
                scores[name][index] += image_scores(head(batch), config.top_patches).tolist()
    aurocs = {
        name: tuple(image_auroc(values, [other != name for other, _ in shown]) for values in own)
        for name, own in scores.items()
    }
    return NoveltyResult(
        config=dataclasses.replace(config, seed=seeds[0]),
        backbone=backbone.text,
        train_pictures={name: len(own_train) for name, (own_train, _) in classes.items()},
        test_pictures={name: len(own_test) for name, (_, own_test) in classes.items()},
        image_auroc=aurocs,
        seconds=time.monotonic() - started,
    )


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


def _nothing(_done: int, _total: int) -> None:
    pass
