"""Export a detector and score pictures with both; prints the differences as JSON.

In a process of its own: OpenVINO and onnxruntime stay out of the process that trains in other tests.

    python compare_exports.py KIND CHANGES SIZES FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from engine.backbones.resolve import resolve_backbone
from engine.config import SimpleNetConfig
from engine.exported import open_onnx, open_openvino
from engine.exporting import describe, onnx_model, openvino_zip, pass_order, set_threshold
from engine.features import FeatureExtractor, feature_count
from engine.scoring import Detector
from engine.simplenet import SimpleNet

kind, changes, sizes, folder = (
    sys.argv[1],
    json.loads(sys.argv[2]),
    json.loads(sys.argv[3]),
    Path(sys.argv[4]),
)
config = SimpleNetConfig.from_json({"height": 64, "width": 96, **changes})
extractor = FeatureExtractor(
    resolve_backbone(changes.get("backbone", "drawnet")), config.layers, torch.device("cpu"), torch.float32
)
head = SimpleNet(config, feature_count(extractor.channels, config.layers, config.feature_dim))
detector = Detector(extractor, head, config)
draw = np.random.default_rng(0)
pictures = [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
canvas = (config.height, config.width)
order = pass_order([tuple(size) for size in sizes], canvas, config.resize)
model = onnx_model(detector, order=order, by_matrix=kind == "openvino")
ours = [detector.score([picture])[0] for picture in pictures]
threshold = float(np.median([one.score for one in ours]))
inside = set_threshold(model, threshold)
describe(model, {"dataset": "parts"})
file = folder / f"model.{kind}"
file.write_bytes(
    openvino_zip(model, {"dataset": "parts"}) if kind == "openvino" else model.SerializeToString()
)
score = (open_openvino if kind == "openvino" else open_onnx)(file)
theirs = [score(picture) for picture in pictures]
json.dump(
    {
        "threshold": threshold,
        "inside": inside,
        "answers": [
            {
                "score": [one.score, other.score],
                "map": float(np.abs(one.anomaly_map - other.anomaly_map).max()),
                "spread": float(np.ptp(one.anomaly_map)),
                "threshold": other.threshold,
                "reject": other.reject,
            }
            for one, other in zip(ours, theirs, strict=True)
        ],
    },
    sys.stdout,
)
