"""The colour scale and the threshold of a model, from what is stored with it: no weights are loaded for a picture."""

from engine.calibration import Calibration
from storage.records import Model

Scale = Calibration


def scale_of(model: Model) -> Scale:
    """Threshold and absolute colour scale of a model.

    Raises:
        BadCheckpoint: the stored calibration can not be read.
    """
    return Calibration.from_json(model.figures["calibration"])
