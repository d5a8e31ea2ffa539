"""How cost grows with the number of training pictures, their side and the backbone: seconds and peak memory.

    python -m benchmarks.growth         # everything, writes docs/images/growth.png
    python -m benchmarks.growth --pictures 50 100 --sides --backbones drawnet resnet18 --plot some.png

One thing varies at a time around --base training pictures of 256 pixels with drawnet. Every point is a fresh process
that computes the features of drawn noise pictures, trains with the default settings and scores pictures one by
one; each phase has its own peak, the kernel's VmHWM, which is put back before it. All points run in turns, --rounds
times; medians count. Backbones other than drawnet have random weights: cost does not depend on them. Linux only.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import RESULTS, machine, random_backbone, write_json
from engine.backbones.resolve import SHIPPED, resolve_backbone
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.features import FeatureExtractor, aggregate, extract
from engine.images import RGB
from engine.scoring import Detector
from engine.training import train

ROOT = Path(__file__).resolve().parent.parent
PHASES = ("features", "training", "scoring")
SWEEPS = {
    "pictures": "training pictures",
    "side": "side of a picture, pixels",
    "backbone": "backbone, by number of parameters",
}
SCORED = 12  # pictures scored one by one; the first is not counted
BATCH = 8  # pictures per pass through the backbone, as a study computes features


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """What one process measures."""

    pictures: int
    side: int = SimpleNetConfig().height  # pixels
    backbone: str = SHIPPED


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    none = "; none leaves the sweep out"
    parser.add_argument(
        "--pictures", type=int, nargs="*", default=[50, 100, 200, 500, 1000, 2000], help=f"to train on{none}"
    )
    parser.add_argument(
        "--sides", type=int, nargs="*", default=[128, 192, 256, 384, 512], help=f"of pictures, pixels{none}"
    )
    parser.add_argument(
        "--backbones",
        nargs="*",
        default=[SHIPPED, "resnet18", "resnet50", "wide_resnet50_2"],
        help=f"timm's names{none}",
    )
    parser.add_argument("--base", type=int, default=100, help="training pictures where something else varies")
    parser.add_argument("--epochs", type=int, default=SimpleNetConfig().epochs, help="of each training")
    parser.add_argument("--rounds", type=int, default=3, help="processes per point")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--json", type=Path, default=RESULTS / "growth.json", metavar="FILE")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "images" / "growth.png", metavar="FILE")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)  # what a fresh process is told
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.point is not None:
        print(json.dumps(measure(Point(**options.point), options.epochs, options.device)))
        return
    sweeps = {
        "pictures": [Point(pictures=count) for count in options.pictures],
        "side": [Point(pictures=options.base, side=side) for side in options.sides],
        "backbone": [Point(pictures=options.base, backbone=name) for name in options.backbones],
    }
    if not any(sweeps.values()):
        parser.error("nothing to measure: give at least one of --pictures, --sides and --backbones")
    found: dict[Point, list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for point in dict.fromkeys(point for points in sweeps.values() for point in points):
            found.setdefault(point, []).append(in_fresh_process(point, options))
            print(line(found[point][-1]), flush=True)
    results = {
        sweep: [middle(found[point]) for point in points] for sweep, points in sweeps.items() if points
    }
    write_json(
        options.json,
        {"machine": machine(), "epochs": options.epochs, "rounds": options.rounds, "sweeps": results},
    )
    plot(results, options.plot)


def in_fresh_process(point: Point, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a point in a process of its own, so that no other point's memory counts."""
    command = [sys.executable, "-m", "benchmarks.growth", "--point", json.dumps(dataclasses.asdict(point))]
    command += ["--epochs", str(options.epochs), "--device", options.device]
    if options.threads:
        command += ["--threads", str(options.threads)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(point: Point, epochs: int, device_name: str) -> dict[str, Any]:
    """Compute features, train, and score: the point, with seconds and peak mebibytes per phase."""
    device = resolve_device(device_name)
    with tempfile.TemporaryDirectory() as folder:
        shipped = point.backbone == SHIPPED
        backbone = resolve_backbone(SHIPPED) if shipped else random_backbone(point.backbone, Path(folder))
        config = SimpleNetConfig(backbone=backbone.name, height=point.side, width=point.side, epochs=epochs)
        extractor = FeatureExtractor(backbone, config.layers, device, resolve_precision("auto", device))
    features_of(range(BATCH), extractor, config)  # the first pass chooses kernels
    phases: dict[str, dict[str, float]] = {}
    held = _mebibytes("VmRSS")
    features = _phase(phases, "features", lambda: features_of(range(point.pictures), extractor, config))
    model = _phase(phases, "training", partial(train, features, config, device=device))
    length = features.shape[-1]
    del features  # scoring pays for itself alone
    detector = Detector(extractor, model, config)
    spent = _phase(phases, "scoring", lambda: [_scoring_seconds(detector, index) for index in range(SCORED)])
    phases["scoring"]["seconds"] = statistics.median(spent[1:])
    return {
        **dataclasses.asdict(point),
        "feature_length": length,
        "backbone_parameters": sum(values.numel() for values in extractor.net.parameters()),
        "held_before_mib": held,  # libraries and backbone
        "phases": phases,
    }


def features_of(numbers: range, extractor: FeatureExtractor, config: SimpleNetConfig) -> Tensor:
    """Compute the features of drawn pictures, into one allocation: (N, h, w, D) float16 on the CPU."""
    features = torch.empty(0)
    for start in range(0, len(numbers), BATCH):
        pictures = [picture(number, config.height) for number in numbers[start : start + BATCH]]
        maps = extract(extractor, pictures, config.height, config.width)
        batch = aggregate(maps, config.layers, config.patch_size, config.feature_dim)
        if start == 0:
            features = torch.empty(len(numbers), *batch.shape[1:], dtype=torch.float16)
        features[start : start + len(pictures)] = batch
    return features


def picture(number: int, side: int) -> RGB:
    """Draw noise: every number another picture, equal numbers the same."""
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def _phase(phases: dict[str, dict[str, float]], name: str, call: Callable[[], Any]) -> Any:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is held now
    began = time.perf_counter()
    found = call()
    seconds = time.perf_counter() - began
    phases[name] = {"seconds": seconds, "peak_mib": _mebibytes("VmHWM")}
    return found


def _mebibytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(each.split()[1]) for each in lines if each.startswith(f"{name}:")) / 1024


def _scoring_seconds(detector: Detector, number: int) -> float:
    drawn = picture(number, detector.config.height)
    began = time.perf_counter()
    detector.score([drawn])
    return time.perf_counter() - began


def middle(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Give the medians of a point's runs."""
    phases = {
        name: {
            key: statistics.median(run["phases"][name][key] for run in runs)
            for key in ("seconds", "peak_mib")
        }
        for name in PHASES
    }
    held = statistics.median(run["held_before_mib"] for run in runs)
    return {**runs[0], "held_before_mib": held, "phases": phases}


def line(result: dict[str, Any]) -> str:
    """Tell one run."""
    cells = [
        f"{name} {phase['seconds']:.3g} s, {phase['peak_mib']:.0f} MiB"
        for name, phase in result["phases"].items()
    ]
    about = f"{result['pictures']} pictures, {result['side']} px, {result['backbone']}"
    return f"{about}: {'; '.join(cells)}"


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw seconds, logarithmic, and peaks over each sweep."""
    import matplotlib

    matplotlib.use("Agg")  # no screen
    from matplotlib import pyplot
    from matplotlib.ticker import NullLocator

    figure, axes = pyplot.subplots(
        2,
        len(results),
        figsize=(4.2 * len(results), 6.4),
        sharex="col",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for (upper, lower), (sweep, points) in zip(axes.T, results.items(), strict=True):
        ordered = sorted(points, key=lambda point: _position(sweep, point))
        positions = [_position(sweep, point) for point in ordered]
        for phase in PHASES:
            for axis, key in ((upper, "seconds"), (lower, "peak_mib")):
                axis.plot(
                    positions, [point["phases"][phase][key] for point in ordered], marker="o", label=phase
                )
        held = [point["held_before_mib"] for point in ordered]
        lower.plot(positions, held, color="grey", linestyle=":", label="held before: libraries and backbone")
        lower.set(xscale="log", xlabel=SWEEPS[sweep])
        lower.xaxis.set_minor_locator(NullLocator())
        if sweep == "backbone":
            lower.set_xticks(positions, [point["backbone"] for point in ordered], rotation=25, ha="right")
        else:
            lower.set_xticks(positions, [f"{position:g}" for position in positions])
        upper.set_yscale("log")
        upper.grid(alpha=0.3)
        lower.grid(alpha=0.3)
    axes[0][0].set_ylabel("seconds (scoring: of one picture)")
    axes[1][0].set(ylabel="peak memory, MiB", ylim=(0, None))
    handles, labels = axes[1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _position(sweep: str, point: dict[str, Any]) -> float:
    return point["backbone_parameters"] / 1e6 if sweep == "backbone" else point[sweep]


if __name__ == "__main__":
    main()
