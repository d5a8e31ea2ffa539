"""At which threshold a served model decides: the one place that the model server asks."""

from engine.calibration import Calibration
from storage.records import Model
from storage.workspace import Workspace


def threshold_of(workspace: Workspace, model: Model) -> float:  # noqa: ARG001 (saved operating points lie in it)
    """The threshold that the model decides with: its calibration's."""
    return Calibration.from_json(model.figures["calibration"]).threshold
