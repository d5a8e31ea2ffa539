"""Saved models: readable JSON and safetensors in a folder, never a pickle.

A folder made by `save` is complete: it loads without a hub and without the original weights file.
  config.json           format, configuration, feature length, backbone
  head.safetensors      adaptor and discriminator
  backbone.safetensors  the truncated backbone
  calibration.json      absent when the detector was not calibrated
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from engine.backbones.resolve import Backbone
from engine.calibration import Calibration
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.errors import BadCheckpoint
from engine.features import FeatureExtractor
from engine.scoring import Detector
from engine.simplenet import SimpleNet

FORMAT = 1  # raised whenever a folder written before could not be read any more


def save(folder: Path, detector: Detector) -> None:
    """Write a complete detector; the folder appears whole or not at all, and replaces one of its name.

    Args:
        folder: its parent is made when missing.
    """
    backbone = detector.extractor.backbone
    with _appearing(folder) as draft:
        _write_head(
            draft,
            detector.model,
            detector.config,
            backbone={
                "name": backbone.name,
                "digest": backbone.digest,
                "origin": backbone.origin,
                "licence": backbone.licence,
                "stages": list(detector.extractor.stages),
            },
        )
        _write_tensors(draft / "backbone.safetensors", _tensors(detector.extractor.net))
        if detector.calibration is not None:
            _write_json(draft / "calibration.json", detector.calibration.to_json())


def load(folder: Path, device: str = "cpu", precision: str = "fp32") -> Detector:
    """Read what `save` wrote; scores are bit-equal to those before saving, on the same device and precision.

    Raises:
        BadCheckpoint: something is missing, damaged, of another format or does not fit.
        DeviceUnavailable: the device or precision is unknown or not here.
    """
    where = resolve_device(device)
    model, config, description = _read_head(folder)
    try:
        saved = description["backbone"]
        backbone = Backbone(
            name=saved["name"],
            weights=folder / "backbone.safetensors",
            digest=saved["digest"],
            origin=saved["origin"],
            licence=saved["licence"],
        )
        stages = [int(stage) for stage in saved["stages"]]
    except (KeyError, TypeError) as error:
        raise BadCheckpoint(
            f"'{folder}' describes no backbone ({error}); it may be a head only. Save it anew."
        ) from error
    if not backbone.weights.is_file():
        raise BadCheckpoint(f"'{folder}' has no backbone.safetensors. Save the model anew.")
    extractor = FeatureExtractor(backbone, stages, where, resolve_precision(precision, where))
    calibration = None
    if (folder / "calibration.json").exists():
        calibration = Calibration.from_json(_read_json(folder / "calibration.json"))
    return Detector(extractor, model.to(where), config, calibration)


def save_head(folder: Path, model: SimpleNet, config: SimpleNetConfig) -> None:
    """Write adaptor and discriminator alone, as trials do; the backbone is known elsewhere."""
    with _appearing(folder) as draft:
        _write_head(draft, model, config)


def load_head(folder: Path) -> tuple[SimpleNet, SimpleNetConfig]:
    """Read the head of a folder that `save_head` or `save` wrote, on the CPU.

    Raises:
        BadCheckpoint: as `load`.
    """
    model, config, _ = _read_head(folder)
    return model, config


def _write_head(
    folder: Path, model: SimpleNet, config: SimpleNetConfig, backbone: Mapping[str, Any] | None = None
) -> None:
    _write_tensors(folder / "head.safetensors", _tensors(model))
    description = {"format": FORMAT, "feature_dim": model.feature_dim, "config": config.to_json()}
    if backbone is not None:
        description["backbone"] = dict(backbone)
    _write_json(folder / "config.json", description)


def _read_head(folder: Path) -> tuple[SimpleNet, SimpleNetConfig, dict[str, Any]]:
    description = _read_json(folder / "config.json")
    if description.get("format") != FORMAT:
        raise BadCheckpoint(
            f"'{folder}' has format {description.get('format')!r}; this version reads {FORMAT}. "
            "Use the version that saved it, or train anew."
        )
    try:
        config = SimpleNetConfig.from_json(description["config"])
        model = SimpleNet(config, int(description["feature_dim"]))
        model.load_state_dict(load_file(folder / "head.safetensors"), strict=True)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise BadCheckpoint(f"'{folder}' is damaged ({error}). Save the model anew.") from error
    return model.eval().requires_grad_(False), config, description


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: values.detach().cpu().contiguous() for name, values in module.state_dict().items()}


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # safetensors' own writer hides what the system says, such as that the disk is full.
    path.write_bytes(to_bytes(dict(tensors)))


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"'{path}' can't be read ({error}). Save the model anew.") from error
    if not isinstance(values, dict):
        raise BadCheckpoint(f"'{path}' holds no settings. Save the model anew.")
    return values


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Give a draft folder that replaces `folder` when the block ends well, and vanishes when not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield draft
        for file in draft.iterdir():
            _flush(file)
        draft.chmod(0o755)
        if folder.exists():
            # A folder can't be renamed onto one that holds files; the old one steps aside first.
            replaced = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            folder.replace(replaced)
            draft.replace(folder)
            shutil.rmtree(replaced)
        else:
            draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
