"""Training of a SimpleNet on features computed once.

- The backbone is frozen and pictures are not augmented, so features come in as a tensor and no picture is
  touched.
- Each step draws patches across the whole data set, not from a few pictures: its batch norm sees all of it.
- Everything random comes from the configuration's seed; torch's global generator is left alone.
"""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from engine.config import SimpleNetConfig
from engine.errors import ShapeMismatch, TrainingDiverged
from engine.noise import draw_noise, draw_patches, square_side
from engine.simplenet import SimpleNet, cross_entropy_loss, truncated_l1_loss

FEATURES = "the features"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What training tells after each epoch."""

    index: int  # from 1
    epochs: int
    loss: float  # mean over the epoch's steps
    model: SimpleNet  # scores as training stands; valid until the callback returns


def train(
    features: Tensor,
    config: SimpleNetConfig,
    *,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> SimpleNet:
    """Fit adaptor and discriminator to patch features of normal pictures.

    Args:
        features: (N, h, w, D) of any float type; it stays where it is, and batches of it move to `device`.
        config: equal configurations give equal weights on one device.
        on_epoch: called after each epoch; what it raises ends the training and passes through.
    Returns:
        The model of the last epoch, in eval mode, on `device`.
    Raises:
        ShapeMismatch: features are not four-dimensional, or there are none.
        TrainingDiverged: a number is not finite; says in which step and layer.
    """
    if features.ndim != 4 or features.numel() == 0:
        raise ShapeMismatch(
            f"Training features are of shape {tuple(features.shape)}; they must be (N, h, w, D), none of it "
            "0. "
            "Give the features of at least one picture."
        )
    rows = features.reshape(-1, features.shape[-1])
    model = SimpleNet(config, rows.shape[1]).to(device)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizers = make_optimizers(model)
    steps = config.epochs * config.steps_per_epoch
    grid = features.shape[:3]
    draw = torch.Generator(features.device).manual_seed(config.seed)
    noise_draw = torch.Generator(device).manual_seed(config.seed + 1)
    step = 0
    for index in range(1, config.epochs + 1):
        losses = torch.zeros((), device=device)
        for _ in range(config.steps_per_epoch):
            set_learning_rates(optimizers, config, step / steps)
            batch = rows[draw_patches(grid, config, draw)].to(device, torch.float32)
            noise = draw_noise(batch.shape, config, noise_draw, side=square_side(grid))
            loss = training_step(model, optimizers, batch, noise)
            step += 1
            if not torch.isfinite(loss):
                raise diverged(config, step, steps, where_not_finite(model, batch, noise))
            losses += loss
            _follow(average, model, config.average_decay, step)
        # A loss tells of the weights before its step, and nothing of the statistics that only scores use.
        bad = _tensors_not_finite(model)
        if bad:
            raise diverged(config, step, steps, bad[0])
        mean_loss = float(losses) / config.steps_per_epoch
        logger.debug("epoch", extra={"epoch": index, "loss": mean_loss})
        if on_epoch is not None:
            on_epoch(Epoch(index=index, epochs=config.epochs, loss=mean_loss, model=average))
    return average


def make_optimizers(model: SimpleNet) -> list[Optimizer]:
    """Make the published pair: Adam for the discriminator and, when there is an adaptor, AdamW for it."""
    config = model.config
    # The fused step is the same arithmetic in one pass over the weights.
    fused = model.discriminator.tail.device.type in ("cpu", "cuda")
    discriminator = Adam(
        model.discriminator.parameters(),
        lr=config.discriminator_lr,
        weight_decay=config.weight_decay,
        fused=fused,
    )
    if config.adaptor_depth == 0:
        return [discriminator]
    adaptor = AdamW(
        model.adaptor.parameters(),
        lr=config.adaptor_lr,
        weight_decay=config.adaptor_weight_decay,
        fused=fused,
    )
    return [discriminator, adaptor]


def set_learning_rates(optimizers: list[Optimizer], config: SimpleNetConfig, progress: float) -> None:
    """Set the rates for a point of the training: a cosine from 1 to `final_lr` times the configured ones.

    Args:
        progress: 0 (first step) to 1.
    """
    factor = config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * progress)) / 2
    for optimizer, rate in zip(optimizers, (config.discriminator_lr, config.adaptor_lr), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor


def training_step(model: SimpleNet, optimizers: list[Optimizer], features: Tensor, noise: Tensor) -> Tensor:
    """Take one step.

    Args:
        features: (members, N, D) float32.
        noise: as `engine.noise.draw_noise` gives it.
    Returns:
        scalar, the mean loss of the members before the step, detached; where it is not finite no step was taken.
    """
    model.train()
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    normal, anomalous = model(features, noise)
    # Where smooth noise left a patch as it was, it is no anomaly.
    changed = noise.any(dim=-1) if model.config.noise == "low_frequency" else None
    if model.config.loss == "cross_entropy":
        losses = cross_entropy_loss(normal, anomalous, changed)
    else:
        losses = truncated_l1_loss(normal, anomalous, model.config.margin, changed)
    if not losses.isfinite().all():
        return losses.detach().mean()  # a step would carry it into every weight
    # The sum, not the mean: each member's gradient is what it would be alone.
    losses.sum().backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        optimizer.step()
    return losses.detach().mean()


def diverged(config: SimpleNetConfig, step: int, steps: int, where: str) -> TrainingDiverged:
    """Say in which step, from 1, which numbers stopped being finite, and what to do."""
    remedy = (
        "Check the backbone's weights and compute the features anew."
        if where == FEATURES
        else f"Lower adaptor_lr ({config.adaptor_lr:g}), discriminator_lr ({config.discriminator_lr:g}) or "
        f"noise_std ({config.noise_std:g}); if that does not help, check that the features are not huge."
    )
    return TrainingDiverged(
        f"Training left the finite numbers in step {step} of {steps}: {where} hold NaN or Inf. {remedy}"
    )


@torch.no_grad()
def where_not_finite(model: SimpleNet, features: Tensor, noise: Tensor) -> str:
    """Name what holds the first number that is not finite: the features, a layer's weights, a layer's outputs.

    Args:
        features, noise: of a step for which no update was made.
    """
    where = [] if torch.isfinite(features).all() else [FEATURES]
    where += _tensors_not_finite(model)
    for name, layer in model.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(
                lambda _layer, _inputs, output, name=name: (
                    None if output.isfinite().all() else where.append(f"the outputs of layer {name}")
                )
            )
    model(features, noise)
    return (where or ["the losses"])[0]


def _tensors_not_finite(model: SimpleNet) -> list[str]:
    tensors = model.state_dict().items()
    return [f"the weights {name}" for name, values in tensors if not values.isfinite().all()]


@torch.no_grad()
def _follow(average: SimpleNet, model: SimpleNet, decay: float, step: int) -> None:
    """Move the averaged weights, batch statistics included, towards the current ones."""
    # The ramp forgets the random start, which a constant decay would keep for its first 1 / (1 - decay)
    # steps.
    decay = min(decay, step / (10 + step))
    theirs = model.state_dict()
    for name, values in average.state_dict().items():
        if values.is_floating_point():
            values.lerp_(theirs[name], 1 - decay)
        else:
            values.copy_(theirs[name])
