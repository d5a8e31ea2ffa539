"""SimpleNet as its text reads, straight and slow: what the engine's fast paths are proven and timed against.

- The backbone runs eagerly in fp32, contiguous, and again for every picture in every epoch.
- Every neighbourhood is unfolded, upsampled to the finest layer's grid, and only then averaged.
- Adaptor and discriminator are layers, one after the other; several members are a loop.
- At inference a picture's features are upsampled to its full resolution and copied to the CPU until the map
  is made, as the published code does; nothing reads them.
- The map is upsampled, blurred by scipy and resized, each in its own pass.

It takes the engine's configuration and weights, so that equal inputs must give equal outputs.

Paper: SimpleNet, Liu et al., CVPR 2023; the neighbourhoods are PatchCore's, Roth et al., CVPR 2022.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

from engine.backbones.resolve import Backbone, build
from engine.config import PUBLISHED, SimpleNetConfig
from engine.images import RGB, decode
from engine.scoring import Scored
from engine.simplenet import SimpleNet

BATCH = 8  # whole pictures per step, as published


def published_config(**changes: Any) -> SimpleNetConfig:
    """Give the published settings but for backbone, layers and size; an epoch is a pass over the pictures."""
    return SimpleNetConfig.from_json({**PUBLISHED, **changes})


class NaiveBackbone(nn.Module):
    """The same truncated network with the same weights as the engine's, left as torch builds it."""

    def __init__(self, backbone: Backbone, layers: Sequence[int], device: torch.device) -> None:
        super().__init__()
        state = load_file(backbone.weights)
        with torch.random.fork_rng(devices=[]):  # initial weights, which the file replaces
            self.net: Any = build(backbone.name, state)
        # Of several maps with one stride the last counts.
        by_stride = {info["reduction"]: index for index, info in enumerate(self.net.feature_info)}
        self.layers = tuple(layers)
        indices = [by_stride[2 ** (layer + 1)] for layer in self.layers]
        self.indices = list(self.net.prune_intermediate_layers(indices, prune_norm=True))
        missing = self.net.load_state_dict(state, strict=False).missing_keys
        assert all(name.endswith("num_batches_tracked") for name in missing), missing
        self.net.to(device, torch.float32)
        self.eval().requires_grad_(False)
        self.device = device
        self.mean, self.std = (self.net.pretrained_cfg[name] for name in ("mean", "std"))

    def prepare(self, images: Sequence[RGB], height: int, width: int) -> Tensor:
        """Resize and normalise pictures: (B, 3, height, width) float32 on the device."""
        transform = transforms.Compose(
            [
                transforms.Resize((height, width)),
                transforms.ToTensor(),
                transforms.Normalize(self.mean, self.std),
            ]
        )
        return torch.stack([transform(Image.fromarray(image)) for image in images]).to(self.device)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Give per layer (B, C, h, w) of prepared pictures."""
        maps = self.net.forward_intermediates(images, indices=self.indices, intermediates_only=True)
        return dict(zip(self.layers, maps, strict=True))


def naive_features(maps: Mapping[int, Tensor], config: SimpleNetConfig) -> Tensor:
    """Make patch features, everything at the finest layer's resolution: (B, h, w, D).

    Args:
        maps: per layer (B, C, h, w).
    """
    grid = maps[config.layers[0]].shape[-2:]
    side = config.patch_size
    described = []
    for layer in config.layers:
        batch, channels, height, width = maps[layer].shape
        patches = F.unfold(maps[layer], side, padding=side // 2).reshape(batch, -1, height, width)
        if (height, width) != tuple(grid):
            patches = F.interpolate(patches, size=tuple(grid), mode="bilinear", align_corners=False)
        rows = patches.permute(0, 2, 3, 1).reshape(-1, channels * side * side)
        if config.feature_dim is None:
            described.append(rows.reshape(-1, channels, side * side).mean(dim=2))
        else:
            described.append(F.adaptive_avg_pool1d(rows[:, None], config.feature_dim)[:, 0])
    features = torch.cat(described, dim=1)
    if config.feature_dim is not None:
        features = F.adaptive_avg_pool1d(features[:, None], config.feature_dim)[:, 0]
    return features.reshape(-1, *grid, features.shape[1])


def require_published_form(config: SimpleNetConfig) -> None:
    """Refuse what the naive path does not compute, lest it be compared with something else.

    Raises:
        ValueError: a setting is not of the published form.
    """
    plain = SimpleNetConfig()
    for name in ("resize", "noise", "loss", "adaptor_activation", "adaptor_residual", "discriminator_depth"):
        if getattr(config, name) != getattr(plain, name):
            raise ValueError(
                f"The naive path has no {name} {getattr(config, name)!r}. Leave it at {getattr(plain, name)!r}."
            )


class Member(nn.Module):
    """One adaptor and one discriminator, with the weights of the engine's member `index`."""

    def __init__(self, model: SimpleNet, index: int) -> None:
        super().__init__()
        config, dim, width = model.config, model.feature_dim, model.config.discriminator_width
        require_published_form(config)
        self.adaptor = nn.Sequential(*[nn.Linear(dim, dim) for _ in range(config.adaptor_depth)])
        self.discriminator = nn.Sequential(
            nn.Linear(dim, width), nn.BatchNorm1d(width), nn.LeakyReLU(0.2), nn.Linear(width, 1, bias=False)
        )
        own = {}
        for name, values in model.state_dict().items():
            if values.ndim == 0:  # the counter of batch norm
                own[name] = values
            elif ".norm." in name:
                own[name] = values[index * width : (index + 1) * width]
            else:
                own[name] = values[index]
        own["discriminator.tail"] = own["discriminator.tail"][None]
        renamed = {"hidden.": "0.", "norm.": "1.", "tail": "3.weight"}
        for theirs, ours in renamed.items():
            own = {
                name.replace(f"discriminator.{theirs}", f"discriminator.{ours}"): v for name, v in own.items()
            }
        self.load_state_dict(own)
        self.to(values.device)
        self.margin = config.margin
        # AdamW refuses an empty list of parameters.
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(
                self.discriminator.parameters(), lr=config.discriminator_lr, weight_decay=config.weight_decay
            )
        ]
        if config.adaptor_depth:
            self.optimizers.append(
                torch.optim.AdamW(
                    self.adaptor.parameters(), lr=config.adaptor_lr, weight_decay=config.adaptor_weight_decay
                )
            )

    def step(self, features: Tensor, noise: Tensor) -> float:
        """Take one training step on (N, D) features and noise; gives the loss before it."""
        self.train()
        adapted = self.adaptor(features)
        outputs = self.discriminator(torch.cat([adapted, adapted + noise]))
        normal, anomalous = outputs[: len(features)], outputs[len(features) :]
        loss = (self.margin - normal).clamp(min=0).mean() + (self.margin + anomalous).clamp(min=0).mean()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.item()

    @torch.no_grad()
    def patch_scores(self, features: Tensor) -> Tensor:
        """Score (…, D) features: (…), higher is more anomalous."""
        self.eval()
        return -self.discriminator(self.adaptor(features.flatten(0, -2))).reshape(features.shape[:-1])


class Members:
    """The heads, one after the other.

    Args:
        model: whose weights they begin with; they share no memory with it.
    """

    def __init__(self, model: SimpleNet) -> None:
        self.config = model.config
        self.list = [Member(model, index) for index in range(model.config.members)]
        self._noise = torch.Generator().manual_seed(model.config.seed)

    def epoch(self, batches: Iterable[Tensor]) -> float:
        """Take one step per batch of whole pictures, (B, h, w, D) each; gives the mean loss."""
        losses = []
        for batch in batches:
            rows = batch.reshape(-1, batch.shape[-1]).float()
            for member in self.list:
                noise = torch.randn(rows.shape, generator=self._noise) * self.config.noise_std
                losses.append(member.step(rows, noise.to(rows.device)))
        return sum(losses) / len(losses)

    def patch_scores(self, features: Tensor) -> Tensor:
        """Score (…, D) features: the mean of the members' scores."""
        return torch.stack([member.patch_scores(features) for member in self.list]).mean(dim=0)

    def image_scores(self, patch_scores: Tensor) -> list[float]:
        """Reduce (B, h, w) to the mean of each picture's `top_patches` highest; 1 is the published maximum."""
        ordered = patch_scores.flatten(1).sort(dim=1, descending=True).values
        return ordered[:, : self.config.top_patches].mean(dim=1).tolist()


def shuffled(count: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Give the pictures of an epoch's steps: every picture once, in batches."""
    for chosen in torch.randperm(count, generator=generator).split(BATCH):
        yield chosen.tolist()


@dataclass(frozen=True, kw_only=True)
class NaiveEpoch:
    """What one epoch of training from pictures took and gave."""

    loss: float
    training_seconds: float
    scoring_seconds: float  # score and map of every test picture
    scores: tuple[float, ...]  # of the test pictures


class NaiveSimpleNet:
    """Pictures in, scores and maps out; trains from picture files.

    Args:
        backbone: read anew, for a network of its own.
        model: whose configuration and weights it begins with.
        keep_features: copy each picture's features at full resolution to the CPU, as the published code does.
    """

    def __init__(
        self, backbone: Backbone, model: SimpleNet, device: torch.device, *, keep_features: bool = True
    ) -> None:
        self.config = model.config
        self.backbone = NaiveBackbone(backbone, model.config.layers, device)
        self.members = Members(model)
        self.keep_features = keep_features

    def features(self, images: Sequence[RGB]) -> Tensor:
        """Run the backbone: (B, h, w, D)."""
        prepared = self.backbone.prepare(images, self.config.height, self.config.width)
        return naive_features(self.backbone(prepared), self.config)

    def score(self, images: Sequence[RGB]) -> list[Scored]:
        """Score pictures of any sizes, all in one pass."""
        features = self.features(images)
        patch_scores = self.members.patch_scores(features)
        scored = []
        for index, score in enumerate(self.members.image_scores(patch_scores)):
            copies = [self._enlarged(features[index].permute(2, 0, 1))] if self.keep_features else []
            size = images[index].shape
            scored.append(Scored(score=score, anomaly_map=self._map(patch_scores[index], size[0], size[1])))
            copies.clear()
        return scored

    def _enlarged(self, values: Tensor) -> np.ndarray:
        """Upsample (C, h, w) to the network's input and copy it to the CPU."""
        size = (self.config.height, self.config.width)
        return F.interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0].cpu().numpy()

    def _map(self, patch_scores: Tensor, height: int, width: int) -> np.ndarray:
        enlarged = self._enlarged(patch_scores[None])[0]
        blurred = torch.from_numpy(ndimage.gaussian_filter(enlarged, sigma=self.config.smoothing_std))
        resized = F.interpolate(
            blurred[None, None], size=(height, width), mode="bilinear", align_corners=False
        )
        return resized[0, 0].numpy()

    def train(self, pictures: Sequence[Path], test: Sequence[Path], epochs: int) -> Iterator[NaiveEpoch]:
        """Train from files, decoded and run through the backbone in every epoch; score `test` after each."""
        order = torch.Generator().manual_seed(self.config.seed)
        for _ in range(epochs):
            began = time.perf_counter()
            loss = self.members.epoch(
                self.features(_read([pictures[index] for index in chosen]))
                for chosen in shuffled(len(pictures), order)
            )
            trained = time.perf_counter()
            scores: list[float] = []
            for start in range(0, len(test), BATCH):
                scores += [one.score for one in self.score(_read(test[start : start + BATCH]))]
            yield NaiveEpoch(
                loss=loss,
                training_seconds=trained - began,
                scoring_seconds=time.perf_counter() - trained,
                scores=tuple(scores),
            )


def _read(paths: Sequence[Path]) -> list[RGB]:
    return [decode(path.read_bytes(), path.name) for path in paths]
