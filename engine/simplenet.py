"""SimpleNet: a linear adaptor and a small discriminator over patch features.

Paper: SimpleNet: A Simple Network for Image Anomaly Detection and Localization, Liu et al., CVPR 2023.
Here a score is higher where a patch is more anomalous: the negative of the paper's discriminator.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.config import SimpleNetConfig
from engine.errors import ShapeMismatch

LEAK = 0.2  # slope of LeakyReLU below zero, as published
ROWS = 1024  # patches scored at a time


class StackedLinear(nn.Module):
    """One linear layer per member, computed together: (members, N, inputs) → (members, N, outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        weights = [torch.empty(outputs, inputs) for _ in range(members)]
        for weight in weights:  # Xavier normal, as published; biases as torch's own linear layer draws them
            nn.init.xavier_normal_(weight, generator=generator)
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.stack(weights))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound, generator=generator))

    def forward(self, features: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], features, self.weight.transpose(1, 2))


class Adaptor(nn.Sequential):
    """`depth` linear layers of equal width; published without activations and without the residual."""

    def __init__(
        self,
        members: int,
        dim: int,
        depth: int,
        generator: torch.Generator,
        *,
        activated: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__(*[StackedLinear(members, dim, dim, generator) for _ in range(depth)])
        self.activated = activated and depth > 0
        self.residual = residual and depth > 0

    def forward(self, features: Tensor) -> Tensor:
        adapted = features
        for layer in self:
            adapted = layer(adapted)
            if self.activated:
                adapted = F.leaky_relu(adapted, LEAK)
        return features + adapted if self.residual else adapted


class Discriminator(nn.Module):
    """Linear, batch norm, LeakyReLU, as often as `depth` says, then linear without bias.

    (members, N, D) → (members, N), higher is more normal.
    """

    def __init__(
        self, members: int, dim: int, width: int, generator: torch.Generator, *, depth: int = 1
    ) -> None:
        super().__init__()
        self.hidden = StackedLinear(members, dim, width, generator)
        self.norm = nn.BatchNorm1d(members * width)
        more = range(depth - 1)
        self.deeper = nn.ModuleList(StackedLinear(members, width, width, generator) for _ in more)
        self.deeper_norms = nn.ModuleList(nn.BatchNorm1d(members * width) for _ in more)
        tail = torch.empty(members, width)
        # Xavier normal for a layer of one output, as published.
        tail.normal_(0, (2 / (width + 1)) ** 0.5, generator=generator)
        self.tail = nn.Parameter(tail)

    def forward(self, features: Tensor) -> Tensor:
        units = features
        for linear, norm in self.layers():
            units = F.leaky_relu(_normalised(linear(units), norm), LEAK)
        return (units * self.tail[:, None]).sum(dim=-1)

    def layers(self) -> list[tuple[StackedLinear, nn.BatchNorm1d]]:
        """The hidden layers, each with its batch norm, first to last."""
        # Modules in a list have lost their type.
        pairs: Any = [
            (self.hidden, self.norm),
            *zip(self.deeper, self.deeper_norms, strict=True),
        ]
        return list(pairs)


def _normalised(units: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """Batch norm wants (N, channels): the members' units side by side, each normalised on its own rows."""
    members, rows, width = units.shape
    side_by_side: Tensor = norm(units.transpose(0, 1).reshape(rows, members * width))
    return side_by_side.reshape(rows, members, width).transpose(0, 1)


class SimpleNet(nn.Module):
    """Members that share nothing but their configuration; a score is the mean of theirs.

    One member is the paper's SimpleNet. Its scores depend on its random start, which lives on in the directions
    that its adaptor keeps; averaging members takes that away. docs/log.md has the figures.

    Args:
        config: members, depth, width and seed are taken from it; equal seeds give equal initial weights.
        feature_dim: D, from `engine.features.feature_count`.
    """

    def __init__(self, config: SimpleNetConfig, feature_dim: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(config.seed)
        self.config = config
        self.feature_dim = feature_dim
        self.adaptor = Adaptor(
            config.members,
            feature_dim,
            config.adaptor_depth,
            generator,
            activated=config.adaptor_activation != "none",
            residual=config.adaptor_residual,
        )
        self.discriminator = Discriminator(
            config.members,
            feature_dim,
            config.discriminator_width,
            generator,
            depth=config.discriminator_depth,
        )

    def forward(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Discriminate adapted features from the same features with noise added.

        Args:
            features: (members, N, D); each member has patches of its own.
            noise: as `engine.noise.draw_noise` gives it.
        Returns:
            normal, anomalous: (members, N) each, the discriminators' outputs, higher is more normal.
        """
        adapted = self.adaptor(features)
        # One batch for both, as published: batch norm must see normal and anomalous features together.
        anomalous = anomalous_features(adapted, noise, kind=self.config.noise)
        both = self.discriminator(torch.cat([adapted, anomalous], dim=1))
        return both[:, : features.shape[1]], both[:, features.shape[1] :]

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

    def fused(self, dtype: torch.dtype = torch.float32) -> "FusedHead":
        """Fold adaptors, first linear layers and batch norms into one matrix: (…, D) → (…) scores.

        Args:
            dtype: in which the product with that matrix is computed.
        """
        return FusedHead(self, dtype)


class FusedHead(nn.Module):
    """What remains of a trained SimpleNet at inference; published, it is score = tail · LeakyReLU(W x + b).

    What is linear is folded: batch norms into the layers before them, and adaptors without activation into the
    first hidden layer. An adaptor with activations is run before it, deeper hidden layers after it.

    Args:
        model: trained; later changes of it change nothing here.
        dtype: of `weight` and `bias`; sums over units are float32 all the same.
    Attributes:
        weight: (members × width, D); each member's rows are diag(γ/√(v+ε)) · hidden · adaptor.
        bias: (members × width,).
        tail: (members × width,), negated and divided by the number of members.
    """

    weight: Tensor
    bias: Tensor
    tail: Tensor

    @torch.no_grad()
    def __init__(self, model: SimpleNet, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        tail = model.discriminator.tail
        self.members = len(tail)
        self.adaptor = copy.deepcopy(model.adaptor).eval() if model.adaptor.activated else None
        (weight, bias), *deeper = [_folded(*layer) for layer in model.discriminator.layers()]
        if self.adaptor is None:
            weight, bias = _after_adaptor(model.adaptor, weight, bias)
        self.register_buffer("weight", weight.flatten(0, 1).to(tail.device, dtype))
        self.register_buffer("bias", bias.flatten().to(tail.device, dtype))
        for index, (deep_weight, deep_bias) in enumerate(deeper):
            self.register_buffer(f"deep_weight{index}", deep_weight.to(tail.device, dtype))
            self.register_buffer(f"deep_bias{index}", deep_bias.to(tail.device, dtype))
        self.depth = 1 + len(deeper)
        self.register_buffer("tail", -tail.detach().flatten() / len(tail))

    @torch.inference_mode()
    def forward(self, features: Tensor) -> Tensor:
        if features.shape[-1] != self.weight.shape[1]:
            raise ShapeMismatch(
                f"Features are of length {features.shape[-1]}; this model takes {self.weight.shape[1]}. "
                "Aggregate them with the model's own configuration."
            )
        rows = features.reshape(-1, features.shape[-1])
        # In parts, so that the units of a part stay in the processor's cache, and in place: both halve the time.
        scores = [self._score(part) for part in torch.split(rows, ROWS)]
        return torch.cat(scores).reshape(features.shape[:-1])

    def _score(self, rows: Tensor) -> Tensor:
        if self.adaptor is None:
            units = F.leaky_relu_(F.linear(rows.to(self.weight.dtype), self.weight, self.bias), LEAK)
            if self.depth == 1:
                return units.float() @ self.tail
            units = units.reshape(len(rows), self.members, -1).transpose(0, 1)
        else:
            adapted = self.adaptor(rows.float().expand(self.members, -1, -1)).to(self.weight.dtype)
            weight = self.weight.reshape(self.members, -1, rows.shape[1])
            units = F.leaky_relu_(_member_wise(adapted, weight, self.bias.reshape(self.members, -1)), LEAK)
        for index in range(self.depth - 1):
            weight, bias = getattr(self, f"deep_weight{index}"), getattr(self, f"deep_bias{index}")
            units = F.leaky_relu_(_member_wise(units, weight, bias), LEAK)
        return units.transpose(0, 1).reshape(len(rows), -1).float() @ self.tail


def _folded(linear: StackedLinear, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Fold a batch norm into the layer before it: weight (members, outputs, inputs), bias (members, outputs)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = _exact(linear.weight), _exact(linear.bias)
    scale = _exact(norm.weight) / (_exact(norm.running_var) + norm.eps).sqrt()
    bias = scale * (bias.flatten() - _exact(norm.running_mean)) + _exact(norm.bias)
    return scale.reshape(weight.shape[:2])[..., None] * weight, bias.reshape(weight.shape[:2])


def _after_adaptor(adaptor: Adaptor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Fold a linear adaptor into the layer behind it."""
    direct = weight  # the way of the residual, past the adaptor
    for layer in reversed([*adaptor]):
        assert isinstance(layer, StackedLinear)
        bias = bias + (weight @ _exact(layer.bias)[..., None])[..., 0]
        weight = weight @ _exact(layer.weight)
    return (weight + direct if adaptor.residual else weight), bias


def _member_wise(units: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias[:, None], units, weight.transpose(1, 2))


def anomalous_features(adapted: Tensor, noise: Tensor, *, kind: str = "gaussian") -> Tensor:
    """Add noise to adapted features, which makes them anomalous.

    The noise comes after the adaptor, as published; before it, σ would depend on the backbone's scale.

    Args:
        adapted: (…, N, D).
        noise: the same, or (…, N, 1) of "differences".
        kind: one of NOISES. "scaled" noise is in units of each channel's deviation over the N features; "differences"
            in units of those of other features of the N, brought to a mean square of 1 over all of them.
    """
    # Detached: else the adaptor would learn to shrink the noise instead of telling it apart.
    if kind == "scaled":
        noise = noise * adapted.detach().std(dim=-2, keepdim=True)
    elif kind == "differences":
        noise = noise * _differences(adapted.detach())
    return adapted + noise


def _differences(values: Tensor) -> Tensor:
    """For each of (…, N, D), drawn at random, the difference of the two before it, of a mean square of 1 over all."""
    differences = values.roll(1, dims=-2) - values.roll(2, dims=-2)
    spread = differences.square().mean(dim=(-2, -1), keepdim=True).sqrt()
    return differences / spread.clamp(min=torch.finfo(spread.dtype).tiny)


def truncated_l1_loss(
    normal: Tensor, anomalous: Tensor, margin: float, changed: Tensor | None = None
) -> Tensor:
    """Push outputs of normal features above `margin` and those of anomalous ones below −margin; beyond costs
    nothing.

    Args:
        normal, anomalous: (…, N) outputs of the discriminator, higher is more normal.
        changed: (…, N) bool, which of `anomalous` count; default all.
    Returns:
        (…), at least 0: the mean over N.
    Source: SimpleNet, equation 9.
    """
    below, above = (margin - normal).clamp(min=0), (margin + anomalous).clamp(min=0)
    return below.mean(dim=-1) + _mean_where(above, changed)


def cross_entropy_loss(normal: Tensor, anomalous: Tensor, changed: Tensor | None = None) -> Tensor:
    """Take outputs as the logit of being normal.

    Args:
        normal, anomalous, changed: as for `truncated_l1_loss`.
    Returns:
        (…), at least 0: the mean over N, both kinds summed.
    Source: SimpleNet, the loss that table 6 compares with.
    """
    return F.softplus(-normal).mean(dim=-1) + _mean_where(F.softplus(anomalous), changed)


def _mean_where(values: Tensor, chosen: Tensor | None) -> Tensor:
    if chosen is None:
        return values.mean(dim=-1)
    return (values * chosen).sum(dim=-1) / chosen.sum(dim=-1).clamp(min=1)


def _exact(values: Tensor) -> Tensor:
    """Give values in double precision on the CPU: some devices have none, and folding must not cost digits."""
    return values.detach().to("cpu").double()
