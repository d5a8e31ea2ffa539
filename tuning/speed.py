"""How fast this machine computes what a study needs, measured in some seconds and kept beside the installation.

`python -m tuning.speed` measures for the specification on its standard input, as JSON.
"""

import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from engine.backbones.resolve import Source, at_hand, resolve_backbone
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.errors import EngineError
from engine.features import FeatureExtractor, aggregate, extract, fitted
from engine.scoring import anomaly_maps
from engine.training import train
from storage.atomic_files import write_file
from storage.settings import Settings
from tuning.backbones import wanted_backbone
from tuning.spec import StudySpec

logger = logging.getLogger(__name__)

T = TypeVar("T")
PICTURES = 4  # looked at in a measurement
STEPS = 8  # of training, per choice of layers
FILE = "speed.json"
APART_SECONDS = 300.0  # that a measurement in a process of its own may take
MEASURE = 1  # changes when what is measured changes
KEPT = 64  # measurements; the oldest make room


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds on one device, with one backbone and size of pictures, averaged over the choices of layers."""

    picture: float  # backbone, per picture
    aggregate: float  # patch features from cached maps, per picture
    step: float  # of training with the engine's default settings
    score: float  # head, per picture
    map: float  # anomaly map, per picture of the canvas' size


def measured_speed(
    settings: Settings, spec: StudySpec, *, measure: bool = True, here: bool = False
) -> Speed | None:
    """The speed for a study's first backbone, from the file of measurements or measured now and added to it.

    Takes some seconds the first time. Nothing is downloaded.

    Args:
        measure: whether to measure where nothing is known.
        here: measure in this process on a GPU too; else in one of its own, which gives the GPU's memory back.
    Returns:
        None where nothing is known and nothing may or can be measured: the weights are not at hand, or the
        device is another machine's.
    """
    try:
        device = resolve_device(settings.device)
        file = spec.weights_of(spec.backbone)
        name, weights = wanted_backbone(settings, spec.backbone, Path(file) if file else None)
        if (name, weights) != ("auto", None) and at_hand(name, weights).weights is None:
            return None
        backbone = resolve_backbone(name, weights, device, on_download=_refuse)
    except (EngineError, _NotAtHand):
        return None
    key = " ".join(
        map(
            str,
            (
                MEASURE,
                _device_name(device),
                settings.precision,
                f"{torch.get_num_threads()} threads",
                backbone.name,
                backbone.digest[:16],
                f"{spec.height}x{spec.width}",
                "/".join("+".join(map(str, choice)) for choice in spec.layers),
            ),
        )
    )
    known = _read(settings)
    if key in known:
        return Speed(**known[key])
    if not measure:
        return None
    if device.type != "cpu" and not here:
        measure_apart(settings, spec)
        return measured_speed(settings, spec, measure=False)
    stages = sorted({stage for choice in spec.layers for stage in choice})
    try:
        extractor = FeatureExtractor(backbone, stages, device, resolve_precision(settings.precision, device))
        speed = _measure(extractor, spec, device)
    except EngineError:  # the study would say the same, with its remedy
        return None
    kept = dict(list(({**known, key: asdict(speed)}).items())[-KEPT:])
    write_file(settings.home / FILE, json.dumps(kept, indent=1).encode(), settled=False)
    return speed


def measure_apart(settings: Settings, spec: StudySpec) -> None:
    """Measure in a process of its own; what it finds is in the file of measurements, or nothing is if it failed."""
    environment = os.environ | {"SIMPLENET_HOME": str(settings.home)}
    command = [sys.executable, "-m", "tuning.speed"]
    try:
        subprocess.run(
            command,
            input=json.dumps(spec.to_json()).encode(),
            env=environment,
            check=True,
            timeout=APART_SECONDS,
        )
    except (subprocess.SubprocessError, OSError):
        logger.warning("the speed of this machine could not be measured", exc_info=True)


class _NotAtHand(Exception):
    """The backbone would have to be downloaded."""


def _refuse(source: Source) -> None:
    raise _NotAtHand(source.hub_id)


def _measure(extractor: FeatureExtractor, spec: StudySpec, device: torch.device) -> Speed:
    draw = np.random.default_rng(0)
    shape = (PICTURES, spec.height, spec.width, 3)
    pictures = list(draw.integers(0, 256, shape, dtype=np.uint8))
    base = fitted(
        SimpleNetConfig(
            backbone=extractor.backbone.name, height=spec.height, width=spec.width, resize=spec.resize
        ),
        extractor,
    )
    size = (base.height, base.width)
    # What the first call of anything takes is no measure of the later ones.
    warm = {
        stage: values.cpu() for stage, values in extract(extractor, pictures[:1], *size, base.resize).items()
    }
    _of_layers(replace(base, layers=spec.layers[-1]), warm, device)
    maps, picture = _timed(partial(extract, extractor, pictures, *size, base.resize))
    on_cpu = {stage: values.cpu() for stage, values in maps.items()}
    found = [_of_layers(replace(base, layers=layers), on_cpu, device) for layers in spec.layers]
    means = np.array(found).mean(axis=0).tolist()
    return Speed(
        picture=picture / PICTURES, **dict(zip(("aggregate", "step", "score", "map"), means, strict=True))
    )


def _of_layers(
    base: SimpleNetConfig, maps: Mapping[int, Tensor], device: torch.device
) -> tuple[float, float, float, float]:
    """Seconds of the aggregation, of a step, of the head and of the map, per picture."""
    config = replace(base, epochs=1, steps_per_epoch=STEPS)
    features, aggregating = _timed(partial(aggregate, maps, config.layers, config.patch_size))
    model, training = _timed(partial(train, features, config, device=device))
    patches, scoring = _timed(partial(model.patch_scores, features.to(device)))
    _, mapping = _timed(partial(anomaly_maps, patches, config.height, config.width, config.smoothing_std))
    return aggregating / PICTURES, training / STEPS, scoring / PICTURES, mapping / PICTURES


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device} {platform.node()}"


def _read(settings: Settings) -> Mapping[str, dict[str, float]]:
    try:
        known: dict[str, dict[str, float]] = json.loads((settings.home / FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # nothing measured, or cut short
        return {}
    return known


if __name__ == "__main__":
    measured_speed(Settings(), StudySpec.from_json(json.load(sys.stdin)), here=True)
