import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.backbones.resolve import resolve_backbone
from engine.config import SimpleNetConfig
from engine.errors import ShapeMismatch, TrainingDiverged
from engine.features import FeatureExtractor, aggregate, extract
from engine.images import decode
from engine.scoring import Detector
from engine.simplenet import SimpleNet
from engine.training import Epoch, make_optimizers, set_learning_rates, train, training_step, where_not_finite

CPU = torch.device("cpu")
MakeConfig = Callable[..., SimpleNetConfig]
MakePictures = Callable[..., list[np.ndarray]]


def random_features(seed: int = 0) -> Tensor:
    return torch.randn(4, 8, 8, 16, generator=torch.Generator().manual_seed(seed))


def weights(model: SimpleNet) -> dict[str, Tensor]:
    return {name: values.clone() for name, values in model.state_dict().items()}


def test_loss_falls_on_four_images(
    make_config: MakeConfig, make_pictures: MakePictures, tiny_extractor: FeatureExtractor
) -> None:
    config = make_config(epochs=5, steps_per_epoch=40)
    maps = extract(tiny_extractor, make_pictures(4), 64, 64)
    losses: list[float] = []
    train(
        aggregate(maps, config.layers), config, device=CPU, on_epoch=lambda epoch: losses.append(epoch.loss)
    )
    assert losses[-1] < 0.9 * losses[0]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_same_seed_gives_the_same_weights(make_config: MakeConfig, decay: float) -> None:
    config = make_config(average_decay=decay, seed=11)
    first = train(random_features(), config, device=CPU)
    torch.randn(100)  # whatever else draws from the global generator
    again = train(random_features(), config, device=CPU)
    other = train(random_features(), make_config(average_decay=decay, seed=12), device=CPU)
    assert all(torch.equal(values, weights(again)[name]) for name, values in weights(first).items())
    name = "adaptor.0.weight"
    assert not torch.equal(weights(first)[name], weights(other)[name])


def test_half_precision_features_train_alike(make_config: MakeConfig) -> None:
    config = make_config()
    halves = random_features().half()
    full = train(halves.float(), config, device=CPU)
    half = train(halves, config, device=CPU)
    assert all(torch.equal(values, weights(half)[name]) for name, values in weights(full).items())


def test_without_averaging_the_last_weights_are_returned(make_config: MakeConfig) -> None:
    moments: list[dict[str, Tensor]] = []
    config = make_config(epochs=3, average_decay=0.0)
    model = train(random_features(), config, device=CPU, on_epoch=lambda e: moments.append(weights(e.model)))
    assert len(moments) == 3
    assert all(torch.equal(values, moments[-1][name]) for name, values in weights(model).items())


def test_averaged_weights_lag_behind_the_last_ones(make_config: MakeConfig) -> None:
    start = weights(SimpleNet(make_config(), 16))["discriminator.tail"]

    def way(decay: float) -> float:
        model = train(random_features(), make_config(average_decay=decay), device=CPU)
        return float((weights(model)["discriminator.tail"] - start).norm())

    assert 0 < way(0.9) < way(0.0)


def test_epochs_are_told_in_order_with_a_model_that_scores(make_config: MakeConfig) -> None:
    told: list[Epoch] = []

    def listen(epoch: Epoch) -> None:
        assert epoch.model.patch_scores(random_features()).shape == (4, 8, 8)
        told.append(epoch)

    train(random_features(), make_config(epochs=3), device=CPU, on_epoch=listen)
    assert [(epoch.index, epoch.epochs) for epoch in told] == [(1, 3), (2, 3), (3, 3)]


def test_listening_does_not_change_the_outcome(make_config: MakeConfig) -> None:
    alone = train(random_features(), make_config(), device=CPU)
    heard = train(
        random_features(),
        make_config(),
        device=CPU,
        on_epoch=lambda e: e.model.patch_scores(random_features()),
    )
    assert all(torch.equal(values, weights(heard)[name]) for name, values in weights(alone).items())


def test_error_of_the_listener_ends_the_training(make_config: MakeConfig) -> None:
    class Stop(Exception):
        pass

    told: list[int] = []

    def stop(epoch: Epoch) -> None:
        told.append(epoch.index)
        raise Stop

    with pytest.raises(Stop):
        train(random_features(), make_config(epochs=5), device=CPU, on_epoch=stop)
    assert told == [1]


def test_features_that_are_not_finite_stop_training_at_once(make_config: MakeConfig) -> None:
    features = random_features()
    features[0, 0, 0, 0] = float("inf")
    with pytest.raises(TrainingDiverged, match=r"step 1 of 10: the features hold.*compute the features anew"):
        train(features, make_config(batch_patches=512), device=CPU)


def test_step_too_large_is_named_with_its_layer_and_the_rates(make_config: MakeConfig) -> None:
    config = make_config(discriminator_lr=1e38, adaptor_lr=1e38, adaptor_depth=2)
    with pytest.raises(
        TrainingDiverged, match=r"step [2-9] of 10: .*(adaptor|discriminator)\.\S+ hold.*Lower adaptor_lr"
    ):
        train(random_features(), config, device=CPU)


@pytest.mark.parametrize(
    ("parameter", "named"),
    [("adaptor.1.weight", "weights adaptor.1.weight"), ("discriminator.tail", "weights discr")],
)
def test_step_that_is_not_finite_changes_no_weight_and_names_the_first_bad_ones(
    make_config: MakeConfig, parameter: str, named: str
) -> None:
    config = make_config(adaptor_depth=2)
    model = SimpleNet(config, 16)
    model.get_parameter(parameter).data.flatten()[0] = float("nan")
    before = weights(model)
    features = torch.randn(config.members, 8, 16)
    loss = training_step(model, make_optimizers(model), features, torch.randn(features.shape))
    assert not torch.isfinite(loss)
    after = {
        name: values for name, values in weights(model).items() if "running" not in name and "num" not in name
    }
    for name, values in after.items():
        torch.testing.assert_close(values, before[name], rtol=0, atol=0, equal_nan=True)
    assert where_not_finite(model, features, features).startswith(f"the {named}")


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_weights_and_statistics_after_the_last_step_are_looked_at_too(
    make_config: MakeConfig, rate: float
) -> None:
    config = make_config(epochs=1, steps_per_epoch=1, discriminator_lr=rate, adaptor_lr=rate)
    model = None
    with contextlib.suppress(TrainingDiverged):
        model = train(random_features(), config, device=CPU)
    assert model is None or all(values.isfinite().all() for values in model.state_dict().values())
    with pytest.raises(TrainingDiverged, match=r"step 5 of 10: the weights discriminator\.norm\.running_var"):
        train(random_features() * 1e25, make_config(), device=CPU)


@pytest.mark.parametrize("shape", [(4, 8, 16), (0, 8, 8, 16), (4, 0, 8, 16)])
def test_features_without_patches_are_refused(make_config: MakeConfig, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatch, match="at least one picture"):
        train(torch.zeros(shape), make_config(), device=CPU)


def test_rates_fall_along_a_cosine() -> None:
    config = SimpleNetConfig(discriminator_width=4, adaptor_lr=1e-3, discriminator_lr=2e-3, final_lr=0.1)
    optimizers = make_optimizers(SimpleNet(config, 4))

    def rates(progress: float) -> list[float]:
        set_learning_rates(optimizers, config, progress)
        return [optimizer.param_groups[0]["lr"] for optimizer in optimizers]

    assert rates(0) == pytest.approx([2e-3, 1e-3])
    assert rates(0.5) == pytest.approx([1.1e-3, 0.55e-3])
    assert rates(1) == pytest.approx([2e-4, 1e-4])


def test_constant_rates_stay_as_published() -> None:
    config = SimpleNetConfig(discriminator_width=4, adaptor_lr=1e-4, discriminator_lr=2e-4, final_lr=1.0)
    optimizers = make_optimizers(SimpleNet(config, 4))
    set_learning_rates(optimizers, config, 0.7)
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == [2e-4, 1e-4]


def test_training_touches_nothing_but_its_own_features(
    make_config: MakeConfig, make_pictures: MakePictures, tiny_extractor: FeatureExtractor
) -> None:
    """Features of test pictures that lie in the same tensor, outside the rows given, change nothing."""
    config = make_config()
    everything = aggregate(extract(tiny_extractor, make_pictures(6), 64, 64), config.layers)
    spoiled = everything.clone()
    spoiled[4:] = float("nan")
    clean = train(everything[:4], config, device=CPU)
    other = train(spoiled[:4], config, device=CPU)
    assert all(torch.equal(values, weights(other)[name]) for name, values in weights(clean).items())


@pytest.mark.gpu
def test_training_on_cuda_is_reproducible(make_config: MakeConfig) -> None:
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    cuda = torch.device("cuda")
    first = train(random_features().to(cuda), make_config(), device=cuda)
    again = train(random_features().to(cuda), make_config(), device=cuda)
    assert all(torch.equal(values, weights(again)[name]) for name, values in weights(first).items())


def test_planted_square_raises_the_map_at_the_square(magnetic_tile: Path, resnet18_weights: Path) -> None:
    config = SimpleNetConfig(members=4, epochs=5)
    extractor = FeatureExtractor(resolve_backbone("auto", resnet18_weights), config.layers, CPU)
    files = sorted((magnetic_tile / "train" / "good").iterdir())[:9]
    *normal, clean = [decode(file.read_bytes(), file.name) for file in files]
    features = aggregate(extract(extractor, normal, 256, 256), config.layers)
    detector = Detector(extractor, train(features, config, device=CPU), config)
    spoiled = clean.copy()
    rows, columns = slice(60, 100), slice(120, 160)
    spoiled[rows, columns] = 255 - spoiled[rows, columns]
    before, after = detector.score([clean, spoiled])
    rise = after.anomaly_map - before.anomaly_map
    row, column = np.unravel_index(rise.argmax(), rise.shape)
    reach = 3 * 8 * max(clean.shape[:2]) / 256 / 2  # half a patch of three positions at stride 8
    assert rows.start - reach <= row < rows.stop + reach
    assert columns.start - reach <= column < columns.stop + reach
    assert after.score > before.score
    assert rise[rows, columns].mean() > 5 * abs(rise[150:]).mean()


@pytest.mark.parametrize(
    "knobs",
    [{"loss": "cross_entropy"}, {"noise": "scaled"}, {"noise": "mixed"}, {"noise": "low_frequency"},
     {"noise": "differences"},
     {"adaptor_activation": "leaky_relu"}, {"adaptor_residual": True}, {"discriminator_depth": 3}],
    ids=lambda knobs: "-".join(map(str, *knobs.items())),
)  # fmt: skip
def test_every_knob_trains_reproducibly(make_config: MakeConfig, knobs: dict[str, Any]) -> None:
    config = make_config(epochs=6, noise_std=0.3, **knobs)
    features = torch.randn(6, 8, 8, 12, generator=torch.Generator().manual_seed(0))
    losses: list[float] = []
    model = train(features, config, device=CPU, on_epoch=lambda epoch: losses.append(epoch.loss))
    assert losses[-1] < losses[0]
    again = train(features, config, device=CPU)
    torch.testing.assert_close(model.state_dict(), again.state_dict(), rtol=0, atol=0)
