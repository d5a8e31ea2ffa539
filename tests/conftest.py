"""Fixtures that every folder of tests uses."""

import os
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.s3 import EmulatedS3, running_s3

if TYPE_CHECKING:
    from storage.settings import Settings
    from storage.workspace import Workspace

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _settings_of_nobody() -> None:
    """What somebody set for their own installation must not reach the tests, nor the processes that they start."""
    for name in [name for name in os.environ if name.startswith("SIMPLENET_")]:
        del os.environ[name]


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


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of another backbone than the shipped one: timm's smallest test network, random."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return path


@pytest.fixture
def make_folder(tmp_path: Path) -> "FolderFactory":
    """Factory of small picture folders in the MVTec layout, or flat ones."""
    return FolderFactory(tmp_path)


@pytest.fixture
def workspace(tmp_path: Path) -> "Iterator[Workspace]":
    """An empty installation in a folder of its own: real SQLite files, the shipped backbone, the CPU."""
    from storage.settings import Settings
    from storage.workspace import open_workspace

    opened = open_workspace(Settings(home=tmp_path / "home", device="cpu", precision="fp32"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def made_databases(tmp_path_factory: pytest.TempPathFactory) -> "Callable[[Settings], None]":
    """Puts empty databases of Optuna and MLflow, as they make them, into an installation: making them takes long."""
    from storage.settings import Settings
    from storage.tracking import Tracking
    from tuning.search import open_storage

    made = Settings(home=tmp_path_factory.mktemp("databases"))
    Tracking(made).client.search_experiments(max_results=1)
    open_storage(made.optuna_url)

    def put(settings: Settings) -> None:
        for field in ("optuna_url", "mlflow_database_url"):
            source, target = getattr(made, field), getattr(settings, field)
            if target.startswith("sqlite:///"):
                paths = [url.removeprefix("sqlite:///") for url in (source, target)]
                with closing(sqlite3.connect(paths[0])) as old, closing(sqlite3.connect(paths[1])) as new:
                    old.backup(new)

    return put


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[EmulatedS3]":
    """An emulated S3 of this test's own with the bucket `parts`, which this process and those it starts speak to."""
    with running_s3(tmp_path / "s3.log") as server:
        for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
            monkeypatch.delenv(name)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.make_bucket("parts")
        yield server


class FolderFactory:
    """Draws folders of grey noise pictures; an anomalous one has a bright square, and a mask of it."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent

    def __call__(
        self,
        name: str = "parts",
        *,
        train: int = 24,
        test_normal: int = 8,
        defects: dict[str, int] | None = None,
        flat: bool = False,
        size: int = 64,
    ) -> Path:
        """Draw a folder.

        Args:
            train, test_normal: numbers of normal pictures; a flat folder holds the first only.
            defects: number of pictures by defect type.
            size: pixels per side.
        """
        root = self._parent / name
        draw = np.random.default_rng(0)
        for number in range(train):
            _save((root if flat else root / "train" / "good") / f"{number:03d}.png", _noise(draw, size))
        if flat:
            return root
        for number in range(test_normal):
            _save(root / "test" / "good" / f"{number:03d}.png", _noise(draw, size))
        for kind, count in (defects or {}).items():
            for number in range(count):
                pixels, mask = _noise(draw, size), np.zeros((size, size), np.uint8)
                top, left = draw.integers(0, size - size // 4, size=2)
                mask[top : top + size // 4, left : left + size // 4] = 255
                pixels[mask > 0] = 255
                _save(root / "test" / kind / f"{number:03d}.png", pixels)
                _save(root / "ground_truth" / kind / f"{number:03d}_mask.png", mask)
        return root


def _noise(draw: np.random.Generator, size: int) -> NDArray[np.uint8]:
    return draw.integers(60, 180, (size, size), dtype=np.uint8)


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> "Iterator[Callable[[int], Path]]":
    """Factory of file systems of so many megabytes; skips where this machine may not mount one."""
    mounted = []

    def mount(megabytes: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a file system of its own can't be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
