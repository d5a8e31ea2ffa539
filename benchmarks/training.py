"""Quality against compute: image AUROC and seconds of trainings of ours, of the published recipe and of the naive way.

    python -m benchmarks.training --data ../shared/data/magnetic_tile

Per setting the seconds of a training, as the first trial of a study pays (backbone features of the training pictures
included) and as any later one does, and the image AUROC on the whole test set after the last epoch, over seeds:

- ours: the default settings with other numbers of epochs, each a training of its own, and with one member;
- published: 160 epochs, 8 whole pictures per step, the paper's rates, one member of width 1024, run to its end on
  features computed once;
- naive: the same steps as published, but every picture is decoded and run through the backbone in every epoch, as the
  published code does. It is timed over --naive-epochs epochs and extrapolated.

Settings run in turns: all with one seed, then all with the next. Test pictures are scored outside of the times.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks.measuring import RESULTS, add_backbone_options, chosen_backbone, machine, write_json
from benchmarks.naive import Members, NaiveSimpleNet, published_config, shuffled
from engine.backbones.resolve import Backbone
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.features import FeatureExtractor
from engine.metrics import image_auroc
from engine.scoring import image_scores
from engine.simplenet import SimpleNet
from engine.training import train
from storage.layouts import Entry, scan
from storage.records import Label
from tuning.paper_protocol import patch_batches, spread

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder in the MVTec layout")
    add_backbone_options(parser)
    parser.add_argument("--seeds", type=int, default=3, help="trainings per setting, with seeds 0, 1, …")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 2, 5, 10, 20, 40], help="of ours")
    parser.add_argument("--published-epochs", type=int, default=160, help="fewer only to try the script")
    parser.add_argument("--naive-epochs", type=int, default=1, help="that are timed")
    parser.add_argument(
        "--size", type=int, default=SimpleNetConfig().height, help="side of the network's input"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--json", type=Path, default=RESULTS / "training.json", metavar="FILE")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    entries = scan(options.data).entries
    labels = {entry.label for entry in entries if entry.split == "test"}
    if len(labels) < 2 or not any(entry.split == "train" for entry in entries):
        parser.error(f"{options.data} lacks training pictures, or test pictures of both labels")
    with chosen_backbone(options) as backbone:
        result = measure(Task(entries, backbone, options.size, options.device), options)
    write_json(options.json, {"machine": machine(), "data": options.data.name, **result})
    print(as_table(result))


class Task:
    """Pictures with the features that a study would compute of them.

    Args:
        entries: of a folder with training and test pictures.
        size: side of the network's input, pixels.
    Attributes:
        features, test: (N, h, w, D) float16 on the CPU.
        feature_seconds: what `features` took, reading the files included.
    """

    def __init__(self, entries: Sequence[Entry], backbone: Backbone, size: int, device: str) -> None:
        self.paths = [entry.path for entry in entries if entry.split == "train"]
        judged = [entry for entry in entries if entry.split == "test"]
        self.test_paths = [entry.path for entry in judged]
        self.labels = [entry.label is Label.ANOMALOUS for entry in judged]
        self.backbone = backbone
        self.device = resolve_device(device)
        self.ours = SimpleNetConfig(backbone=backbone.name, height=size, width=size)
        dtype = resolve_precision("auto", self.device)
        self.extractor = FeatureExtractor(backbone, self.ours.layers, self.device, dtype)
        self._cached(self.paths[:2])  # the first pictures choose kernels
        self.features, self.feature_seconds = _timed(lambda: self._cached(self.paths))
        self.test = self._cached(self.test_paths)

    def _cached(self, paths: Sequence[Path]) -> Tensor:
        reading = patch_batches(paths, self.extractor, self.ours, lambda _: None)
        return torch.cat([batch.half().cpu() for batch, _ in reading])

    def auroc(self, score: Callable[[Tensor], Sequence[float]]) -> float:
        """Judge by image scores of (B, h, w, D) float32 features."""
        scores: list[float] = []
        for batch in self.test.split(8):
            scores += score(batch.to(self.device, torch.float32))
        return image_auroc(scores, self.labels)


def measure(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """Train every setting with every seed: its rows, with lists over the seeds, and what they were measured on."""
    plain = task.ours
    published = published_config(
        backbone=plain.backbone, height=plain.height, width=plain.width, epochs=options.published_epochs
    )
    settings = {
        f"ours, {count} epoch{'s' * (count > 1)}": dataclasses.replace(plain, epochs=count)
        for count in options.epochs
    }
    settings[f"ours, one member, {plain.epochs} epochs"] = dataclasses.replace(plain, members=1)
    recipe = f"published, {published.epochs} epochs, features computed once"
    settings[recipe] = published
    rows: dict[str, dict[str, Any]] = {name: {"seconds": [], "image_auroc": []} for name in settings}
    for seed in range(options.seeds):
        for name, config in settings.items():
            run = _published if name == recipe else _ours
            seconds, auroc = run(task, dataclasses.replace(config, seed=seed))
            rows[name]["seconds"].append(seconds)
            rows[name]["image_auroc"].append(auroc)
            print(f"seed {seed}, {name}: {seconds:.1f} s, {auroc:.3f}", flush=True)
    for row in rows.values():
        row["seconds_with_features"] = [seconds + task.feature_seconds for seconds in row["seconds"]]
    return {
        "backbone": task.backbone.text,
        "device": str(task.device),
        "precision": str(task.extractor.dtype).removeprefix("torch."),
        "pictures": {"train": len(task.paths), "test": len(task.test_paths)},
        "feature_seconds": task.feature_seconds,
        "default": plain.to_json(),
        "published": published.to_json(),
        "settings": rows,
        "naive": _naive(task, published, options.naive_epochs),
    }


def _ours(task: Task, config: SimpleNetConfig) -> tuple[float, float]:
    model, seconds = _timed(lambda: train(task.features, config, device=task.device))
    return seconds, task.auroc(
        lambda features: image_scores(model.patch_scores(features), config.top_patches).tolist()
    )


def _published(task: Task, config: SimpleNetConfig) -> tuple[float, float]:
    def steps() -> Members:
        members = Members(SimpleNet(config, task.features.shape[-1]).to(task.device))
        order = torch.Generator().manual_seed(config.seed)
        for _ in range(config.epochs):
            members.epoch(_batches(task, order))
        return members

    members, seconds = _timed(steps)
    return seconds, task.auroc(lambda features: members.image_scores(members.patch_scores(features)))


def _batches(task: Task, order: torch.Generator) -> Iterator[Tensor]:
    for chosen in shuffled(len(task.paths), order):
        yield task.features[chosen].to(task.device)


def _naive(task: Task, config: SimpleNetConfig, epochs: int) -> dict[str, Any]:
    """Time epochs of pictures, median, and extrapolate to all of them."""
    model = SimpleNet(config, task.features.shape[-1]).to(task.device)
    naive = NaiveSimpleNet(task.backbone, model, task.device)
    timed = list(naive.train(task.paths, task.test_paths, epochs))
    training, scoring = (
        statistics.median(getattr(one, name) for one in timed)
        for name in ("training_seconds", "scoring_seconds")
    )
    return {
        "timed_epochs": epochs,
        "training_seconds_per_epoch": training,
        "scoring_seconds_per_epoch": scoring,
        "extrapolated_to_epochs": config.epochs,
        "extrapolated_training_seconds": training * config.epochs,
        "extrapolated_seconds_with_scoring": (training + scoring) * config.epochs,
    }


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    found = call()
    return found, time.perf_counter() - began


def as_table(result: dict[str, Any]) -> str:
    """Write the figures as markdown: medians of seconds, mean and deviation of AUROC."""
    lines = [
        "",
        f"{result['backbone']}; {result['pictures']['train']} training and {result['pictures']['test']} test pictures, "
        f"{result['default']['height']} px, {result['device']}, {result['precision']}; "
        f"features take {result['feature_seconds']:.1f} s",
        "",
        "| training | first trial, s | later trial, s | image AUROC |",
        "|---|---|---|---|",
    ]
    for name, row in result["settings"].items():
        first, later = (statistics.median(row[key]) for key in ("seconds_with_features", "seconds"))
        auroc = spread(row["image_auroc"])
        lines.append(f"| {name} | {first:.1f} | {later:.1f} | {auroc.mean:.3f} ± {auroc.deviation:.3f} |")
    naive = result["naive"]
    count, timed = naive["extrapolated_to_epochs"], naive["timed_epochs"]
    for what, key in (("", "training_seconds"), (", test set scored every epoch", "seconds_with_scoring")):
        seconds = naive[f"extrapolated_{key}"]
        lines.append(
            f"| naive, {count} epochs{what}: extrapolated from {timed} | {seconds:.0f} | {seconds:.0f} | – |"
        )
    return "\n".join([*lines, "", "The naive way takes the steps of published, and so reaches its AUROC."])


if __name__ == "__main__":
    main()
