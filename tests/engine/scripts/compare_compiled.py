"""Score pictures with a detector and with what OpenVINO compiles of it; prints both scores and the maps' difference.

In a process of its own, because OpenVINO, once loaded, stays beside the trainings of other tests.

    python compare_compiled.py CHANGES DTYPE
"""

import json
import sys

import numpy as np
import torch

from engine.backbones.resolve import resolve_backbone
from engine.config import SimpleNetConfig
from engine.errors import EngineError
from engine.features import FeatureExtractor, feature_count
from engine.openvino import OpenVinoDetector
from engine.scoring import Detector
from engine.simplenet import SimpleNet

changes, dtype = json.loads(sys.argv[1]), getattr(torch, sys.argv[2])
config = SimpleNetConfig.from_json({"height": 64, "width": 96, **changes})
extractor = FeatureExtractor(resolve_backbone("drawnet"), config.layers, torch.device("cpu"), dtype)
original = Detector(
    extractor, SimpleNet(config, feature_count(extractor.channels, config.layers, config.feature_dim)), config
)
draw = np.random.default_rng(0)
pictures = [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((70, 90), (70, 90), (48, 48))]
try:
    compiled = OpenVinoDetector(original, "fp32")
except EngineError as error:
    json.dump({"error": str(error)}, sys.stdout)
else:
    pairs = zip(original.score(pictures), compiled.score(pictures), strict=True)
    found = [
        [one.score, other.score, float(np.abs(one.anomaly_map - other.anomaly_map).max())]
        for one, other in pairs
    ]
    json.dump({"pairs": found}, sys.stdout)
