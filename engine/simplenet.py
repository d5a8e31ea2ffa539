"""SimpleNet: a linear adaptor and a small discriminator over patch features.

Paper: SimpleNet: A Simple Network for Image Anomaly Detection and Localization, Liu et al., CVPR 2023.
Here a score is higher where a patch is more anomalous: the negative of the paper's discriminator.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.config import SimpleNetConfig
from engine.errors import ShapeMismatch

LEAK = 0.2  # slope of LeakyReLU below zero, as published


class Adaptor(nn.Sequential):
    """`depth` linear layers of equal width, without activations, as published: (…, D) → (…, D)."""

    def __init__(self, dim: int, depth: int, generator: torch.Generator | None = None) -> None:
        super().__init__(*[_linear(dim, dim, generator) for _ in range(depth)])


class Discriminator(nn.Module):
    """Linear, batch norm, LeakyReLU, linear without bias: (N, D) → (N,), higher is more normal."""

    def __init__(self, dim: int, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.hidden = _linear(dim, width, generator)
        self.norm = nn.BatchNorm1d(width)
        self.tail = _linear(width, 1, generator, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.tail(F.leaky_relu(self.norm(self.hidden(features)), LEAK))
        return outputs.squeeze(-1)


class Member(nn.Module):
    """One adaptor with its discriminator: what the paper calls SimpleNet."""

    def __init__(self, config: SimpleNetConfig, feature_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.adaptor = Adaptor(feature_dim, config.adaptor_depth, generator)
        self.discriminator = Discriminator(feature_dim, config.discriminator_width, generator)

    def forward(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Discriminate adapted features from the same features with noise added.

        Args:
            features, noise: (N, D).
        Returns:
            normal, anomalous: (N,) each, the discriminator's outputs, higher is more normal.
        """
        adapted = self.adaptor(features)
        # One batch for both, as published: batch norm must see normal and anomalous features together.
        both = self.discriminator(torch.cat([adapted, anomalous_features(adapted, noise)]))
        return both[: len(features)], both[len(features) :]


class SimpleNet(nn.Module):
    """Members that share nothing but their configuration; a score is the mean of theirs.

    A single member's scores depend on its random start, which lives on in the directions that its adaptor keeps.
    Averaging members takes that away; docs/log.md has the figures.

    Args:
        config: members, depth, width and seed are taken from it; equal seeds give equal initial weights.
        feature_dim: D, from `engine.features.feature_count`.
    """

    def __init__(self, config: SimpleNetConfig, feature_dim: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(config.seed)
        self.config = config
        self.feature_dim = feature_dim
        members = [Member(config, feature_dim, generator) for _ in range(config.members)]
        self.members = nn.ModuleList(members)

    def forward(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Discriminate as each member does, on patches of its own.

        Args:
            features, noise: (members, N, D).
        Returns:
            normal, anomalous: (members, N) each, higher is more normal.
        """
        outputs = [member(*own) for member, *own in zip(self.members, features, noise, strict=True)]
        return torch.stack([normal for normal, _ in outputs]), torch.stack([other for _, other in outputs])

    @torch.inference_mode()
    def patch_scores(self, features: Tensor) -> Tensor:
        """Score patches, with the statistics gathered in training whatever the module's mode.

        Args:
            features: (…, D) on the module's device.
        Returns:
            (…) float32, unbounded, higher is more anomalous.
        Raises:
            ShapeMismatch: features are not of length `feature_dim`.
        """
        scores: Tensor = self.fused()(features)
        return scores

    def fused(self) -> "FusedHead":
        """Fold adaptors, first linear layers and batch norms into one matrix: (…, D) → (…) scores."""
        return FusedHead(self)


class FusedHead(nn.Module):
    """What remains of a trained SimpleNet at inference: score = tail · LeakyReLU(W x + b).

    Attributes:
        weight: (members × width, D); each member's rows are diag(γ/√(v+ε)) · hidden · adaptor.
        bias: (members × width,).
        tail: (members × width,), negated and divided by the number of members.
    """

    weight: Tensor
    bias: Tensor
    tail: Tensor

    def __init__(self, model: SimpleNet) -> None:
        super().__init__()
        device = next(model.parameters()).device
        parts = [_fold(member, model.feature_dim) for member in model.members]
        weights, biases, tails = zip(*parts, strict=True)
        self.register_buffer("weight", torch.cat(weights).float().to(device))
        self.register_buffer("bias", torch.cat(biases).float().to(device))
        self.register_buffer("tail", -torch.cat(tails).float().to(device) / len(parts))

    @torch.inference_mode()
    def forward(self, features: Tensor) -> Tensor:
        if features.shape[-1] != self.weight.shape[1]:
            raise ShapeMismatch(
                f"Features are of length {features.shape[-1]}; this model takes {self.weight.shape[1]}. "
                "Aggregate them with the model's own configuration."
            )
        return F.leaky_relu(F.linear(features.float(), self.weight, self.bias), LEAK) @ self.tail


@torch.no_grad()
def _fold(member: nn.Module, feature_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give one member's weight (width, D), bias (width,) and tail (width,) on the CPU.

    In double precision: folding must not cost digits that the layers one by one would keep.
    """
    assert isinstance(member, Member)
    norm = member.discriminator.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None

    def exact(values: Tensor) -> Tensor:
        return values.to("cpu").double()

    weight = torch.eye(feature_dim, dtype=torch.float64)
    bias = torch.zeros(feature_dim, dtype=torch.float64)
    for layer in [*member.adaptor, member.discriminator.hidden]:
        assert isinstance(layer, nn.Linear)
        weight = exact(layer.weight) @ weight
        bias = exact(layer.weight) @ bias + exact(layer.bias)
    scale = exact(norm.weight) / (exact(norm.running_var) + norm.eps).sqrt()
    bias = scale * (bias - exact(norm.running_mean)) + exact(norm.bias)
    return scale[:, None] * weight, bias, exact(member.discriminator.tail.weight[0])


def anomalous_features(adapted: Tensor, noise: Tensor) -> Tensor:
    """Add noise to adapted features, which makes them anomalous.

    The noise comes after the adaptor, as published; before it, σ would depend on the backbone's scale.

    Args:
        adapted, noise: (N, D).
    """
    return adapted + noise


def truncated_l1_loss(normal: Tensor, anomalous: Tensor, margin: float) -> Tensor:
    """Push outputs of normal features above `margin` and those of anomalous ones below −margin; beyond costs
    nothing.

    Args:
        normal, anomalous: (…, N) outputs of the discriminator, higher is more normal.
    Returns:
        (…), at least 0: the mean over N.
    Source: SimpleNet, equation 9.
    """
    return (margin - normal).clamp(min=0).mean(dim=-1) + (margin + anomalous).clamp(min=0).mean(dim=-1)


def _linear(inputs: int, outputs: int, generator: torch.Generator | None, *, bias: bool = True) -> nn.Linear:
    """Make a linear layer with Xavier-normal weights, as published, and torch's default bias."""
    with torch.random.fork_rng(devices=[]):  # the constructor draws from torch's global generator
        layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_normal_(layer.weight, generator=generator)
    if bias:
        bound = inputs**-0.5
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer
