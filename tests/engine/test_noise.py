"""What makes features anomalous, and which patches a step takes."""

from collections.abc import Callable

import pytest
import torch

from engine.config import NOISES, SimpleNetConfig
from engine.noise import draw_noise, draw_patches, square_side
from engine.simplenet import cross_entropy_loss, truncated_l1_loss
from engine.training import train

CPU = torch.device("cpu")
MakeConfig = Callable[..., SimpleNetConfig]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_mixed_noise_spans_a_quarter_to_four_times_sigma(make_config: MakeConfig) -> None:
    config = make_config(noise="mixed", noise_std=0.1)
    noise = draw_noise(torch.Size((2, 2000, 64)), config, seeded())
    deviations = noise.std(dim=-1)
    assert 0.015 < deviations.min() < 0.035
    assert 0.3 < deviations.max() < 0.6
    plain = draw_noise(torch.Size((2, 2000, 64)), make_config(noise_std=0.1), seeded())
    assert abs(float(plain.std()) - 0.1) < 0.001


def test_of_differences_the_strength_alone_is_drawn(make_config: MakeConfig) -> None:
    config, generator = make_config(noise="differences", noise_std=0.1), seeded()
    noise = draw_noise(torch.Size((2, 5, 64)), config, generator)
    assert torch.equal(noise, torch.full((2, 5, 1), 0.1))
    assert torch.equal(generator.get_state(), seeded().get_state())  # nothing is random but which patches


def test_smooth_noise_has_its_sigma_where_a_mask_leaves_it(make_config: MakeConfig) -> None:
    config = make_config(noise="low_frequency", noise_std=0.1)
    noise = draw_noise(torch.Size((1, 64 * 300, 32)), config, seeded(), side=8)
    changed = noise.any(dim=-1)
    assert 0.4 < changed.float().mean() < 0.6
    assert noise[changed].std() == pytest.approx(0.1, rel=0.03)
    squares = noise.reshape(300, 8, 8, 32)
    both = (squares[:, :, :-1].any(-1) & squares[:, :, 1:].any(-1))[..., None]
    neighbours = (squares[:, :, :-1] * squares[:, :, 1:] * both).sum() / (
        squares[:, :, :-1] ** 2 * both
    ).sum()
    assert neighbours > 0.6  # drawn apart it would be 0


@pytest.mark.parametrize("grid", [(5, 16, 12), (3, 4, 20), (1, 8, 8)])
def test_smooth_noise_takes_squares_of_neighbours(
    make_config: MakeConfig, grid: tuple[int, int, int]
) -> None:
    size = torch.Size(grid)
    side = square_side(size)
    chosen = draw_patches(size, make_config(noise="low_frequency", batch_patches=200, members=3), seeded())
    assert chosen.shape == (3, 64 * side**2)
    squares = chosen.reshape(-1, side, side)
    picture, row, column = torch.unravel_index(squares, grid)
    assert (picture == picture[:, :1, :1]).all()
    assert (row - row[:, :1, :1] == torch.arange(side)[:, None]).all()
    assert (column - column[:, :1, :1] == torch.arange(side)).all()


def test_patches_left_as_they_were_cost_nothing_as_anomalies() -> None:
    normal, anomalous = torch.tensor([[1.0, 1.0]]), torch.tensor([[9.0, -2.0]])
    changed = torch.tensor([[False, True]])
    assert truncated_l1_loss(normal, anomalous, 0.5, changed).item() == 0
    assert truncated_l1_loss(normal, anomalous, 0.5).item() == 9.5 / 2
    assert cross_entropy_loss(normal, anomalous, changed) < cross_entropy_loss(normal, anomalous)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("loss", ["truncated_l1", "cross_entropy"])
def test_every_noise_teaches_to_tell_far_features_from_near_ones(
    make_config: MakeConfig, noise: str, loss: str
) -> None:
    features = torch.randn(4, 8, 8, 16, generator=seeded()) * 0.1
    config = make_config(noise=noise, loss=loss, noise_std=1.0, epochs=4, steps_per_epoch=40, adaptor_depth=0)
    model = train(features, config, device=CPU)
    far = features + 3 * torch.randn(features.shape, generator=seeded())
    assert model.patch_scores(far).mean() > model.patch_scores(features).mean() + 0.3
