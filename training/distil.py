"""Distil a teacher's features into Drawnet on drawn pictures.

    python -m training.pool POOL
    python -m training.distil POOL RUN --teacher-weights resnet18.tv_in1k.safetensors
    python -m training.distil POOL RUN --export drawnet.mine.safetensors

Every step takes 64 crops of 64 drawings, all of one size between 128 and 224 pixels. The loss is the squared
difference between the student's map and the teacher's, each channel of the teacher brought to mean 0 and
deviation 1, averaged over everything, summed over the stages. A run stopped at any moment goes on from its
last checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader

from engine.backbones.drawnet import LICENCE, MEAN, STD, Drawnet, fold
from engine.backbones.resolve import SHIPPED, Backbone, resolve_backbone
from engine.devices import resolve_device, resolve_precision
from engine.errors import EngineError
from engine.features import FeatureExtractor
from training.crops import Crops, Draw, held_out
from training.drawing.scenes import VERSION

STAGES = (1, 2, 3)
CHECKPOINT_STEPS = 250
WARM_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Recipe(Draw):
    """What a run is made with; stored beside its weights."""

    teacher: str  # name, origin and licence
    teacher_digest: str
    drawings: str  # the generator's version
    learning_rate: float
    weight_decay: float


def normalise(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Bring (B, 3, H, W) pictures of 0..1 to what a network was trained on."""
    return (pictures - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def teach(teacher: FeatureExtractor, pictures: Tensor) -> dict[int, Tensor]:
    """Give the teacher's maps of (B, 3, H, W) pictures of 0..1, per stage (B, C, h, w) float32."""
    maps: dict[int, Tensor] = teacher(normalise(pictures, teacher.mean, teacher.std))
    return maps


class Scale:
    """Per stage and channel, mean and deviation of the teacher's features over drawings."""

    def __init__(self, state: dict[str, Tensor], device: torch.device) -> None:
        self.state = state
        self.device = device

    @classmethod
    def measure(cls, teacher: FeatureExtractor, pictures: Iterator[Tensor]) -> Scale:
        sums = {
            stage: torch.zeros(2, count, dtype=torch.float64) for stage, count in teacher.channels.items()
        }
        positions = dict.fromkeys(teacher.channels, 0)
        for batch in pictures:
            for stage, values in teach(teacher, batch).items():
                values = values.double().cpu()
                sums[stage] += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
                positions[stage] += values.shape[0] * values.shape[2] * values.shape[3]
        state = {}
        for stage, total in sums.items():
            mean, square = total / positions[stage]
            state[f"mean{stage}"] = mean.float()
            state[f"std{stage}"] = (square - mean.square()).clamp(min=1e-8).sqrt().float()
        return cls(state, teacher.device)

    def __call__(self, stage: int, values: Tensor) -> Tensor:
        mean, std = (self.state[f"{key}{stage}"].to(self.device).view(1, -1, 1, 1) for key in ("mean", "std"))
        return (values - mean) / std


def losses(net: Drawnet, teacher: FeatureExtractor, scale: Scale, pictures: Tensor) -> Tensor:
    """Give one normalised squared error per stage; predicting each channel's mean would give 1.

    Args:
        pictures: (B, 3, H, W) float32, 0..1.
    """
    wanted = teach(teacher, pictures)
    images = normalise(pictures, MEAN, STD).to(teacher.device, memory_format=torch.channels_last)
    with torch.autocast(teacher.device.type, torch.bfloat16, enabled=teacher.dtype is torch.bfloat16):
        maps = net(images)
    return torch.stack(
        [F.mse_loss(m.float(), scale(stage, wanted[stage])) for stage, m in zip(STAGES, maps, strict=True)]
    )


class Run:
    """A student under training, with all that a checkpoint holds.

    Args:
        pool: folder of `training.pool`.
        folder: of the run; a checkpoint in it is taken up.
    Raises:
        SystemExit: the checkpoint was made with another recipe.
    """

    def __init__(self, pool: Path, folder: Path, teacher: FeatureExtractor, recipe: Recipe) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        self.pool, self.folder, self.teacher, self.recipe = pool, folder, teacher, recipe
        self.net = Drawnet([teacher.channels[stage] for stage in STAGES], norm=True)
        self.net.to(teacher.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        warm = min(WARM_STEPS, recipe.steps // 10)
        self.schedule = SequentialLR(
            self.optimizer,
            [
                LinearLR(self.optimizer, 0.01, 1, max(1, warm)),
                CosineAnnealingLR(self.optimizer, max(1, recipe.steps - warm), eta_min=1e-6),
            ],
            [warm],
        )
        self.done, self.seconds = 0, 0.0
        if (folder / "checkpoint.pt").exists():
            self._load()
        else:
            self.scale = Scale.measure(teacher, held_out(pool, recipe))

    def train(self) -> None:
        """Take the steps that are left.

        Raises:
            SystemExit: the loss is not finite; the last checkpoint stays.
        """
        batches = DataLoader(
            Crops(self.pool, self.recipe),
            batch_size=None,
            sampler=range(self.done, self.recipe.steps),
            num_workers=1,
            prefetch_factor=4,
            multiprocessing_context="spawn",
        )
        total, summed, began = torch.zeros(len(STAGES)), 0, time.monotonic()
        for crops in track(batches, total=self.recipe.steps, completed=self.done, description="distilling"):
            total += self._step(crops)
            summed += 1
            if self.done % CHECKPOINT_STEPS == 0 or self.done == self.recipe.steps:
                self._record(total / summed)
                self.seconds += time.monotonic() - began
                self._save()
                total, summed, began = torch.zeros(len(STAGES)), 0, time.monotonic()

    def _step(self, crops: Tensor) -> Tensor:
        self.net.train()
        found = losses(self.net, self.teacher, self.scale, crops)
        if not torch.isfinite(found).all():
            raise SystemExit(
                f"The loss is {found.tolist()} at step {self.done}; it must stay finite. Lower --learning-rate "
                f"({self.recipe.learning_rate:g}) and use another folder for the run."
            )
        self.optimizer.zero_grad()
        found.sum().backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.done += 1
        return found.detach().cpu()

    @torch.no_grad()
    def examine(self) -> Tensor:
        """Give the loss per stage on the drawings held out, at 256 pixels."""
        self.net.eval()
        batches = [
            losses(self.net, self.teacher, self.scale, pictures).cpu()
            for pictures in held_out(self.pool, self.recipe)
        ]
        return torch.stack(batches).mean(0)

    def _record(self, trained: Tensor) -> None:
        line = {
            "step": self.done,
            "train": _rounded(trained),
            "held_out": _rounded(self.examine()),
        }
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _save(self) -> None:
        state = {
            "recipe": asdict(self.recipe), "net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(), "scale": self.scale.state, "done": self.done,
            "seconds": self.seconds,
        }  # fmt: skip
        unfinished = self.folder / "checkpoint.part"
        torch.save(state, unfinished)
        unfinished.replace(self.folder / "checkpoint.pt")

    def _load(self) -> None:
        saved = _checkpoint(self.folder, self.teacher.device)
        if saved["recipe"] != asdict(self.recipe):
            asked = asdict(self.recipe)
            other = [
                f"{key} {saved['recipe'].get(key)!r} (now {asked[key]!r})"
                for key in asked
                if saved["recipe"].get(key) != asked[key]
            ]
            raise SystemExit(
                f"The run in {self.folder} was made with {', '.join(other)}. Use another folder."
            )
        self.net.load_state_dict(saved["net"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.scale = Scale(saved["scale"], self.teacher.device)
        self.done, self.seconds = saved["done"], saved["seconds"]


def _checkpoint(folder: Path, device: torch.device) -> dict[str, Any]:
    path = folder / "checkpoint.pt"
    if not path.exists():
        raise SystemExit(f"{folder} holds no checkpoint. Train a run there first.")
    saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return saved


def _rounded(values: Tensor) -> list[float]:
    return [round(float(value), 4) for value in values]


def export(folder: Path, path: Path) -> None:
    """Write a run's network as fp16 safetensors, with what it was made with in its metadata.

    Batch norms are folded into the convolutions before them. The teacher's scale goes into the heads: with every
    channel brought to deviation 1 the training noise of a SimpleNet drowns the channels that vary little
    (docs/log.md).

    Raises:
        SystemExit: the run has no checkpoint, or a weight is too large for fp16.
    """
    saved = _checkpoint(folder, torch.device("cpu"))
    channels = [len(saved["scale"][f"mean{stage}"]) for stage in STAGES]
    net = Drawnet(channels, norm=True)
    net.load_state_dict(saved["net"])
    fold(net)
    with torch.no_grad():
        for stage, head in zip(STAGES, net.heads, strict=True):
            mean, std = saved["scale"][f"mean{stage}"], saved["scale"][f"std{stage}"]
            head.bias.mul_(std).add_(mean)
            head.weight.mul_(std.view(-1, 1, 1, 1))
    state = {key: value.half().contiguous() for key, value in net.state_dict().items()}
    if not all(torch.isfinite(value).all() for value in state.values()):
        raise SystemExit(f"A weight of {folder} does not fit into fp16; nothing was written.")
    about = {key: str(value) for key, value in saved["recipe"].items()}
    about |= {"licence": LICENCE, "done": str(saved["done"]), "seconds": f"{saved['seconds']:.0f}"}
    unfinished = path.with_suffix(".part")
    save_file(state, unfinished, metadata=about)
    unfinished.chmod(0o644)  # the library leaves it readable by its owner alone
    unfinished.replace(path)
    print(f"{path}: step {saved['done']} of {saved['recipe']['steps']}")


def _teacher(name: str | None, weights: Path | None) -> Backbone:
    try:
        backbone = resolve_backbone(name or ("auto" if weights else "resnet18.tv_in1k"), weights)
    except EngineError as error:
        raise SystemExit(
            f"The teacher can't be had; here --teacher-weights FILE names its weights. {error}"
        ) from error
    if backbone.name.split(".")[0] == SHIPPED:
        raise SystemExit(f"{SHIPPED} can not be its own teacher. Name another timm model with --teacher.")
    return backbone


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pool", type=Path, help="folder of training.pool")
    parser.add_argument("run", type=Path, help="folder of this run")
    parser.add_argument(
        "--teacher", help="timm model with maps at strides 4, 8 and 16; default: resnet18.tv_in1k"
    )
    parser.add_argument(
        "--teacher-weights", type=Path, help="its safetensors file; else the hub's cache or the hub"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="fp32, bf16 or auto")
    parser.add_argument("--steps", type=int, default=7_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool-seed", type=int, default=0)
    parser.add_argument("--pool-size", type=int, default=320)
    parser.add_argument("--export", type=Path, help="write the run's weights here instead of training")
    options = parser.parse_args()
    if options.export is not None:
        export(options.run, options.export)
        return
    device = resolve_device(options.device)
    backbone = _teacher(options.teacher, options.teacher_weights)
    teacher = FeatureExtractor(backbone, STAGES, device, resolve_precision(options.precision, device))
    recipe = Recipe(
        teacher=backbone.text,
        teacher_digest=backbone.digest,
        drawings=VERSION,
        pool_seed=options.pool_seed,
        pool_size=options.pool_size,
        steps=options.steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        seed=options.seed,
    )
    Run(options.pool, options.run, teacher, recipe).train()


if __name__ == "__main__":
    main()
