"""Colour scale, threshold and field of view of a model, from what is stored with it: no weights are loaded for that."""

from engine.calibration import Calibration
from engine.config import SimpleNetConfig
from engine.geometry import seen
from storage.records import Model

Scale = Calibration


def scale_of(model: Model) -> Scale:
    """Threshold and absolute colour scale of a model.

    Raises:
        BadCheckpoint: the stored calibration can not be read.
    """
    return Calibration.from_json(model.figures["calibration"])


def seen_by(model: Model, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns that the model sees of a picture of that size, pixels: all but what a centre crop cuts away."""
    config = SimpleNetConfig.from_json(model.config)
    return seen((height, width), (config.height, config.width), config.resize)
