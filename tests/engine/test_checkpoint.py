import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.backbones.resolve import Backbone
from engine.calibration import calibrate
from engine.checkpoint import load, load_head, save, save_head
from engine.config import SimpleNetConfig
from engine.errors import BadCheckpoint, DeviceUnavailable
from engine.features import FeatureExtractor, aggregate, extract
from engine.scoring import Detector
from engine.training import train

CPU = torch.device("cpu")
Pictures = Callable[..., list[np.ndarray]]


@pytest.fixture
def detector(
    tiny_backbone: Backbone, make_config: Callable[..., SimpleNetConfig], make_pictures: Pictures
) -> Detector:
    """A calibrated detector whose extractor holds exactly the stages it needs."""
    config = make_config(average_decay=0.9, top_patches=2)
    extractor = FeatureExtractor(tiny_backbone, config.layers, CPU)
    features = aggregate(extract(extractor, make_pictures(4), 64, 64), config.layers)
    model = train(features, config, device=CPU)
    scored = Detector(extractor, model, config).score(make_pictures(3, seed=1))
    calibration = calibrate([one.score for one in scored], [one.anomaly_map for one in scored], 0.25)
    return Detector(extractor, model, config, calibration)


def test_loaded_model_scores_bit_equal(detector: Detector, make_pictures: Pictures, tmp_path: Path) -> None:
    save(tmp_path / "model", detector)
    loaded = load(tmp_path / "model")
    pictures = make_pictures(9, seed=2, size=(50, 70))
    for before, after in zip(detector.score(pictures), loaded.score(pictures), strict=True):
        assert before.score == after.score
        assert np.array_equal(before.anomaly_map, after.anomaly_map)
    assert loaded.config == detector.config
    assert loaded.calibration == detector.calibration
    assert loaded.extractor.weights_digest == detector.extractor.weights_digest


def test_saved_folder_holds_readable_files_and_no_pickle(detector: Detector, tmp_path: Path) -> None:
    save(tmp_path / "model", detector)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "backbone.safetensors",
        "calibration.json",
        "config.json",
        "head.safetensors",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_loading_needs_no_original_weights(
    detector: Detector, make_pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "model", detector)
    (tmp_path / "model").rename(tmp_path / "moved")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    assert load(tmp_path / "moved").extractor.backbone.weights.parent == tmp_path / "moved"
    save(tmp_path / "again", load(tmp_path / "moved"))
    picture = make_pictures(1)
    assert load(tmp_path / "again").score(picture)[0].score == detector.score(picture)[0].score


def test_saving_replaces_an_older_model_whole(detector: Detector, tmp_path: Path) -> None:
    save(tmp_path / "model", detector)
    save(tmp_path / "model", Detector(detector.extractor, detector.model, detector.config))
    assert load(tmp_path / "model").calibration is None
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_failed_saving_leaves_the_older_model_and_no_remains(detector: Detector, tmp_path: Path) -> None:
    save(tmp_path / "model", detector)
    before = (tmp_path / "model" / "config.json").read_bytes()
    broken = Detector(detector.extractor, detector.model, detector.config, detector.calibration)
    broken.calibration = calibrate([1.0], [np.ones((2, 2))], 0.5)
    object.__setattr__(broken.calibration, "threshold", float("nan"))  # has no JSON
    with pytest.raises(ValueError, match="JSON"):
        save(tmp_path / "model", broken)
    assert (tmp_path / "model" / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_head_alone_is_saved_for_trials(detector: Detector, tmp_path: Path) -> None:
    save_head(tmp_path / "trial", detector.model, detector.config)
    model, config = load_head(tmp_path / "trial")
    assert config == detector.config
    features = torch.randn(5, detector.model.feature_dim)
    assert torch.equal(model.patch_scores(features), detector.model.patch_scores(features))
    with pytest.raises(BadCheckpoint, match="head only"):
        load(tmp_path / "trial")


def test_head_of_a_whole_model_can_be_read(detector: Detector, tmp_path: Path) -> None:
    save(tmp_path / "model", detector)
    assert load_head(tmp_path / "model")[1] == detector.config


def change_json(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def lose_a_tensor(folder: Path) -> None:
    state = load_file(folder / "head.safetensors")
    del state["discriminator.tail"]
    save_file(state, folder / "head.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        without("config.json"),
        without("head.safetensors"),
        without("backbone.safetensors"),
        lose_a_tensor,
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_text("[]"),
        lambda folder: (folder / "head.safetensors").write_bytes(b"\x00" * 4),
        lambda folder: (folder / "calibration.json").write_text("{}"),
        lambda folder: change_json(folder, feature_dim=3),
        lambda folder: change_json(folder, format=99),
    ],
)
def test_damaged_folder_is_refused(
    detector: Detector, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    save(tmp_path / "model", detector)
    damage(tmp_path / "model")
    with pytest.raises(BadCheckpoint, match="anew"):
        load(tmp_path / "model")


def test_loading_on_an_unknown_device_is_refused(detector: Detector, tmp_path: Path) -> None:
    save(tmp_path / "model", detector)
    with pytest.raises(DeviceUnavailable):
        load(tmp_path / "model", device="tpu")
