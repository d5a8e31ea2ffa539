"""The paper protocol: figures that can stand beside published tables, and nothing else.

All normal training pictures train, the whole test set is scored, the last epoch counts, and several seeds are
reported. No choice is made on the test pictures; but they are no sealed test of this product either, so a model
judged this way is never a champion by these figures.

Beside them stand those of the best epoch on test: published code keeps the epoch with the highest image AUROC on
the test set, so published tables can only be matched that way. They are chosen on what they are reported on.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from engine.features import FeatureExtractor, aggregate, extract, fitted
from engine.geometry import MIRRORS, in_view, mirrored
from engine.images import RGB, decode
from engine.masks import decode_mask, merge_masks
from engine.metrics import aupro, image_auroc, pixel_auroc
from engine.scoring import anomaly_maps, image_scores
from engine.simplenet import FusedHead
from engine.training import Epoch
from engine.training import train as train_model
from storage.records import Label
from tuning.errors import DatasetTooSmall

BATCH = 8  # pictures per pass through the backbone
SEEDS = (0, 1, 2)
# So often does the published code look at the test set: of its 160 epochs after every fourth.
JUDGED_EPOCHS = 40
BEST_ON_TEST = "best epoch on test (as published code reports; chosen on the test set)"

Progress = Callable[[int, int, str], None]  # done, total, what


@dataclass(frozen=True, kw_only=True)
class LabelledPicture:
    """One picture of the test set."""

    path: Path
    label: Label
    mask_paths: tuple[
        Path, ...
    ] = ()  # of an anomalous picture; without one it is left out of the pixel figures


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one model reaches on the whole test set."""

    image_auroc: float
    pixel_auroc: float | None  # in the pictures' own pixels; None where no picture has a mask
    aupro: float | None  # up to 30 % false positives; None where no picture has a mask


@dataclass(frozen=True, kw_only=True)
class EpochFigures(Figures):
    """What a training had reached after one epoch."""

    epoch: int  # from 1


@dataclass(frozen=True, kw_only=True)
class SeedFigures(EpochFigures):
    """What one training reached after its last epoch, and after the epoch that published code would report."""

    seed: int
    training_seconds: float
    best_on_test: (
        EpochFigures  # of the judged epochs the one of highest image AUROC, of equal ones the latest
    )


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over the seeds."""

    mean: float
    deviation: float  # sample standard deviation; 0 for one seed


@dataclass(frozen=True, kw_only=True)
class Spreads:
    """All figures over the seeds."""

    image_auroc: Spread
    pixel_auroc: Spread | None  # None where no picture has a mask
    aupro: Spread | None


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
    def last_epoch(self) -> Spreads:
        """Chosen without the test set."""
        return spreads(self.seeds)

    @property
    def best_on_test(self) -> Spreads:
        """Of each seed's best epoch on test."""
        return spreads([one.best_on_test for one in self.seeds])

    def to_json(self) -> dict[str, Any]:
        """Give everything as a dictionary of JSON values, marked protocol=paper."""
        return {
            "protocol": "paper",
            **dataclasses.asdict(self.last_epoch),
            "best_on_test": {"note": BEST_ON_TEST, **dataclasses.asdict(self.best_on_test)},
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

    The test pictures are read once, after all trainings, and scored by what each training was after each of up to
    JUDGED_EPOCHS epochs, the last among them. Held in memory for that, per seed and judged epoch: a folded head
    (members × discriminator_width × D × 4 bytes: 1.6 MB of Drawnet's layers 2 and 3, 6.3 MB of WideResNet-50's)
    and the patch scores (4 kB per test picture at 256 pixels). Test features are never held.

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
    config = fitted(config, extractor)

    features = training_features(
        train, extractor, config, lambda done, total: report(done, total, "training pictures")
    )
    heads, seconds = [], []
    for index, seed in enumerate(seeds):
        report(index, len(seeds), "trainings")
        began = time.monotonic()
        heads.append(_heads(features, dataclasses.replace(config, seed=seed), where))
        seconds.append(time.monotonic() - began)
    report(len(seeds), len(seeds), "trainings")
    del features

    sizes: list[tuple[int, int]] = []
    patch_scores: list[dict[int, list[Tensor]]] = [{epoch: [] for epoch in own} for own in heads]
    paths = [picture.path for picture in test]
    for batch, pictures in patch_batches(
        paths, extractor, config, lambda done: report(done, len(test), "test pictures")
    ):
        sizes += [(picture.shape[0], picture.shape[1]) for picture in pictures]
        for scores, own in zip(patch_scores, heads, strict=True):
            for epoch, head in own.items():
                scores[epoch].extend(head(batch).cpu())

    masks = [_mask(picture, size) for picture, size in zip(test, sizes, strict=True)]
    figures = []
    for index, seed in enumerate(seeds):
        report(index, len(seeds), "figures")
        figures.append(_judge(seed, patch_scores[index], labels, masks, config, seconds[index]))
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


def _heads(features: Tensor, config: SimpleNetConfig, device: torch.device) -> dict[int, FusedHead]:
    """Train, and give by epoch what scores after it: of JUDGED_EPOCHS at most, evenly up to the last."""
    stride = math.ceil(config.epochs / JUDGED_EPOCHS)
    heads: dict[int, FusedHead] = {}

    def keep(epoch: Epoch) -> None:
        if (epoch.epochs - epoch.index) % stride == 0:
            heads[epoch.index] = epoch.model.fused()

    train_model(features, config, device=device, on_epoch=keep)
    return heads


def training_features(
    paths: Sequence[Path],
    extractor: FeatureExtractor,
    config: SimpleNetConfig,
    on_done: Callable[[int, int], None],
) -> Tensor:
    """Patch features (N, h, w, D) float16 on the CPU of training pictures, turned over as the configuration says.

    Args:
        on_done: called with (done, total) pictures.
    """
    ways = ("", *MIRRORS[config.mirror])
    parts: list[Tensor] = []
    for index, way in enumerate(ways):

        def of_all(done: int, index: int = index) -> None:
            on_done(index * len(paths) + done, len(ways) * len(paths))

        parts += [batch.half().cpu() for batch, _ in patch_batches(paths, extractor, config, of_all, way)]
    return torch.cat(parts)


def patch_batches(
    paths: Sequence[Path],
    extractor: FeatureExtractor,
    config: SimpleNetConfig,
    on_done: Callable[[int], None],
    way: str = "",
) -> Iterator[tuple[Tensor, list[RGB]]]:
    """Walk over pictures: patch features (B, h, w, D) float32 on the device, and the pictures.

    Args:
        way: in which the pictures are turned over, one of those in MIRRORS; "": they are not.
    """
    for start in range(0, len(paths), BATCH):
        on_done(start)
        read = [decode(path.read_bytes(), path.name) for path in paths[start : start + BATCH]]
        pictures = [mirrored(picture, way) for picture in read] if way else read
        maps = extract(extractor, pictures, config.height, config.width, config.resize)
        yield aggregate(maps, config.layers, config.patch_size, config.feature_dim), pictures
    on_done(len(paths))


def _mask(picture: LabelledPicture, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Give the picture's mask, empty for a normal picture, None for an anomalous one whose defect nobody marked."""
    if picture.label is Label.NORMAL:
        return np.zeros(size, dtype=np.bool_)
    if not picture.mask_paths:
        return None
    mask = merge_masks([decode_mask(path.read_bytes(), path.name) for path in picture.mask_paths])
    # An anomalous picture with an empty mask says nothing about its pixels, least of all that they are normal.
    return mask if mask.any() else None


def _judge(
    seed: int,
    patch_scores: Mapping[int, Sequence[Tensor]],
    labels: Sequence[bool],
    masks: Sequence[NDArray[np.bool_] | None],
    config: SimpleNetConfig,
    seconds: float,
) -> SeedFigures:
    """Figure one training from its patch scores by epoch; pixels only for the last and the best epoch."""
    aurocs = {
        epoch: image_auroc(image_scores(torch.stack(list(own)), config.top_patches).numpy(), labels)
        for epoch, own in patch_scores.items()
    }
    last = max(aurocs)
    best = max(aurocs, key=lambda epoch: (aurocs[epoch], epoch))
    figures = {
        epoch: EpochFigures(
            epoch=epoch, image_auroc=aurocs[epoch], **_pixel_figures(patch_scores[epoch], masks, config)
        )
        for epoch in {last, best}
    }
    return SeedFigures(**vars(figures[last]), seed=seed, training_seconds=seconds, best_on_test=figures[best])


def _pixel_figures(
    patch_scores: Sequence[Tensor], masks: Sequence[NDArray[np.bool_] | None], config: SimpleNetConfig
) -> dict[str, float | None]:
    """Figure over what is seen of the pictures with a known mask; None where nothing is marked."""
    known = [(scores, mask) for scores, mask in zip(patch_scores, masks, strict=True) if mask is not None]
    canvas = (config.height, config.width)
    own = [in_view(mask, canvas, config.resize) for _, mask in known]
    if not any(mask.any() for mask in own):
        return {"pixel_auroc": None, "aupro": None}
    maps = _Maps([scores for scores, _ in known], [mask.shape for _, mask in known], config)
    return {"pixel_auroc": pixel_auroc(maps, own), "aupro": aupro(maps, own)}


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
        return in_view(values, (config.height, config.width), config.resize)


def _ignore(_done: int, _total: int, _what: str) -> None:
    pass


def spreads(figures: Sequence[Figures]) -> Spreads:
    """Give each figure over the seeds; one that any of them lacks is None."""
    return Spreads(
        image_auroc=spread([one.image_auroc for one in figures]),
        pixel_auroc=_known([one.pixel_auroc for one in figures]),
        aupro=_known([one.aupro for one in figures]),
    )


def _known(values: Sequence[float | None]) -> Spread | None:
    numbers = [value for value in values if value is not None]
    return spread(numbers) if len(numbers) == len(values) else None


def spread(values: Sequence[float]) -> Spread:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Spread(mean=statistics.fmean(values), deviation=deviation)
