"""Fixtures that every folder of tests uses."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test data and weights beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"test data folder {SHARED.name}/ is not beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def resnet18_weights(shared: Path) -> Path:
    """ImageNet weights of resnet18 (stem to layer3) in timm's key names."""
    return shared / "weights" / "resnet18.tv_in1k.safetensors"


@pytest.fixture(scope="session")
def magnetic_tile(shared: Path) -> Path:
    """Real magnetic tiles with pixel masks, in the MVTec layout."""
    return shared / "data" / "magnetic_tile"
