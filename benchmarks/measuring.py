"""What the measurements share: calls timed in turns, the backbone that options name, and what machine it was."""

import argparse
import json
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.backbones.resolve import SHIPPED, Backbone, resolve_backbone, timm_with_ours

RESULTS = Path(__file__).resolve().parent / "results"  # not under version control

Call = Callable[[], object]


def in_turns(
    calls: Mapping[str, Call], rounds: int, device: torch.device, repeats: int = 2
) -> dict[str, float]:
    """Give the median seconds of calls made in turns, so that a busy machine slows all alike.

    The first call of a turn is not counted: it finds the processor's caches full of another's data. Nor is the first
    round, which chooses kernels.

    Args:
        repeats: calls counted per turn.
    """
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds + 1):
        for name, call in calls.items():
            turn = [_seconds(call, device) for _ in range(1 + repeats)]
            if index:
                spent[name] += turn[1:]
    return {name: statistics.median(values) for name, values in spent.items()}


def _seconds(call: Call, device: torch.device) -> float:
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def add_backbone_options(parser: argparse.ArgumentParser) -> None:
    """Add --backbone, --weights and --random, which `chosen_backbone` reads."""
    parser.add_argument(
        "--backbone", metavar="NAME", help=f"timm's; default: {SHIPPED}, or what FILE's name says"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--weights", metavar="FILE", type=Path, help="safetensors file with its weights")
    source.add_argument(
        "--random", action="store_true", help="random weights: for times, where weights don't matter"
    )


def numbers(text: str) -> tuple[int, ...]:
    """Read an option such as 1,8."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be whole numbers from 1, separated by commas. Give for instance 1,8."
        )
    return tuple(int(number) for number in text.split(","))


@contextmanager
def chosen_backbone(options: argparse.Namespace) -> Iterator[Backbone]:
    """Give the backbone that options name; a file of random weights lives as long as the context."""
    name = options.backbone or ("auto" if options.weights else SHIPPED)
    if not options.random:
        yield resolve_backbone(name, options.weights)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield random_backbone(name, Path(folder))


def random_backbone(name: str, folder: Path) -> Backbone:
    """Write a network's initial weights, seed 0, to a file and read it as any weights file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = timm_with_ours().create_model(name, num_classes=0).state_dict()
    path = folder / f"{name.split('.')[0]}.random.safetensors"
    save_file(state, path)
    return resolve_backbone("auto", path)


def machine() -> dict[str, Any]:
    """Tell what a measurement depends on beside its options."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def write_json(path: Path, values: Any) -> None:
    """Write results, with the folders above them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + "\n")
