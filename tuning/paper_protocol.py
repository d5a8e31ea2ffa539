"""The paper protocol: figures that can stand beside published tables, and nothing else.

All normal training pictures train, the whole test set is scored, the last epoch counts, and several seeds are
reported. No choice is made on the test pictures; but they are no sealed test of this product either, so a model
judged this way is never a champion by these figures.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.backbones.resolve import Backbone
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.features import FeatureExtractor, aggregate, extract
from engine.images import RGB, decode, decode_mask
from engine.metrics import aupro, image_auroc, pixel_auroc
from engine.scoring import anomaly_maps, image_scores
from engine.training import train as train_model
from storage.records import Label
from tuning.errors import DatasetTooSmall

BATCH = 8  # pictures per pass through the backbone
SEEDS = (0, 1, 2)

Progress = Callable[[int, int, str], None]  # done, total, what


@dataclass(frozen=True, kw_only=True)
class LabelledPicture:
    """One picture of the test set."""

    path: Path
    label: Label
    mask_path: Path | None = None  # of an anomalous picture; without one it is left out of the pixel figures


@dataclass(frozen=True, kw_only=True)
class SeedFigures:
    """What one training reached on the whole test set."""

    seed: int
    image_auroc: float
    pixel_auroc: float | None  # None where no picture has a mask
    aupro: float | None
    training_seconds: float


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over the seeds."""

    mean: float
    deviation: float  # sample standard deviation; 0 for one seed


@dataclass(frozen=True, kw_only=True)
class PaperResult:
    """The figures of all seeds, and what they were measured on."""

    config: SimpleNetConfig  # its seed is the first
    backbone: str  # name, origin and licence
    weights_digest: str
    device: str
    precision: str
    train_pictures: int
    test_pictures: int
    anomalous_pictures: int  # of the test pictures
    masked_pictures: int  # of the anomalous ones: those that the pixel figures count
    seeds: tuple[SeedFigures, ...]
    seconds: float  # all of it: features, trainings, scoring, figures

    @property
    def image_auroc(self) -> Spread:
        """Over the seeds."""
        return spread([one.image_auroc for one in self.seeds])

    @property
    def pixel_auroc(self) -> Spread | None:
        """Over the seeds, in the pictures' own pixels; None where no picture has a mask."""
        values = [one.pixel_auroc for one in self.seeds if one.pixel_auroc is not None]
        return spread(values) if values else None

    @property
    def aupro(self) -> Spread | None:
        """Over the seeds, up to 30 % false positives; None where no picture has a mask."""
        values = [one.aupro for one in self.seeds if one.aupro is not None]
        return spread(values) if values else None

    def to_json(self) -> dict[str, Any]:
        """Give everything as a dictionary of JSON values, marked protocol=paper."""
        spreads = {name: getattr(self, name) for name in ("image_auroc", "pixel_auroc", "aupro")}
        return {
            "protocol": "paper",
            **{name: spread and dataclasses.asdict(spread) for name, spread in spreads.items()},
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "config": self.config.to_json(),
            "seeds": [dataclasses.asdict(one) for one in self.seeds],
        }


def paper_protocol(
    train: Sequence[Path],
    test: Sequence[LabelledPicture],
    config: SimpleNetConfig,
    *,
    backbone: Backbone,
    seeds: Sequence[int] = SEEDS,
    device: str = "auto",
    precision: str = "auto",
    on_progress: Progress | None = None,
) -> PaperResult:
    """Train on all normal training pictures with each seed, and judge on the whole test set.

    Args:
        train: files of normal pictures.
        test: of both labels.
        config: its seed is replaced by each of `seeds`.
        on_progress: called with (done, total, what) along the way; what it raises ends the run.
    Raises:
        DatasetTooSmall: no training picture, no seed, or test pictures of one label only.
        EngineError: a picture can't be read, a training diverged.
    """
    started = time.monotonic()
    labels = [picture.label is Label.ANOMALOUS for picture in test]
    if not train or not seeds or len(set(labels)) < 2:
        raise DatasetTooSmall(
            f"There are {len(train)} training pictures, {len(seeds)} seeds and {len(test)} test pictures, "
            f"{sum(labels)} of them anomalous; each must be there, and normal test pictures too. "
            "Give a folder in the MVTec layout."
        )
    report = on_progress or _ignore
    where = resolve_device(device)
    extractor = FeatureExtractor(backbone, config.layers, where, resolve_precision(precision, where))

    reading = patch_batches(
        train, extractor, config, lambda done: report(done, len(train), "training pictures")
    )
    features = torch.cat([batch.half().cpu() for batch, _ in reading])
    heads, seconds = [], []
    for index, seed in enumerate(seeds):
        report(index, len(seeds), "trainings")
        began = time.monotonic()
        heads.append(train_model(features, dataclasses.replace(config, seed=seed), device=where))
        seconds.append(time.monotonic() - began)
    report(len(seeds), len(seeds), "trainings")
    del features

    sizes: list[tuple[int, int]] = []
    patch_scores: list[list[Tensor]] = [[] for _ in heads]
    paths = [picture.path for picture in test]
    for batch, pictures in patch_batches(
        paths, extractor, config, lambda done: report(done, len(test), "test pictures")
    ):
        sizes += [(picture.shape[0], picture.shape[1]) for picture in pictures]
        for own, head in zip(patch_scores, heads, strict=True):
            own.extend(head.patch_scores(batch).cpu())

    masks = [_mask(picture, size) for picture, size in zip(test, sizes, strict=True)]
    figures = []
    for index, seed in enumerate(seeds):
        report(index, len(seeds), "figures")
        figures.append(_figures(seed, patch_scores[index], labels, masks, config, seconds[index]))
    report(len(seeds), len(seeds), "figures")
    return PaperResult(
        config=dataclasses.replace(config, seed=seeds[0]),
        backbone=backbone.text,
        weights_digest=backbone.digest,
        device=str(where),
        precision=str(extractor.dtype).removeprefix("torch."),
        train_pictures=len(train),
        test_pictures=len(test),
        anomalous_pictures=sum(labels),
        masked_pictures=sum(1 for mask in masks if mask is not None and mask.any()),
        seeds=tuple(figures),
        seconds=time.monotonic() - started,
    )


def patch_batches(
    paths: Sequence[Path],
    extractor: FeatureExtractor,
    config: SimpleNetConfig,
    on_done: Callable[[int], None],
) -> Iterator[tuple[Tensor, list[RGB]]]:
    """Walk over pictures: patch features (B, h, w, D) float32 on the device, and the pictures."""
    for start in range(0, len(paths), BATCH):
        on_done(start)
        pictures = [decode(path.read_bytes(), path.name) for path in paths[start : start + BATCH]]
        maps = extract(extractor, pictures, config.height, config.width, config.resize)
        yield aggregate(maps, config.layers, config.patch_size, config.feature_dim), pictures
    on_done(len(paths))


def _mask(picture: LabelledPicture, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Give the picture's mask, empty for a normal picture, None for an anomalous one whose defect nobody marked."""
    if picture.label is Label.NORMAL:
        return np.zeros(size, dtype=np.bool_)
    if picture.mask_path is None:
        return None
    mask = decode_mask(picture.mask_path.read_bytes(), picture.mask_path.name)
    # An anomalous picture with an empty mask says nothing about its pixels, least of all that they are normal.
    return mask if mask.any() else None


def _figures(
    seed: int,
    patch_scores: Sequence[Tensor],
    labels: Sequence[bool],
    masks: Sequence[NDArray[np.bool_] | None],
    config: SimpleNetConfig,
    seconds: float,
) -> SeedFigures:
    scores = image_scores(torch.stack(list(patch_scores)), config.top_patches).numpy()
    known = [index for index, mask in enumerate(masks) if mask is not None]
    own = [mask for mask in masks if mask is not None]
    maps = _Maps([patch_scores[index] for index in known], [mask.shape for mask in own], config)
    some_masked = any(mask.any() for mask in own)
    return SeedFigures(
        seed=seed,
        image_auroc=image_auroc(scores, labels),
        pixel_auroc=pixel_auroc(maps, own) if some_masked else None,
        aupro=aupro(maps, own) if some_masked else None,
        training_seconds=seconds,
    )


class _Maps(Sequence[NDArray[np.float32]]):
    """Anomaly maps made when asked for: those of a large test set would not fit in memory together."""

    def __init__(
        self, patch_scores: Sequence[Tensor], sizes: Sequence[tuple[int, ...]], config: SimpleNetConfig
    ) -> None:
        self._patch_scores = patch_scores
        self._sizes = sizes
        self._config = config

    def __len__(self) -> int:
        return len(self._patch_scores)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, index: slice) -> "_Maps": ...
    def __getitem__(self, index: int | slice) -> "NDArray[np.float32] | _Maps":
        if isinstance(index, slice):
            return _Maps(self._patch_scores[index], self._sizes[index], self._config)
        height, width = self._sizes[index]
        config = self._config
        maps = anomaly_maps(
            self._patch_scores[index][None],
            config.height,
            config.width,
            config.smoothing_std,
            picture_size=(height, width),
            resize=config.resize,
        )
        values: NDArray[np.float32] = maps[0].numpy()
        return values


def _ignore(_done: int, _total: int, _what: str) -> None:
    pass


def spread(values: Sequence[float]) -> Spread:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Spread(mean=statistics.fmean(values), deviation=deviation)
