"""How long a model takes for one picture on this device: from pixels to score and anomaly map, as it would serve."""

import statistics
import time

import torch

from engine.backbones.resolve import Backbone
from engine.config import SimpleNetConfig
from engine.features import FeatureExtractor
from engine.images import RGB
from engine.scoring import Detector
from engine.simplenet import SimpleNet

WARMUP_CALLS = 2  # the first ones choose kernels and fill caches
TIMED_CALLS = 9  # their median: a machine that does something else meanwhile slows a few


def latency_ms(
    backbone: Backbone, head: SimpleNet, config: SimpleNetConfig, picture: RGB, device: torch.device
) -> float:
    """Median milliseconds for score and map of one picture, in float32 as a registered model runs.

    The backbone is built up to the layers of the configuration alone: what else a study needs is not the model's.

    Args:
        picture: (H, W, 3) uint8; the map is made in its own pixels, so its size counts.
    """
    detector = Detector(FeatureExtractor(backbone, config.layers, device), head, config)
    seconds = []
    for _ in range(WARMUP_CALLS + TIMED_CALLS):
        started = time.perf_counter()
        detector.score([picture])  # its map comes to the CPU, so nothing of it is still under way
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[WARMUP_CALLS:])
