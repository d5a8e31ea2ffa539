"""The fast paths against SimpleNet written straight and slow: same weights and inputs, same outputs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.naive import Members, NaiveSimpleNet, published_config, shuffled
from engine.backbones.resolve import Backbone, resolve_backbone
from engine.config import SimpleNetConfig
from engine.features import FeatureExtractor, aggregate, extract, feature_count
from engine.images import RGB, decode
from engine.scoring import Detector
from engine.simplenet import SimpleNet
from engine.training import make_optimizers, train, training_step

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def drawnet() -> Backbone:
    return resolve_backbone("drawnet")


@pytest.fixture(scope="module")
def extractor(drawnet: Backbone) -> FeatureExtractor:
    return FeatureExtractor(drawnet, (1, 2, 3), CPU)


def configured(size: int = 64, **changes: object) -> SimpleNetConfig:
    values = {"height": size, "width": size, "discriminator_width": 24, "epochs": 2, "steps_per_epoch": 5}
    return SimpleNetConfig.from_json({**values, **changes})


def pictures(count: int = 3) -> list[RGB]:
    """Noise pictures, none of the network's size."""
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (70 + 9 * index, 120, 3), dtype=np.uint8) for index in range(count)]


def close(theirs: Tensor | np.ndarray, ours: Tensor | np.ndarray) -> None:
    """Differ by less than 1e-4 of the largest value, at every place."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4 * np.abs(ours).max())


CASES = pytest.mark.parametrize(
    ("size", "layers", "feature_dim", "members"),
    [
        (size, layers, feature_dim, members)
        for size in (64, 96)
        for layers in ((2, 3), (1, 2, 3))
        for feature_dim in (None, 48)
        for members in (1, 3)
    ],
)


@CASES
def test_features_scores_and_maps_are_equal(
    drawnet: Backbone,
    extractor: FeatureExtractor,
    size: int,
    layers: tuple[int, ...],
    feature_dim: int | None,
    members: int,
) -> None:
    config = configured(size, layers=layers, feature_dim=feature_dim, members=members)
    images = pictures()
    features = aggregate(extract(extractor, images, size, size), layers, config.patch_size, feature_dim)
    model = train(features, config, device=CPU)
    naive = NaiveSimpleNet(drawnet, model, CPU)
    close(naive.features(images), features)

    detector = Detector(extractor, model, config)
    patch_scores = detector.patch_scores(images)
    assert patch_scores.std() > 0.01  # scores that are all alike would be equal whatever was computed
    close(naive.members.patch_scores(features), patch_scores)
    for theirs, ours in zip(naive.score(images), detector.score(images), strict=True):
        assert theirs.score == pytest.approx(ours.score, rel=1e-4, abs=1e-5)
        assert ours.anomaly_map.shape == theirs.anomaly_map.shape
        close(theirs.anomaly_map, ours.anomaly_map)


@pytest.mark.parametrize("keep_features", [False, True])
def test_copies_of_features_change_no_score(
    drawnet: Backbone, extractor: FeatureExtractor, keep_features: bool
) -> None:
    config = configured(smoothing_std=0, top_patches=1)
    model = SimpleNet(config, feature_count(extractor.channels, config.layers))
    naive = NaiveSimpleNet(drawnet, model, CPU, keep_features=keep_features)
    ours = Detector(extractor, model, config).score(pictures())
    for one, other in zip(naive.score(pictures()), ours, strict=True):
        close(one.anomaly_map, other.anomaly_map)
        assert one.score == pytest.approx(other.score, rel=1e-4)


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("members", [1, 3])
def test_steps_are_equal(depth: int, members: int) -> None:
    config = configured(members=members, adaptor_depth=depth)
    draw = torch.Generator().manual_seed(0)
    model = SimpleNet(config, 48)
    naive = Members(model)
    optimizers = make_optimizers(model)
    for _ in range(3):
        features = torch.randn(members, 200, 48, generator=draw)
        noise = torch.randn(members, 200, 48, generator=draw) * 0.3
        loss = training_step(model, optimizers, features, noise)
        losses = [member.step(features[index], noise[index]) for index, member in enumerate(naive.list)]
        assert np.mean(losses) == pytest.approx(loss.item(), rel=1e-5)
    for member, expected in zip(naive.list, Members(model).list, strict=True):
        assert len(member.optimizers) == len(optimizers)
        theirs, ours = (dict(one.named_parameters()) for one in (member, expected))
        for name, values in ours.items():
            # Batch norm takes away what a bias before it adds; Adam makes steps of the rounding that is left.
            if name == "discriminator.0.bias" or (name.startswith("adaptor.") and name.endswith("bias")):
                continue
            # A hundredth of a step.
            torch.testing.assert_close(theirs[name], values, rtol=0, atol=0.01 * config.adaptor_lr)


def test_published_training_needs_its_backbone_once(
    drawnet: Backbone, extractor: FeatureExtractor, make_folder: Callable[..., Path]
) -> None:
    """From pictures run through the backbone in every epoch, and from features computed once: the same training."""
    folder = make_folder(train=12, test_normal=2, defects={"square": 2})
    paths = sorted((folder / "train" / "good").iterdir())
    test = sorted((folder / "test").rglob("*.png"))
    config = published_config(height=64, width=64, discriminator_width=24)
    model = SimpleNet(config, feature_count(extractor.channels, config.layers))
    epochs = list(NaiveSimpleNet(drawnet, model, CPU).train(paths, test, 2))

    def cached(files: list[Path]) -> Tensor:
        images = [decode(path.read_bytes(), path.name) for path in files]
        return aggregate(extract(extractor, images, 64, 64), config.layers)

    features, members = cached(paths), Members(model)
    order = torch.Generator().manual_seed(config.seed)
    for epoch in epochs:
        loss = members.epoch(features[chosen] for chosen in shuffled(len(paths), order))
        assert epoch.loss == pytest.approx(loss, rel=1e-4)
        scores = members.image_scores(members.patch_scores(cached(test)))
        assert epoch.scores == pytest.approx(scores, rel=1e-2, abs=1e-3)
        assert epoch.training_seconds > 0
        assert epoch.scoring_seconds > 0
    assert epochs[1].loss < epochs[0].loss


def test_published_settings_are_the_papers() -> None:
    config = published_config(layers=[2, 3])
    assert (config.members, config.discriminator_width, config.epochs, config.top_patches) == (
        1,
        1024,
        160,
        1,
    )
    assert (config.adaptor_lr, config.discriminator_lr, config.weight_decay) == (1e-4, 2e-4, 1e-5)
    assert (config.final_lr, config.average_decay, config.margin, config.noise_std) == (1, 0, 0.5, 0.015)


def test_every_picture_counts_once_an_epoch() -> None:
    batches = list(shuffled(19, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [8, 8, 3]
    order = [picture for batch in batches for picture in batch]
    assert sorted(order) == list(range(19))
    assert order != sorted(order)
