"""What each backbone is worth: the table of docs/backbone.md.

    python benchmarks/backbones.py --data ../shared/data --weights ../shared/weights

Magnetic tile (the whole test set), cookies (its 31 normal pictures train; half of the defects test beside the
test pictures, the other half is for validation and stays unread) and the ten one-class tasks of the CIFAR-10
subset, each with the default settings and 3 seeds, by the paper protocol. The time is that of one 256×256
picture through the stages of strides 4, 8 and 16, fp32, all backbones in turns of a few calls in one process.

Figures already in the results file are not computed again; the last thing it does is to write the table
between the two marks in the document.
"""

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.backbones.resolve import Backbone, resolve_backbone, timm_with_ours
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.features import FeatureExtractor
from storage.records import Label
from tuning.novelty import novelty, read_classes
from tuning.paper_protocol import LabelledPicture, paper_protocol

SEEDS = (0, 1, 2)
FIGURES = ("image_auroc", "pixel_auroc", "aupro")
START, END = "<!-- table: benchmarks/backbones.py -->", "<!-- end of table -->"
ROOT = Path(__file__).resolve().parent.parent


Classes = dict[str, tuple[list[Path], list[Path]]]  # training and test pictures by class


@dataclass(frozen=True, kw_only=True)
class Task:
    """Pictures to train on and to judge by."""

    train: list[Path]
    test: list[LabelledPicture]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the three data sets")
    parser.add_argument(
        "--weights", type=Path, required=True, help="folder with resnet18's and mobilenetv2's weights"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "backbones.json")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "backbone.md")
    options = parser.parse_args()
    text = options.document.read_text()
    if START not in text or END not in text:
        parser.error(f"{options.document} lacks the lines {START!r} and {END!r} between which the table goes")
    with tempfile.TemporaryDirectory() as folder:
        backbones = {
            "drawnet (shipped)": resolve_backbone("drawnet"),
            "drawnet, untrained": untrained(Path(folder)),
            "resnet18": resolve_backbone("auto", options.weights / "resnet18.tv_in1k.safetensors"),
            "mobilenetv2_100": resolve_backbone(
                "mobilenetv2_100", options.weights / "mobilenetv2_100.onnxzoo_in1k.safetensors"
            ),
        }
        options.results.parent.mkdir(parents=True, exist_ok=True)
        results = json.loads(options.results.read_text()) if options.results.exists() else {}
        for name, backbone in backbones.items():
            for task_name, task in tasks(options.data).items():
                key = f"{backbone.digest[:12]} {settings_digest()} {task_name}"
                if key not in results:
                    results[key] = judge(task, backbone)
                    print(f"{name}, {task_name}: {results[key]}", flush=True)
                    options.results.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        table = as_table(backbones, results, milliseconds(backbones))
    print(table)
    before, rest = text.split(START)
    after = rest.split(END)[1]
    options.document.write_text(f"{before}{START}\n\n{table}\n{END}{after}")


def untrained(folder: Path) -> Backbone:
    """Drawnet as its initial values leave it, seed 0."""
    torch.manual_seed(0)
    path = folder / "drawnet.untrained.safetensors"
    state = timm_with_ours().create_model("drawnet").state_dict()
    save_file({key: value.half() for key, value in state.items()}, path)  # as the shipped file
    return resolve_backbone("drawnet", path)


def settings_digest() -> str:
    """Tells figures of other default settings, seeds or processors apart."""
    device = resolve_device("auto")
    precision = str(resolve_precision("auto", device))
    settings = json.dumps([SimpleNetConfig().to_json(), SEEDS, str(device), precision], sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()[:8]


def tasks(data: Path) -> dict[str, Task | Classes]:
    """All tasks by name."""
    tile = data / "magnetic_tile"
    return {
        "magnetic tile": Task(train=_pictures(tile / "train" / "good"), test=list(_mvtec_test(tile))),
        "cookies": _cookies(data / "cookies_lookout"),
        "CIFAR-10, one class": read_classes(data / "cifar10_subset"),
    }


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in {".jpg", ".png"})


def _mvtec_test(folder: Path) -> Iterable[LabelledPicture]:
    for kind in sorted(path.name for path in (folder / "test").iterdir()):
        for path in _pictures(folder / "test" / kind):
            if kind == "good":
                yield LabelledPicture(path=path, label=Label.NORMAL)
            else:
                mask = folder / "ground_truth" / kind / f"{path.stem}_mask.png"
                yield LabelledPicture(
                    path=path, label=Label.ANOMALOUS, mask_paths=(mask,) if mask.exists() else ()
                )


def _cookies(folder: Path) -> Task:
    lines = [json.loads(line) for line in (folder / "train.manifest").read_text().splitlines()]
    normal = [folder / line["source-ref"] for line in lines if line["anomaly-label"] == 0]
    defects = [
        LabelledPicture(
            path=folder / line["source-ref"],
            label=Label.ANOMALOUS,
            mask_paths=(folder / line["anomaly-mask-ref"],),
        )
        for line in lines
        if line["anomaly-label"] == 1
    ]
    test = [
        LabelledPicture(path=path, label=Label.NORMAL if "normal" in path.name else Label.ANOMALOUS)
        for path in _pictures(folder / "test-images")
    ]
    return Task(train=normal, test=test + defects[1::2])


def judge(task: Task | Classes, backbone: Backbone) -> dict[str, Any]:
    """Train and judge with every seed: per figure its values, None where no picture has a mask."""
    config = SimpleNetConfig(backbone=backbone.name)
    if not isinstance(task, Task):
        found = novelty(task, config, backbone=backbone, seeds=SEEDS)
        # Per seed the mean over the ten classes, so that the deviation is that of the whole task.
        return {
            "image_auroc": [
                statistics.fmean(values) for values in zip(*found.image_auroc.values(), strict=True)
            ]
        }
    result = paper_protocol(task.train, task.test, config, backbone=backbone, seeds=SEEDS)
    values = {figure: [getattr(one, figure) for one in result.seeds] for figure in FIGURES}
    return {figure: own for figure, own in values.items() if None not in own}


def milliseconds(backbones: dict[str, Backbone], rounds: int = 25, calls: int = 4) -> dict[str, float]:
    """Median time of one picture through strides 4, 8 and 16, the backbones in turns of a few calls each.

    The first call of a turn is not counted: it finds the processor's caches full of another network.
    """
    device = torch.device("cpu")
    extractors = {name: FeatureExtractor(backbone, (1, 2, 3), device) for name, backbone in backbones.items()}
    picture = torch.randn(1, 3, 256, 256)
    spent: dict[str, list[float]] = {name: [] for name in backbones}
    for index in range(rounds):
        for name, extractor in extractors.items():
            turn = [_seconds(lambda extractor=extractor: extractor(picture)) for _ in range(calls)]
            if index:  # the first round chooses kernels
                spent[name] += [1000 * seconds for seconds in turn[1:]]
    return {name: statistics.median(values) for name, values in spent.items()}


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def as_table(backbones: dict[str, Backbone], results: dict[str, Any], times: dict[str, float]) -> str:
    """Write the figures as markdown, one line per backbone and data set, and the means over the three sets."""
    lines = [
        "| backbone | data | image AUROC | pixel AUROC | AUPRO | ms per picture | file |",
        "|---|---|---|---|---|---|---|",
    ]
    means: dict[str, float] = {}
    for name, backbone in backbones.items():
        own = {
            key.split(" ", 2)[2]: value
            for key, value in results.items()
            if key.startswith(f"{backbone.digest[:12]} {settings_digest()} ")
        }
        for task_name, figures in own.items():
            cells = " | ".join(_spread(figures.get(figure)) for figure in FIGURES)
            size = backbone.weights.stat().st_size / 1e6
            lines.append(f"| {name} | {task_name} | {cells} | {times[name]:.1f} | {size:.1f} MB |")
        means[name] = statistics.fmean(statistics.fmean(figures["image_auroc"]) for figures in own.values())
    ours, blank, teacher = (means[name] for name in list(backbones)[:3])
    listed = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
    way = (ours - blank) / (teacher - blank)
    speed = times["resnet18"] / times["drawnet (shipped)"]
    lines += [
        "",
        f"Mean image AUROC over the three: {listed}. Drawnet goes {100 * way:.0f} % of the way from its untrained "
        f"self to resnet18, at {speed:.2f} times resnet18's speed.",
    ]
    return "\n".join(lines) + "\n"


def _spread(values: list[float] | None) -> str:
    if not values:
        return "–"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
