"""Which backbone a study would use here, in words, before anything is started."""

from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineError
from engine.features import resolve_backbone
from storage.settings import Settings
from storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class BackboneStatus:
    """Whether a study can start, and on what."""

    ready: bool
    name: str
    text: str  # where the weights come from, or why there are none and what to do


def wanted_backbone(settings: Settings, backbone: str, weights: Path | None) -> tuple[str, Path | None]:
    """Name and weights file that a wish and the settings come to; to be given to `engine.features.resolve_backbone`.

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
    """Look for the weights as a study would: the file of the setting, the hub's cache, the hub.

    May take up to 10 s where a hub does not answer.
    """
    name, weights = wanted_backbone(workspace.settings, backbone, weights)
    try:
        found = resolve_backbone(name, weights)
    except EngineError as error:
        return BackboneStatus(ready=False, name=name, text=str(error))
    licence = f", licence {found.licence}" if found.licence else ""
    return BackboneStatus(ready=True, name=found.name, text=f"{found.name} from {found.origin}{licence}")
