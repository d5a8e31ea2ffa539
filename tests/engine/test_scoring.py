from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from engine.backbones.resolve import resolve_backbone
from engine.config import SimpleNetConfig
from engine.devices import resolve_precision
from engine.errors import ShapeMismatch
from engine.features import FeatureExtractor, aggregate, extract
from engine.images import decode, decode_mask
from engine.metrics import image_auroc, pixel_auroc
from engine.scoring import Detector, anomaly_maps, image_scores
from engine.simplenet import SimpleNet
from engine.training import train

CPU = torch.device("cpu")


def test_map_and_image_score_match_published_code(golden: dict[str, np.ndarray]) -> None:
    patch_scores = torch.from_numpy(golden["map/patch_scores"])
    expected = golden["map/expected"]
    maps = anomaly_maps(patch_scores, *expected.shape[1:], 4.0)
    np.testing.assert_allclose(maps.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(image_scores(patch_scores).numpy(), golden["map/image_score"], rtol=1e-6)


def upsampled_then_blurred(patch_scores: torch.Tensor, size: tuple[int, int], std: float) -> np.ndarray:
    """The slow path: one picture at a time, at full size."""
    large = F.interpolate(patch_scores[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return np.stack([ndimage.gaussian_filter(values, std) if std else values for values in large.numpy()])


@pytest.mark.parametrize("std", [0.0, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("size", [(32, 48), (256, 200)])
def test_map_by_matrices_equals_upsampling_and_blurring(size: tuple[int, int], std: float) -> None:
    patch_scores = torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(0))
    fast = anomaly_maps(patch_scores, *size, std).numpy()
    np.testing.assert_allclose(fast, upsampled_then_blurred(patch_scores, size, std), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("picture", [(300, 500), (100, 90), (256, 256)])
def test_map_in_the_pictures_own_pixels_is_the_map_resized(picture: tuple[int, int]) -> None:
    patch_scores = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = anomaly_maps(patch_scores, 256, 256, 4.0)
    resized = F.interpolate(maps[:, None], size=picture, mode="bilinear", align_corners=False)[:, 0]
    own = anomaly_maps(patch_scores, 256, 256, 4.0, picture_size=picture)
    np.testing.assert_allclose(own.numpy(), resized.numpy(), rtol=1e-4, atol=1e-5)


def test_flat_scores_give_a_flat_map() -> None:
    maps = anomaly_maps(torch.full((1, 8, 8), 3.0), 64, 64, 4.0, picture_size=(100, 70))
    np.testing.assert_allclose(maps.numpy(), 3.0, rtol=1e-5)


def test_image_score_is_the_mean_of_the_top_patches() -> None:
    patch_scores = torch.tensor([[[1.0, 5.0], [3.0, -2.0]], [[0.0, 0.0], [0.0, 8.0]]])
    assert image_scores(patch_scores, 1).tolist() == [5.0, 8.0]
    assert image_scores(patch_scores, 2).tolist() == [4.0, 4.0]
    assert image_scores(patch_scores, 99).tolist() == [1.75, 2.0]


@pytest.mark.parametrize("shape", [(4, 4), (1, 0, 4), (1, 4, 0)])
def test_empty_scores_are_refused(shape: tuple[int, ...]) -> None:
    for reduce in (image_scores, lambda scores: anomaly_maps(scores, 8, 8, 4.0)):
        with pytest.raises(ShapeMismatch, match="at least one patch"):
            reduce(torch.zeros(shape))


@pytest.fixture
def detector(
    tiny_extractor: FeatureExtractor,
    make_config: Callable[..., SimpleNetConfig],
    make_pictures: Callable[..., list[np.ndarray]],
) -> Detector:
    config = make_config()
    features = aggregate(extract(tiny_extractor, make_pictures(4), 64, 64), config.layers)
    return Detector(tiny_extractor, train(features, config, device=CPU), config)


def test_map_has_the_pictures_own_size(
    detector: Detector, make_pictures: Callable[..., list[np.ndarray]]
) -> None:
    pictures = [make_pictures(1, size=size)[0] for size in ((64, 64), (40, 90), (200, 33))]
    scored = detector.score(pictures)
    assert [one.anomaly_map.shape for one in scored] == [(64, 64), (40, 90), (200, 33)]
    assert all(one.anomaly_map.dtype == np.float32 for one in scored)


def test_batched_equals_one_by_one(
    detector: Detector, make_pictures: Callable[..., list[np.ndarray]]
) -> None:
    pictures = make_pictures(11, seed=2)
    together = detector.score(pictures)
    for picture, one in zip(pictures, together, strict=True):
        alone = detector.score([picture])[0]
        assert alone.score == pytest.approx(one.score, rel=1e-4, abs=1e-5)
        np.testing.assert_allclose(alone.anomaly_map, one.anomaly_map, rtol=1e-3, atol=1e-5)


def test_nothing_to_score_gives_nothing(detector: Detector) -> None:
    assert detector.score([]) == []


def test_extractor_that_does_not_fit_the_model_is_refused(
    tiny_extractor: FeatureExtractor, make_config: Callable[..., SimpleNetConfig]
) -> None:
    config = make_config()
    with pytest.raises(ShapeMismatch, match=r"features of length 240.*takes 12"):
        Detector(tiny_extractor, SimpleNet(config, 12), config)
    deep = make_config(layers=[2, 4])
    with pytest.raises(ShapeMismatch, match=r"Stages \[1, 2, 3\]"):
        Detector(tiny_extractor, SimpleNet(deep, 144), deep)


def test_figures_of_merit_do_not_move_in_bf16(magnetic_tile: Path, resnet18_weights: Path) -> None:
    """A model trained on fp32 features judges bf16 features alike."""
    backbone = resolve_backbone("auto", resnet18_weights)
    config = SimpleNetConfig(members=8, epochs=3)
    size = (config.height, config.width)

    def read(folder: Path, count: int) -> list[np.ndarray]:
        return [decode(path.read_bytes(), path.name) for path in sorted(folder.iterdir())[:count]]

    normal = read(magnetic_tile / "train" / "good", 24)
    pictures = [*read(magnetic_tile / "test" / "good", 16)]
    masks = [np.zeros(picture.shape[:2], dtype=bool) for picture in pictures]
    for defect in ("blowhole", "break", "uneven"):
        pictures += read(magnetic_tile / "test" / defect, 8)
        files = sorted((magnetic_tile / "ground_truth" / defect).iterdir())[:8]
        masks += [decode_mask(path.read_bytes(), path.name) for path in files]
    labels = [mask.any() for mask in masks]
    model = None
    figures = {}
    for name in ("fp32", "bf16"):
        extractor = FeatureExtractor(backbone, config.layers, CPU, resolve_precision(name, CPU))
        if model is None:
            features = aggregate(extract(extractor, normal, *size), config.layers)
            model = train(features, config, device=CPU)
        scored = Detector(extractor, model, config).score(pictures)
        maps = [one.anomaly_map for one in scored]
        figures[name] = (image_auroc([one.score for one in scored], labels), pixel_auroc(maps, masks))
    assert figures["fp32"][0] > 0.6  # a figure at chance would not move either
    # Of 384 pairs of pictures each weighs 0.0026; `benchmarks.precision` measures the whole set.
    assert figures["bf16"] == pytest.approx(figures["fp32"], abs=0.02)
