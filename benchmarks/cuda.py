"""Speed on a CUDA device: score and map beside the backbone alone, device memory, and a default training.

    python -m benchmarks.cuda
    python -m benchmarks.cuda --batches 1,8,64,128 --rounds 30 --json cuda.json
    python -m benchmarks.cuda --device cpu --backbone drawnet --size 64 --batches 1,8 --epochs 1   # to try it

The backbone, by default the paper's, has random weights, which times don't depend on; heads are untrained. Two heads
are measured: the paper's dimensions (features of 1536, one discriminator of 1024) and the default settings.
Each runs in the precisions that the device multiplies in, in turns with two parts of itself; medians count:

- backbone: a prepared batch that is on the device already, in one pass. It is the limit that shares are of.
- patch scores: pictures as pixels in memory; preparing them, backbone and head, in one pass.
- score and map: what `Detector.score` does of the same pictures, up to 64 per pass (on a CPU eight); maps end on the
  CPU.

A training computes the features of random pictures, eight per pass, keeps them in the CPU's memory as a study does, and
trains the default head on them.

Of the product it needs the engine alone, beside it torch, timm, torchvision, scipy, safetensors, numpy and pillow.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.growth import features_of, picture
from benchmarks.measuring import RESULTS, in_turns, machine, numbers, random_backbone, write_json
from engine.backbones.resolve import Backbone
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.features import FeatureExtractor, feature_count
from engine.scoring import Detector
from engine.simplenet import SimpleNet
from engine.training import train

T = TypeVar("T")

HEADS: dict[str, dict[str, Any]] = {
    "paper": {"feature_dim": 1536, "discriminator_width": 1024, "members": 1},
    "default": {},
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="wide_resnet50_2", metavar="NAME", help="timm's")
    parser.add_argument("--size", type=int, default=288, help="side of pictures and network input")
    parser.add_argument("--batches", type=numbers, default=(1, 64), help="pictures at a time, default 1,64")
    parser.add_argument("--pictures", type=int, default=209, help="to train on; 209 as MVTec's bottles")
    parser.add_argument("--epochs", type=int, default=SimpleNetConfig.epochs, help="of the training")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each; two calls count in each turn")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, default=RESULTS / "cuda.json", metavar="FILE")
    options = parser.parse_args(arguments)
    device = resolve_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        backbone = random_backbone(options.backbone, Path(folder))
        plain = SimpleNetConfig(
            backbone=backbone.name, height=options.size, width=options.size, epochs=options.epochs
        )
        scoring = [
            measure(backbone, SimpleNetConfig.from_json({**plain.to_json(), **head}), dtype, device, options)
            | {"head": name}
            for name, head in HEADS.items()
            for dtype in precisions(device)
        ]
        training = measure_training(backbone, plain, device, options.pictures)
    result = {
        "machine": machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "convolutions_in_tf32": device.type == "cuda" and torch.backends.cudnn.allow_tf32,
        "backbone": backbone.text,
        "default": plain.to_json(),
        "heads": HEADS,
        "rounds": options.rounds,
        "scoring": scoring,
        "training": training,
    }
    write_json(options.json, result)
    print(as_table(result))


def precisions(device: torch.device) -> list[torch.dtype]:
    """Give fp32, and bf16 where it is not emulated."""
    return list(dict.fromkeys([resolve_precision("auto", device), torch.float32]))


def measure(
    backbone: Backbone,
    config: SimpleNetConfig,
    dtype: torch.dtype,
    device: torch.device,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Time one head in one precision on each size of batch; nothing else is on the device meanwhile."""
    extractor = FeatureExtractor(backbone, config.layers, device, dtype)
    model = SimpleNet(config, feature_count(extractor.channels, config.layers, config.feature_dim))
    detector = Detector(extractor, model, config)
    batches = []
    for batch in options.batches:
        pictures = [picture(number, config.height) for number in range(batch)]
        _, peak = with_peak(lambda: detector.score(pictures), device)  # noqa: B023 (called at once)
        prepared = extractor.prepare(pictures, config.height, config.width).to(device, dtype)
        calls = {
            "backbone": partial(extractor, prepared),
            "patch scores": partial(detector.patch_scores, pictures),
            "score and map": partial(detector.score, pictures),
        }
        seconds = in_turns(calls, options.rounds, device)
        batches.append({"pictures": batch, "seconds": seconds, "peak_mib_of_score_and_map": peak})
    return {"precision": str(dtype).removeprefix("torch."), "batches": batches}


def measure_training(
    backbone: Backbone, config: SimpleNetConfig, device: torch.device, count: int
) -> dict[str, Any]:
    """Time the features of `count` pictures and a training on them, each with its peak."""
    extractor = FeatureExtractor(backbone, config.layers, device, resolve_precision("auto", device))
    features_of(range(min(count, 8)), extractor, config)  # the first pass chooses kernels
    (features, feature_seconds), feature_peak = with_peak(
        lambda: timed(lambda: features_of(range(count), extractor, config), device), device
    )
    (_, seconds), peak = with_peak(
        lambda: timed(lambda: train(features, config, device=device), device), device
    )
    return {
        "pictures": count,
        "precision_of_backbone": str(extractor.dtype).removeprefix("torch."),
        "feature_seconds": feature_seconds,
        "training_seconds": seconds,
        "seconds": feature_seconds + seconds,
        "peak_mib": None if feature_peak is None or peak is None else max(feature_peak, peak),
    }


def timed(call: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Give what a call gives and its seconds, until the device has done all of it."""
    began = time.perf_counter()
    found = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return found, time.perf_counter() - began


def with_peak(call: Callable[[], T], device: torch.device) -> tuple[T, float | None]:
    """Give what a call gives and the most device memory that tensors held meanwhile, MiB; None on a CPU."""
    if device.type != "cuda":
        return call(), None
    gc.collect()  # what was measured before must be gone
    torch.cuda.reset_peak_memory_stats(device)
    found = call()
    return found, torch.cuda.max_memory_allocated(device) / 2**20


def as_table(result: dict[str, Any]) -> str:
    """Write the figures as markdown."""
    plain, training = result["default"], result["training"]
    lines = [
        f"{result['device']}, torch {result['machine']['torch']}; {result['backbone']}; "
        f"{plain['height']}×{plain['width']}, layers {plain['layers']}; fp32 convolutions in TF32: "
        f"{'yes' if result['convolutions_in_tf32'] else 'no'}",
        "",
        "| head | precision | at a time | backbone | patch scores | score and map | pictures/s | share of the limit | "
        "peak device memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["scoring"]:
        for one in row["batches"]:
            seconds, count = one["seconds"], one["pictures"]
            cells = [row["head"], row["precision"], str(count)]
            cells += [f"{1000 * value:.2f} ms" for value in seconds.values()]
            cells += [f"{count / seconds['score and map']:.1f}"]
            cells += [f"{seconds['backbone'] / seconds['score and map']:.0%}"]
            lines.append(f"| {' | '.join([*cells, mebibytes(one['peak_mib_of_score_and_map'])])} |")
    return "\n".join(
        [
            *lines,
            "",
            "Times are of the whole batch; pictures/s and the share are of score and map.",
            f"A default training of {plain['epochs']} epochs on {training['pictures']} pictures takes "
            f"{training['seconds']:.1f} s: features "
            f"({training['precision_of_backbone']}) {training['feature_seconds']:.1f} s, training "
            f"{training['training_seconds']:.1f} s; peak device memory {mebibytes(training['peak_mib'])}.",
        ]
    )


def mebibytes(value: float | None) -> str:
    """Write an amount of memory."""
    return "–" if value is None else f"{value:.0f} MiB"


if __name__ == "__main__":
    main()
