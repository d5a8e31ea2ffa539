"""Whether faster arithmetic moves the figures: one trained head scored in fp32, in bf16 and by OpenVINO.

    python -m benchmarks.precision --data ../shared/data/magnetic_tile

Heads are trained with the default settings on features in fp32, one per seed; the whole test set is scored with each
head by every detector. Only the detector's arithmetic differs, so differences are its doing.
"""

import argparse
import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import RESULTS, add_backbone_options, chosen_backbone, machine, write_json
from engine.config import SimpleNetConfig
from engine.features import FeatureExtractor
from engine.images import decode
from engine.masks import decode_mask, merge_masks
from engine.metrics import aupro, image_auroc, pixel_auroc
from engine.scoring import Detector
from engine.training import train
from storage.layouts import Entry, scan
from storage.records import Label
from tuning.paper_protocol import patch_batches

CPU = torch.device("cpu")
FIGURES = ("image AUROC", "pixel AUROC", "AUPRO")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder in the MVTec layout, with masks")
    add_backbone_options(parser)
    parser.add_argument("--seeds", type=int, default=3, help="heads, trained with seeds 0, 1, …")
    parser.add_argument("--epochs", type=int, default=SimpleNetConfig.epochs)
    parser.add_argument("--size", type=int, default=SimpleNetConfig.height)
    parser.add_argument("--json", type=Path, default=RESULTS / "precision.json", metavar="FILE")
    options = parser.parse_args(arguments)
    entries = scan(options.data).entries
    normal = [entry.path for entry in entries if entry.split == "train"]
    test = [entry for entry in entries if entry.split == "test"]
    found: dict[str, list[tuple[float, ...]]] = {}
    with chosen_backbone(options) as backbone:
        config = SimpleNetConfig(
            backbone=backbone.name, height=options.size, width=options.size, epochs=options.epochs
        )
        exact = FeatureExtractor(backbone, config.layers, CPU)
        coarse = FeatureExtractor(backbone, config.layers, CPU, torch.bfloat16)
        batches = patch_batches(normal, exact, config, lambda _: None)
        features = torch.cat([batch.half() for batch, _ in batches])
        for seed in range(options.seeds):
            head = train(features, dataclasses.replace(config, seed=seed), device=CPU)
            for name, detector in _detectors(exact, coarse, head, config).items():
                figures = _figures(detector, test)
                found.setdefault(name, []).append(figures)
                told = ", ".join(f"{what} {value:.5f}" for what, value in zip(FIGURES, figures, strict=True))
                print(f"seed {seed}, {name}: {told}", flush=True)
    print(f"\n{_table(found)}")
    write_json(options.json, {"machine": machine(), "config": config.to_json(), "figures": found})


def _detectors(
    exact: FeatureExtractor, coarse: FeatureExtractor, head: Any, config: SimpleNetConfig
) -> dict[str, Detector]:
    original = Detector(exact, head, config)
    detectors = {"fp32": original, "bf16": Detector(coarse, head, config)}
    if importlib.util.find_spec("openvino"):
        from engine.openvino import OpenVinoDetector

        detectors |= {f"openvino {name}": OpenVinoDetector(original, name) for name in ("fp32", "bf16")}
    return detectors


def _figures(detector: Detector, test: Sequence[Entry]) -> tuple[float, ...]:
    scored = [detector.score([decode(entry.path.read_bytes(), entry.name)])[0] for entry in test]
    labels = [entry.label is Label.ANOMALOUS for entry in test]
    maps, masks = [], []
    for entry, one, anomalous in zip(test, scored, labels, strict=True):
        if anomalous and not entry.mask_paths:
            continue  # nobody has marked it
        maps.append(one.anomaly_map)
        marked = (
            merge_masks([decode_mask(path.read_bytes(), path.name) for path in entry.mask_paths])
            if anomalous
            else None
        )
        masks.append(np.zeros(one.anomaly_map.shape, bool) if marked is None else marked)
    scores = np.array([one.score for one in scored])
    return image_auroc(scores, labels), pixel_auroc(maps, masks), aupro(maps, masks)


def _table(found: dict[str, list[tuple[float, ...]]]) -> str:
    """Per detector the mean figures, and the largest difference from fp32 with the same head."""
    reference = np.array(found["fp32"])
    lines = [f"| | {' | '.join(FIGURES)} | largest differences from fp32 |", "|---" * 5 + "|"]
    for name, rows in found.items():
        means = " | ".join(f"{value:.4f}" for value in np.mean(rows, axis=0))
        largest = ", ".join(f"{value:.4f}" for value in np.abs(np.array(rows) - reference).max(axis=0))
        lines.append(f"| {name} | {means} | {largest} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
