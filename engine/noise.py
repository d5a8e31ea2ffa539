"""What makes adapted features anomalous in training: the kinds of noise, and which patches a step takes.

The discriminator sees one patch at a time. Noise that is drawn for each patch apart can therefore be put on patches
from anywhere; smooth noise is drawn over squares of neighbouring patches, so that whole regions change alike.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.config import SimpleNetConfig

MIXED_RANGE = 4.0  # "mixed" noise spans σ / 4 to 4 σ
SQUARE = (
    4  # side, in patches, of the squares of "low_frequency" noise: batch norm needs many of them in a step
)
LEAST_SQUARES = 64  # in a step, whatever batch_patches says: with 4 or 16 a model stayed near chance
KNOTS = 2  # random values along such a side; between them the noise is interpolated


def draw_patches(grid: torch.Size, config: SimpleNetConfig, generator: torch.Generator) -> Tensor:
    """Draw the patches of a step, for each member its own.

    Args:
        grid: (pictures, h, w) of the training features.
        generator: on the device of the features.
    Returns:
        (members, N) indices into the flattened grid; N is `batch_patches`, for "low_frequency" noise as many whole
        squares of neighbours as fit in it, at least LEAST_SQUARES, row after row.
    """
    device, members = generator.device, config.members
    if config.noise != "low_frequency":
        shape = (members, config.batch_patches)
        return torch.randint(grid.numel(), shape, generator=generator, device=device)
    pictures, height, width = grid
    side = square_side(grid)
    count = (members, max(LEAST_SQUARES, config.batch_patches // side**2), 1)
    picture, top, left = (
        torch.randint(choices, count, generator=generator, device=device)
        for choices in (pictures, height - side + 1, width - side + 1)
    )
    steps = torch.arange(side, device=device)
    inside = (steps[:, None] * width + steps).flatten()  # from a square's first patch to each of its patches
    return ((picture * height + top) * width + left + inside).flatten(1)


def square_side(grid: torch.Size) -> int:
    """Side of the squares of neighbours that fit in (pictures, h, w), patches."""
    return min(SQUARE, grid[1], grid[2])


def draw_noise(
    shape: torch.Size, config: SimpleNetConfig, generator: torch.Generator, *, side: int = 1
) -> Tensor:
    """Draw what is added to adapted features, of the kind and σ configured.

    Args:
        shape: (members, N, D).
        side: of the squares that the patches come in, for "low_frequency" noise.
    Returns:
        `shape`, float32 on the generator's device. "scaled" noise is in units of the channels' deviations;
        "low_frequency" noise is zero where a square stays normal; of "differences" it is the strength alone,
        (members, N, 1), for the patches themselves say the rest.
    """
    if config.noise == "differences":
        return torch.full((*shape[:-1], 1), config.noise_std, device=generator.device)
    if config.noise == "low_frequency":
        return _smooth_noise(shape, side, generator) * config.noise_std
    noise = torch.randn(shape, generator=generator, device=generator.device) * config.noise_std
    if config.noise == "mixed":
        exponents = torch.rand(*shape[:-1], 1, generator=generator, device=generator.device) * 2 - 1
        noise *= MIXED_RANGE**exponents
    return noise


def _smooth_noise(shape: torch.Size, side: int, generator: torch.Generator) -> Tensor:
    """Unit Gaussian noise that changes slowly over each square, cut out by a mask as slow: about half of it is 0."""
    members, patches, dim = shape
    knots = torch.randn(
        members * patches // side**2, dim + 1, KNOTS, KNOTS, generator=generator, device=generator.device
    )
    field = F.interpolate(knots, size=(side, side), mode="bilinear", align_corners=True)
    # Between knots an interpolated value varies less; every position gets the deviation 1 back.
    weights = F.interpolate(
        torch.eye(KNOTS**2, device=knots.device).reshape(1, KNOTS**2, KNOTS, KNOTS),
        size=(side, side),
        mode="bilinear",
        align_corners=True,
    )
    field = field / weights.square().sum(1, keepdim=True).sqrt()
    masked = field[:, :dim] * (field[:, dim:] > 0)
    return masked.permute(0, 2, 3, 1).reshape(members, patches, dim)
