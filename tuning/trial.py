"""One trial: train a configuration on cached features, judge it on the validation pictures after every epoch."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.backbones.resolve import Backbone
from engine.calibration import Calibration, calibrate
from engine.config import SimpleNetConfig
from engine.geometry import cut, in_view, place
from engine.scoring import anomaly_maps, image_scores
from engine.simplenet import SimpleNet
from engine.training import Epoch, train
from storage.feature_cache import CachedFeatures
from storage.workspace import Workspace
from tuning.features import patch_features
from tuning.figures import Figures, figures, objective_value
from tuning.knobs import KNOBS
from tuning.latency import latency_ms
from tuning.objective import Objective
from tuning.pictures import Picture, StudyPictures

SCORE_PATCHES = 8192  # patches per call of the head, about: with 1,024 hidden units they take 34 MB


@dataclass(frozen=True, kw_only=True)
class TrialData:
    """What every trial of a study shares."""

    workspace: Workspace
    pictures: StudyPictures
    cached: CachedFeatures
    objective: Objective
    false_reject_rate: float
    backbone: Backbone  # that made the cached features
    device: torch.device
    score_patches: int = SCORE_PATCHES  # patches per call of the head, about


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What one trial found, but for its head."""

    values: tuple[float, ...]  # the objective after the last epoch, of each training
    calibration: Calibration
    figures: Figures  # of the first training's model on the validation pictures
    validation_scores: NDArray[
        np.float64
    ]  # (N,) raw, of that model, in the order of the study's validation pictures
    latency_ms: float  # of that model, for score and map of one picture on this device
    seconds: float

    @property
    def value(self) -> float:
        """The trial's value: the mean over its trainings."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the value from seed to seed; None of one training."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class TrialResult(Findings):
    """What one trial found; the head is the only part that no database can hold."""

    head: SimpleNet  # of the first training: taking the best of them would be one more choice on few pictures

    @property
    def findings(self) -> Findings:
        """All but the head."""
        return Findings(**{field.name: getattr(self, field.name) for field in fields(Findings)})


def run_trial(
    data: TrialData,
    config: SimpleNetConfig,
    *,
    seeds: int = 1,
    on_epoch: Callable[[int, int, float, float | None], None],
) -> TrialResult:
    """Train and judge one configuration, with as many seeds from its own on as wanted.

    The value is the last epoch's, not the best epoch's: choosing the epoch would be one more choice on few pictures.

    Args:
        on_epoch: called with (epoch from 1, epochs of all trainings, training loss, objective on validation); may
            raise to stop. The objective is None but for the first training: epochs of several can't be compared, and
            a trial that is to be pruned is pruned there.
    Raises:
        EngineError: training diverged, or a figure is undefined.
    """
    started = time.monotonic()
    validation = patch_features(data.workspace, data.cached, data.pictures.validation, config)
    labels = np.array([picture.anomalous for picture in data.pictures.validation])
    small_masks = _masks(data, config, mask_on_canvas) if data.objective.needs_masks else []
    training = patch_features(data.workspace, data.cached, data.pictures.training(config.mirror), config)

    def value_of(model: SimpleNet) -> float:
        scores, patches = score_patches(model, validation, config, data.device, data.score_patches)
        maps = _maps(patches, config, [None] * len(patches)) if small_masks else []
        return objective_value(data.objective, scores, labels, maps, small_masks)

    def told(number: int) -> Callable[[Epoch], None]:
        """What to do after each epoch of a training, counted from 0."""

        def tell(epoch: Epoch) -> None:
            value = value_of(epoch.model) if number == 0 else None
            on_epoch(number * epoch.epochs + epoch.index, seeds * epoch.epochs, epoch.loss, value)

        return tell

    head = train(training, config, device=data.device, on_epoch=told(0))
    values = [value_of(head)]
    for number in range(1, seeds):
        again = replace(config, seed=config.seed + number)
        values.append(value_of(train(training, again, device=data.device, on_epoch=told(number))))
    calibration = _calibrate(data, head, config)
    scores, patches = score_patches(head, validation, config, data.device, data.score_patches)
    sizes = [(picture.image.height, picture.image.width) for picture in data.pictures.validation]
    found = figures(
        scores,
        [picture.defect_type for picture in data.pictures.validation],
        _maps(patches, config, sizes),
        _masks(data, config, mask_in_view),
        threshold=calibration.threshold,
        synthetic=data.pictures.synthetic_validation,
    )
    return TrialResult(
        values=tuple(values),
        head=head,
        calibration=calibration,
        figures=found,
        validation_scores=scores,
        latency_ms=latency_ms(
            data.backbone,
            head,
            config,
            data.pictures.validation[0].read(data.workspace.blobs)[0],
            data.device,
        ),
        seconds=time.monotonic() - started,
    )


def score_patches(
    head: SimpleNet,
    features: Tensor,
    config: SimpleNetConfig,
    device: torch.device,
    batch_patches: int = SCORE_PATCHES,
) -> tuple[NDArray[np.float64], list[Tensor]]:
    """Score the patch features of some pictures.

    Args:
        features: (N, h, w, D), any float type, on the CPU.
    Returns:
        (N,) image scores, and N patch scores of (h, w) float32 on the CPU; higher is more anomalous.
    """
    scores: list[Tensor] = []
    patches: list[Tensor] = []
    for batch in torch.split(features, max(1, batch_patches // (features.shape[1] * features.shape[2]))):
        patch_scores = head.patch_scores(batch.to(device).float())
        scores.append(image_scores(patch_scores, config.top_patches).cpu())
        patches.extend(patch_scores.cpu())
    return torch.cat(scores).double().numpy(), patches


def maps_of(
    data: TrialData,
    config: SimpleNetConfig,
    head: SimpleNet,
    pictures: Sequence[Picture],
    sizes: Sequence[tuple[int, int]],
) -> list[NDArray[np.float32]]:
    """Anomaly maps of unsealed pictures, each of the given (height, width), from the cached features."""
    features = patch_features(data.workspace, data.cached, pictures, config)
    _, patches = score_patches(head, features, config, data.device, data.score_patches)
    canvas = (config.height, config.width)
    return [
        anomaly_maps(scores[None], *canvas, config.smoothing_std, picture_size=size, resize=config.resize)[
            0
        ].numpy()
        for scores, size in zip(patches, sizes, strict=True)
    ]


def trial_config(base: SimpleNetConfig, params: dict[str, object]) -> SimpleNetConfig:
    """The configuration that a point of the search space stands for; everything else comes from `base`.

    Args:
        base: of the backbone that the point names, where several are searched.
    """
    knobs: dict[str, Any] = {name: value for name, value in params.items() if name in KNOBS}
    return replace(
        base,
        **knobs,
        noise_std=float(str(params["noise_std"])),
        layers=tuple(int(stage) for stage in str(params["layers"]).split("+")),
        adaptor_depth=int(str(params["adaptor_depth"])),
    )


def _calibrate(data: TrialData, head: SimpleNet, config: SimpleNetConfig) -> Calibration:
    features = patch_features(data.workspace, data.cached, data.pictures.calibration, config)
    scores, patches = score_patches(head, features, config, data.device, data.score_patches)
    sizes = [(picture.image.height, picture.image.width) for picture in data.pictures.calibration]
    return calibrate(scores, _maps(patches, config, sizes), data.false_reject_rate)


def _maps(
    patches: list[Tensor], config: SimpleNetConfig, sizes: Sequence[tuple[int, int] | None]
) -> list[NDArray[np.float32]]:
    """Anomaly maps of what is seen of pictures of the given (height, width); None: at the network's canvas."""
    maps = []
    for scores, size in zip(patches, sizes, strict=True):
        canvas = (config.height, config.width)
        made = anomaly_maps(
            scores[None], *canvas, config.smoothing_std, picture_size=size, resize=config.resize
        )[0].numpy()
        maps.append(in_view(made, canvas, config.resize) if size else made)
    return maps


def _masks(
    data: TrialData, config: SimpleNetConfig, change: Callable[..., NDArray[np.bool_]]
) -> list[NDArray[np.bool_] | None]:
    """Masks of the validation pictures, each changed by `change(mask, config)`."""
    masks = [picture.read(data.workspace.blobs)[1] for picture in data.pictures.validation]
    return [mask if mask is None else change(mask, config) for mask in masks]


def mask_in_view(mask: NDArray[np.bool_], config: SimpleNetConfig) -> NDArray[np.bool_]:
    """Cut an (H, W) mask to what a configuration sees of its picture."""
    return in_view(mask, (config.height, config.width), config.resize)


def mask_on_canvas(mask: NDArray[np.bool_], config: SimpleNetConfig) -> NDArray[np.bool_]:
    """Lay an (H, W) mask on the (height, width) canvas of a configuration; beside the picture nothing is anomalous."""
    canvas = (config.height, config.width)
    placed = place((mask.shape[0], mask.shape[1]), canvas, config.resize)
    return cut(resized_mask(mask, placed.height, placed.width), placed, canvas, fill=0)


def resized_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """Bring an (H, W) mask to (height, width): a pixel is anomalous if any of those that it stands for is.

    The nearest pixel alone would break a thin scratch into many regions, each of which weighs as much as a whole one
    in AUPRO.
    """
    rows = (np.arange(height) * mask.shape[0]) // height
    columns = (np.arange(width) * mask.shape[1]) // width
    resized: NDArray[np.bool_] = mask[rows[:, None], columns]
    marked_rows, marked_columns = np.nonzero(mask)
    resized[marked_rows * height // mask.shape[0], marked_columns * width // mask.shape[1]] = True
    return resized
