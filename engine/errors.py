"""Everything that the engine refuses, as exceptions whose messages give value, rule and remedy."""


class EngineError(Exception):
    """Base of every error that the engine raises on purpose."""


class InvalidConfig(EngineError):
    """A configuration holds a value that training or scoring could not honour."""


class BadImage(EngineError):
    """A file is not a picture that can be scored: undecodable, too small or too large."""


class DeviceUnavailable(EngineError):
    """The device or precision asked for does not exist on this machine."""


class UnknownBackbone(EngineError):
    """No such backbone, or one without a map at a stage asked for."""


class WeightsUnavailable(EngineError):
    """A backbone's weights are in no file given, not in the hub's cache, and the hub can't be reached."""


class WeightsMismatch(EngineError):
    """A weights file does not hold the parameters of the backbone that it is to fill."""


class ShapeMismatch(EngineError):
    """Tensors or arrays that belong together have different sizes, or none."""


class TrainingDiverged(EngineError):
    """The loss stopped being a finite number."""


class UndefinedMetric(EngineError):
    """A figure has no value on these data, for instance an AUROC of one class only."""


class TooFewCalibrationImages(EngineError):
    """The false-reject rate asked for can't be guaranteed by so few calibration images.

    Attributes:
        needed: the smallest number of normal images that guarantees the rate.
        had: the number of normal images there were.
    """

    def __init__(self, message: str, *, needed: int, had: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.had = had


class BadCheckpoint(EngineError):
    """A saved model is incomplete, of another format, or does not fit its own description."""


class ExportUnavailable(EngineError):
    """A model can't be written in a format: a package is missing, or the format can't hold this network."""
