"""Which backbone a study would use here, in words, before anything is started."""

from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineError
from engine.features import resolve_backbone
from storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class BackboneStatus:
    """Whether a study can start, and on what."""

    ready: bool
    name: str
    text: str  # where the weights come from, or why there are none and what to do


def backbone_status(
    workspace: Workspace, backbone: str = "auto", weights: Path | None = None
) -> BackboneStatus:
    """Look for the weights as a study would: the file of the setting, the hub's cache, the hub.

    May take up to 10 s where a hub does not answer.
    """
    name = backbone if backbone != "auto" else workspace.settings.backbone
    try:
        found = resolve_backbone(name, weights or workspace.settings.weights)
    except EngineError as error:
        return BackboneStatus(ready=False, name=name, text=str(error))
    licence = f", licence {found.licence}" if found.licence else ""
    return BackboneStatus(ready=True, name=found.name, text=f"{found.name} from {found.origin}{licence}")
