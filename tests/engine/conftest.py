"""Fixtures of the engine's tests: small random backbones, golden numbers, drawn pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from safetensors.torch import save_file

from engine.backbones.resolve import Backbone, resolve_backbone
from engine.config import SimpleNetConfig
from engine.features import FeatureExtractor

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A small timm model with random weights, in a file as they are shipped."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model("test_resnet", num_classes=0)
    file = tmp_path_factory.mktemp("weights") / "test_resnet.random.safetensors"
    save_file(net.state_dict(), file)
    return resolve_backbone("auto", file)


@pytest.fixture(scope="session")
def tiny_extractor(tiny_backbone: Backbone) -> FeatureExtractor:
    return FeatureExtractor(tiny_backbone, (1, 2, 3), CPU)


@pytest.fixture(scope="session")
def golden(shared: Path) -> dict[str, npt.NDArray[np.generic]]:
    """What the published code computes on small inputs."""
    with np.load(shared / "golden" / "simplenet_reference.npz") as file:
        return dict(file)


@pytest.fixture
def make_config() -> Callable[..., SimpleNetConfig]:
    """Configurations that train in a moment."""

    def make(**changes: object) -> SimpleNetConfig:
        values = {
            "backbone": "test_resnet",
            "height": 64,
            "width": 64,
            "discriminator_width": 32,
            "members": 2,
            "epochs": 2,
            "steps_per_epoch": 5,
            "batch_patches": 64,
        }
        return SimpleNetConfig.from_json({**values, **changes})

    return make


@pytest.fixture
def make_pictures() -> Callable[..., list[npt.NDArray[np.uint8]]]:
    """Grey textures of one kind, all different."""

    def make(count: int, *, size: tuple[int, int] = (64, 64), seed: int = 0) -> list[npt.NDArray[np.uint8]]:
        generator = np.random.default_rng(seed)
        rows = np.arange(size[0])[:, None, None]
        return [
            np.clip(120 + 30 * np.sin(rows / 3) + generator.normal(0, 8, (*size, 3)), 0, 255).astype(np.uint8)
            for _ in range(count)
        ]

    return make
