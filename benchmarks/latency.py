"""What scoring costs beside the backbone: score and map of pictures against the truncated backbone alone.

    python benchmarks/latency.py --weights resnet18.tv_in1k.safetensors

Both run in one process, in turns, on the same pictures; medians are compared, so that a busy machine slows both
alike. The backbone gets a prepared tensor; the detector gets pixels and does everything else too: normalising,
patch features, scores, and the map in the picture's own pixels.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from engine.backbones.resolve import resolve_backbone
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.features import FeatureExtractor, feature_count
from engine.scoring import Detector
from engine.simplenet import SimpleNet


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, help="safetensors file; default: the hub's cache or the hub")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--width", type=int, help="of the discriminator; default: the configuration's")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    backbone = resolve_backbone("auto", arguments.weights)
    width = {} if arguments.width is None else {"discriminator_width": arguments.width}
    config = SimpleNetConfig(backbone=backbone.name, **width)
    device = resolve_device(arguments.device)
    print(
        f"{backbone.name}, {config.height}×{config.width}, layers {config.layers}, "
        f"discriminator {config.discriminator_width}, {device}, {torch.get_num_threads()} threads, "
        f"medians of {arguments.rounds}"
    )
    generator = np.random.default_rng(0)
    for precision in ("fp32", "bf16"):
        extractor = FeatureExtractor(backbone, config.layers, device, resolve_precision(precision, device))
        length = feature_count(extractor.channels, config.layers, config.feature_dim)
        detector = Detector(extractor, SimpleNet(config, length).to(device), config)
        for batch in (1, 8):
            pictures = list(
                generator.integers(0, 255, (batch, config.height, config.width, 3), dtype=np.uint8)
            )
            prepared = extractor.prepare(pictures, config.height, config.width).to(device)
            alone, whole = in_turns(
                lambda tensor=prepared, net=extractor: net(tensor),
                lambda images=pictures, whole=detector: whole.score(images),
                device,
                arguments.rounds,
            )
            print(
                f"{precision} batch {batch}: backbone {1000 * alone:6.1f} ms, "
                f"score and map {1000 * whole:6.1f} ms, ratio {whole / alone:.2f}"
            )


def in_turns(
    first: Callable[[], object], second: Callable[[], object], device: torch.device, rounds: int
) -> tuple[float, float]:
    """Give the median seconds of two calls made alternately."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_index in range(rounds + 3):
        for call, spent in zip((first, second), seconds, strict=True):
            began = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_index >= 3:  # the first rounds choose kernels and fill caches
                spent.append(time.perf_counter() - began)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


if __name__ == "__main__":
    main()
