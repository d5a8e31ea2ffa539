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
from engine.simplenet import SimpleNet, cross_entropy_loss, truncated_l1_loss

MIXED_RANGE = 4.0  # "mixed" noise spans σ / 4 to 4 σ

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
        TrainingDiverged: the loss is not finite.
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
    shape = (config.members, config.batch_patches)
    draw = torch.Generator(features.device).manual_seed(config.seed)
    noise_draw = torch.Generator(device).manual_seed(config.seed + 1)
    step = 0
    for index in range(1, config.epochs + 1):
        losses = torch.zeros((), device=device)
        for _ in range(config.steps_per_epoch):
            set_learning_rates(optimizers, config, step / steps)
            chosen = torch.randint(len(rows), shape, generator=draw, device=features.device)
            batch = rows[chosen].to(device, torch.float32)
            noise = draw_noise(batch.shape, config, noise_draw)
            losses += training_step(model, optimizers, batch, noise)
            step += 1
            _follow(average, model, config.average_decay, step)
        loss = float(losses) / config.steps_per_epoch
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"The loss is {loss} in epoch {index} of {config.epochs}; it must stay finite. "
                f"Lower adaptor_lr ({config.adaptor_lr:g}) and discriminator_lr "
                f"({config.discriminator_lr:g}), "
                "and check that the features are finite."
            )
        logger.debug("epoch", extra={"epoch": index, "loss": loss})
        if on_epoch is not None:
            on_epoch(Epoch(index=index, epochs=config.epochs, loss=loss, model=average))
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
        features, noise: (members, N, D) float32.
    Returns:
        scalar, the mean loss of the members before the step, detached.
    """
    model.train()
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    normal, anomalous = model(features, noise)
    if model.config.loss == "cross_entropy":
        losses = cross_entropy_loss(normal, anomalous)
    else:
        losses = truncated_l1_loss(normal, anomalous, model.config.margin)
    # The sum, not the mean: each member's gradient is what it would be alone.
    losses.sum().backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        optimizer.step()
    return losses.detach().mean()


def draw_noise(shape: torch.Size, config: SimpleNetConfig, generator: torch.Generator) -> Tensor:
    """Draw what is added to adapted features, of the kind and σ configured.

    Args:
        shape: (members, N, D).
    Returns:
        `shape`, float32 on the generator's device; "scaled" noise is in units of the channels' deviations.
    """
    noise = torch.randn(shape, generator=generator, device=generator.device) * config.noise_std
    if config.noise == "mixed":
        exponents = torch.rand(*shape[:-1], 1, generator=generator, device=generator.device) * 2 - 1
        noise *= MIXED_RANGE**exponents
    return noise


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
