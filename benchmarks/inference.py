"""Time of score and map of a picture: ours beside the truncated backbone alone and beside SimpleNet done naively.

    python -m benchmarks.inference
    python -m benchmarks.inference --weights resnet18.tv_in1k.safetensors --batches 1,8,64 --without naive
    python -m benchmarks.inference --backbone wide_resnet50_2 --random --size 288 --feature-dim 1536 --width 1024 \\
        --members 1 --rounds 3

The last takes a quarter of an hour on two cores, nearly all of it in the naive way.
Where OpenVINO is installed, the detector that it compiles runs as well. Of a larger batch it takes one picture after
the other, ours eight at once; the backbone alone and the naive way take all.

All run in one process, in turns, on the same random pictures; medians are compared. The backbone alone, which is
the limit, is the very one that the detector runs, and gets a prepared tensor; the others get pixels and do everything:
resizing, normalising, patch features, scores, and the map in the picture's own pixels. Heads are untrained:
times don't depend on what they learnt.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import (
    Call,
    add_backbone_options,
    chosen_backbone,
    in_turns,
    machine,
    numbers,
    write_json,
)
from benchmarks.naive import NaiveBackbone, NaiveSimpleNet
from engine.backbones.resolve import Backbone
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.features import FeatureExtractor, feature_count
from engine.images import RGB
from engine.openvino import OpenVinoDetector
from engine.scoring import Detector
from engine.simplenet import SimpleNet

Contestant = Callable[[Sequence[RGB]], Call]  # pictures → the call that is timed

RATIOS = {  # what a ratio says: how often the second goes into the first
    "naive / ours, fp32": ("naive", "ours fp32"),
    "naive without copies / ours, fp32": ("naive without copies", "ours fp32"),
    "naive / ours, bf16": ("naive", "ours bf16"),
    "naive without copies / ours, bf16": ("naive without copies", "ours bf16"),
    "ours / backbone, fp32": ("ours fp32", "backbone fp32"),
    "ours / backbone, bf16": ("ours bf16", "backbone bf16"),
    "backbone: fp32 as built / fp32 as ours": ("backbone naive", "backbone fp32"),
    "backbone: fp32 as built / bf16 as ours": ("backbone naive", "backbone bf16"),
    "ours fp32 / openvino fp32": ("ours fp32", "openvino fp32"),
    "ours fp32 / openvino bf16": ("ours fp32", "openvino bf16"),
    "ours fp32 / ours bf16": ("ours fp32", "ours bf16"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_backbone_options(parser)
    default = SimpleNetConfig()
    parser.add_argument("--size", type=int, default=default.height, help="side of pictures and network input")
    parser.add_argument("--layers", type=int, nargs="+", default=default.layers)
    parser.add_argument("--feature-dim", type=int, help="default: the layers' channels side by side")
    parser.add_argument("--width", type=int, default=default.discriminator_width, help="of the discriminator")
    parser.add_argument("--members", type=int, default=default.members)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--threads", type=int, help="default: torch's own choice; OpenVINO's is not changed by it"
    )
    parser.add_argument("--batches", type=numbers, default=(1, 8), help="pictures at a time, default 1,8")
    parser.add_argument(
        "--without", nargs="*", choices=("naive", "openvino"), default=[], help="what to leave out"
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns of each; two calls count in each turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    with chosen_backbone(options) as backbone:
        config = SimpleNetConfig(
            backbone=backbone.name,
            layers=tuple(options.layers),
            height=options.size,
            width=options.size,
            feature_dim=options.feature_dim,
            discriminator_width=options.width,
            members=options.members,
        )
        found = contestants(backbone, config, device, options.without)
        results = measure(found, config, device, options.rounds, options.batches)
    print(
        f"{backbone.text}; {config.height}×{config.width}, layers {config.layers}, feature_dim {config.feature_dim}, "
        f"{config.members} × {config.discriminator_width}; {device}, {torch.get_num_threads()} threads, "
        f"medians of {2 * options.rounds} in turns\n"
    )
    print(as_table(results))
    if options.json:
        about = {"machine": machine(), "backbone": backbone.text, "config": config.to_json()}
        write_json(
            options.json, {**about, "device": str(device), "rounds": options.rounds, "batches": results}
        )


def contestants(
    backbone: Backbone, config: SimpleNetConfig, device: torch.device, without: Sequence[str] = ()
) -> dict[str, Contestant]:
    """Give all that are timed, by name; each is handed pictures and answers the call to time.

    Args:
        without: "naive" or "openvino", to leave those out.
    """
    precisions = {"fp32": torch.float32}
    if resolve_precision("auto", device) is torch.bfloat16:  # elsewhere bf16 is emulated
        precisions["bf16"] = torch.bfloat16
    extractors = {
        name: FeatureExtractor(backbone, config.layers, device, dtype) for name, dtype in precisions.items()
    }
    length = feature_count(extractors["fp32"].channels, config.layers, config.feature_dim)
    model = SimpleNet(config, length).to(device)
    detectors = {name: Detector(extractor, model, config) for name, extractor in extractors.items()}
    found: dict[str, Contestant] = {}
    for name, extractor in extractors.items():
        found[f"backbone {name}"] = partial(_prepared, extractor, config)
        found[f"ours {name}"] = partial(partial, detectors[name].score)
    if device.type == "cpu" and find_spec("openvino") and "openvino" not in without:
        for name in precisions:
            found[f"openvino {name}"] = partial(partial, OpenVinoDetector(detectors["fp32"], name).score)
    if "naive" in without:
        return found
    found["backbone naive"] = partial(_prepared, NaiveBackbone(backbone, config.layers, device), config)
    for name, keep in {"naive": True, "naive without copies": False}.items():
        naive = NaiveSimpleNet(backbone, model, device, keep_features=keep)
        found[name] = partial(partial, naive.score)
    return found


def _prepared(
    net: FeatureExtractor | NaiveBackbone, config: SimpleNetConfig, pictures: Sequence[RGB]
) -> Call:
    return partial(net, net.prepare(pictures, config.height, config.width).to(net.device))


def measure(
    found: dict[str, Contestant],
    config: SimpleNetConfig,
    device: torch.device,
    rounds: int,
    batches: Sequence[int],
) -> list[dict[str, Any]]:
    """Time all contestants on each size of batch.

    Returns:
        per batch: milliseconds per picture by name, ratios by what they say, and by how much maps differ from ours
        in fp32 at most, as a share of the range of ours.
    """
    generator = np.random.default_rng(0)
    results = []
    for batch in batches:
        shape = (batch, config.height, config.width, 3)
        pictures = list(generator.integers(0, 255, shape, dtype=np.uint8))
        calls = {name: contestant(pictures) for name, contestant in found.items()}
        times = {name: 1000 * seconds / batch for name, seconds in in_turns(calls, rounds, device).items()}
        maps = {
            name: np.stack([one.anomaly_map for one in call()])  # type: ignore[attr-defined]
            for name, call in calls.items()
            if not name.startswith("backbone")
        }
        ours = maps.pop("ours fp32")
        results.append(
            {
                "pictures": batch,
                "milliseconds_per_picture": times,
                "ratios": {
                    says: times[above] / times[below]
                    for says, (above, below) in RATIOS.items()
                    if above in times and below in times
                },
                "largest_differences_of_maps": {
                    name: float(np.abs(ours - theirs).max() / np.ptp(ours)) for name, theirs in maps.items()
                },
            }
        )
    return results


def as_table(results: Sequence[dict[str, Any]]) -> str:
    """Write the figures as markdown, one column per size of batch."""
    head = " | ".join(f"{one['pictures']} at a time" for one in results)
    lines = [f"| ms per picture | {head} |", "|---|" + "---|" * len(results)]
    for name in results[0]["milliseconds_per_picture"]:
        cells = " | ".join(f"{one['milliseconds_per_picture'][name]:.1f}" for one in results)
        lines.append(f"| {name} | {cells} |")
    lines += ["", f"| ratio | {head} |", lines[1]]
    for says in results[0]["ratios"]:
        cells = " | ".join(f"{one['ratios'][says]:.2f}" for one in results)
        lines.append(f"| {says} | {cells} |")
    lines += ["", f"| largest difference of maps from ours fp32, share of their range | {head} |", lines[1]]
    for name in results[0]["largest_differences_of_maps"]:
        cells = " | ".join(f"{one['largest_differences_of_maps'][name]:.1e}" for one in results)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
