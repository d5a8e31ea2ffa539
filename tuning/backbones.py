"""Which backbone a study would use here, and which others could be had, before anything is started."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.backbones.resolve import SHIPPED, STRONGEST, at_hand, find_source
from engine.config import STAGE_CHOICES
from engine.devices import resolve_device
from engine.errors import DeviceUnavailable, EngineError, WeightsUnavailable
from engine.features import layer_choices
from storage.settings import Settings
from storage.workspace import Workspace
from tuning.errors import BadSpec
from tuning.spec import StudySpec

# What people are offered by name; any other timm model can be named as well.
OFFERED = {
    SHIPPED: "1.8 M parameters, ships with the product",
    "resnet18.tv_in1k": "11.7 M parameters, for a CPU",
    "mobilenetv2_100": "3.5 M parameters, for a CPU",
    STRONGEST: "the paper's: 68.9 M parameters, for a GPU",
}


@dataclass(frozen=True, kw_only=True)
class BackboneStatus:
    """Whether a study can start, and on what."""

    ready: bool
    name: str
    text: str  # where the weights come from and under which licence; or why there are none and what to do
    stronger: str | None = None  # what a stronger backbone would need
    layers: tuple[tuple[int, ...], ...] = STAGE_CHOICES  # the choices that a study of it searches


@dataclass(frozen=True, kw_only=True)
class OfferedBackbone:
    """One line of the list to choose from."""

    name: str
    about: str
    origin: str | None  # where its weights lie on this machine; None: they would come from the hub
    licence: str | None


def wanted_backbone(settings: Settings, backbone: str, weights: Path | None) -> tuple[str, Path | None]:
    """Name and weights file that a wish and the settings come to; to be given to `resolve_backbone`.

    The setting's file serves "auto" and the backbone it belongs to, never another one.
    """
    name = settings.backbone if backbone == "auto" else backbone
    if weights is None and settings.weights is not None:
        its_own = (settings.backbone, settings.weights.name.split(".")[0])
        weights = settings.weights if name == "auto" or name.split(".")[0] in its_own else None
    return name, weights


def backbone_status(
    workspace: Workspace, backbone: str = "auto", weights: Path | None = None
) -> BackboneStatus:
    """Look for the weights as a study would: the file of the setting, the product's own, the hub's cache, the hub.

    For "auto" a worker on another machine may come to another answer: it looks at its own device.
    Nothing is downloaded. May take up to 10 s where a hub does not answer.
    """
    name, weights = wanted_backbone(workspace.settings, backbone, weights)
    try:
        found = find_source(name, weights, _device_here(workspace.settings))
        layers = layer_choices(found.name)
    except EngineError as error:
        return BackboneStatus(ready=False, name=name, text=str(error))
    return BackboneStatus(
        ready=True, name=found.name, text=found.text, stronger=found.stronger, layers=layers
    )


def offered_layers(
    settings: Settings, backbone: str = "auto", weights: Path | None = None
) -> tuple[tuple[int, ...], ...]:
    """The choices of layers that a study of a backbone searches unless told otherwise.

    Raises:
        UnknownBackbone, WeightsUnavailable: there is no such backbone or file.
    """
    name, weights = wanted_backbone(settings, backbone, weights)
    if name == "auto":
        name = SHIPPED if weights is None else at_hand(name, weights).name
    return layer_choices(name)


def common_layers(
    settings: Settings, backbones: Sequence[str], weights: str | None = None
) -> tuple[tuple[int, ...], ...]:
    """The choices of layers that every one of several backbones would be offered; the first one's order.

    Args:
        weights: file of the backbone, or of the one among several that it is named after.
    Raises:
        UnknownBackbone, WeightsUnavailable: there is no such backbone or file.
        BadSpec: they have no choice in common.
    """
    spec = StudySpec(backbones=tuple(backbones), weights=weights)
    files = {name: spec.weights_of(name) for name in spec.backbones}
    offered = [offered_layers(settings, name, Path(file) if file else None) for name, file in files.items()]
    common = tuple(choice for choice in offered[0] if all(choice in others for others in offered[1:]))
    if not common:
        raise BadSpec(
            f"Backbones {', '.join(backbones)} have no choice of layers in common. Give --layers that all of them "
            "have, or search them in studies of their own."
        )
    return common


def _device_here(settings: Settings) -> torch.device | None:
    """The device that the setting names; None where this machine lacks it, for the worker may be another one."""
    try:
        return resolve_device(settings.device)
    except DeviceUnavailable:
        return None


def offered_backbones(settings: Settings) -> list[OfferedBackbone]:
    """The backbones to choose from, and which of them are on this machine. No hub is asked."""
    offers = []
    for name, about in OFFERED.items():
        _, weights = wanted_backbone(settings, name, None)
        try:
            source = at_hand(name, weights)
        except WeightsUnavailable:  # the setting names a file that is gone
            source = at_hand(name)
        origin = source.origin if source.weights is not None else None
        offers.append(OfferedBackbone(name=name, about=about, origin=origin, licence=source.licence))
    return offers
