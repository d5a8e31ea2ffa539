"""A champion in memory: the model as MLflow loads it, and MLflow's own scoring application around it."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import scoring_server
from starlette.types import ASGIApp

from engine.checkpoint import load
from engine.devices import resolve_device
from engine.errors import BadImage, EngineError
from engine.images import RGB, decode, picture_size
from engine.scoring import Detector
from storage import datasets, models
from storage.errors import TrackingError
from storage.records import Model
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning.errors import NoChampion
from tuning.operating_points import threshold_of
from tuning.predictor import decision

logger = logging.getLogger(__name__)


class Loaded:
    """A model that is ready to score. Its numbers belong to the event loop; its detector may be used by threads."""

    def __init__(self, model: Model, pyfunc: Any, threshold: float, max_pixels: int) -> None:
        """Wrap what MLflow loaded."""
        self.model = model
        self.threshold = threshold
        self.users = 0  # requests under way
        self.retired = False  # another one serves by now
        self._max_pixels = max_pixels
        self._python_model = pyfunc.unwrap_python_model()
        checked: Any = _Checked(pyfunc, self)
        self.app: ASGIApp = scoring_server.init(checked)

    @property
    def detector(self) -> Detector:
        """The engine's detector."""
        detector: Detector = self._python_model.detector
        return detector

    def decode(self, data: bytes, name: str) -> RGB:
        """Decode a picture that is not larger than this installation takes.

        Raises:
            BadImage: it is larger, or none that can be read.
        """
        self.check(data, name)
        return decode(data, name)

    def check(self, data: bytes, name: str) -> None:
        """Refuse a picture that promises more pixels than this installation takes, before any is decoded.

        Raises:
            BadImage: as `decode`.
        """
        height, width = picture_size(data, name)
        if height * width > self._max_pixels:
            raise BadImage(
                f"Image {name!r} is {width}×{height} px; at most {self._max_pixels:,} pixels are taken here. Cut or "
                "shrink it, or raise SIMPLENET_SERVE_MAX_MEGAPIXELS."
            )

    def close(self) -> None:
        """Give the weights free, whoever still knows of the model."""
        self._python_model.detector = None


class _Checked:
    """What MLflow's application takes for its model: the loaded one, with our limits, threshold and sentences."""

    def __init__(self, pyfunc: Any, loaded: Loaded) -> None:
        self.metadata = pyfunc.metadata
        self._pyfunc = pyfunc
        self._loaded = loaded

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score every row.

        Args:
            data: a table or mapping with the column `image`; what is neither is left to MLflow to refuse.
        Raises:
            MlflowException: a picture can't be read or is too large; MLflow's application answers it with 400.
        """
        try:
            if isinstance(data, pd.DataFrame | Mapping):
                for number, picture in enumerate(data.get("image", ())):
                    if isinstance(picture, bytes):
                        self._loaded.check(picture, f"row {number}")
            answer: Any = self._pyfunc.predict(data, params=params)
        except EngineError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        scores: pd.DataFrame = answer
        # The same decision as the route for plain pictures, where another operating point was saved with the model.
        threshold = self._loaded.threshold
        return scores.assign(
            threshold=threshold, decision=[decision(score, threshold) for score in scores["score"]]
        )


def find_champion(workspace: Workspace, tracking: Tracking, dataset_name: str) -> tuple[Model, float]:
    """The model that MLflow's alias `champion` points at, and the threshold that it decides with.

    Raises:
        DatasetNotFound: there is no such dataset, or it was deleted.
        NoChampion: the alias points at nothing.
        ModelNotFound: it points at a version that was not registered by this installation.
        TrackingError, DatabaseUnavailable: it can't be asked at this moment.
    """
    with workspace.session() as session:
        datasets.get_dataset(session, dataset_name)
    version = tracking.champion_version(dataset_name)
    if version is None:
        raise NoChampion(
            f"Dataset '{dataset_name}' has no champion, so nothing decides on its pictures. Promote a version "
            f"(simplenet promote {dataset_name} VERSION) or run a study (simplenet study {dataset_name})."
        )
    with workspace.session() as session:
        model = models.numbered_model(session, dataset_name, version)
    return model, threshold_of(workspace, model)


def load_model(workspace: Workspace, tracking: Tracking, model: Model, threshold: float) -> Loaded:
    """Load a registered model from MLflow. To be called by one thread at a time.

    Raises:
        TrackingError: it can't be fetched, or is damaged.
    """
    settings = workspace.settings
    folder = tracking.model_folder(model.dataset_name, model.version)
    try:
        with _imports_restored():
            pyfunc: Any = mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)
        if resolve_device(settings.device).type != "cpu":  # what MLflow loads by itself runs on the CPU
            checkpoint = tracking.checkpoint_folder(model.dataset_name, model.version)
            pyfunc.unwrap_python_model().detector = load(checkpoint, device=settings.device)
    except (EngineError, MlflowException, OSError) as error:
        raise TrackingError(
            f"Version {model.version} of model '{model.dataset_name}' can't be loaded: {error}. Promote another "
            "version."
        ) from error
    logger.info("model loaded", extra={"dataset": model.dataset_name, "version": model.version})
    return Loaded(model, pyfunc, threshold, int(settings.serve_max_megapixels * 1_000_000))


@contextmanager
def _imports_restored() -> Iterator[None]:
    """Take back what MLflow leaves in the interpreter at each loading: a search path and a module.

    The models' copies of our engine are not imported here: this installation's own is there already.
    """
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in [name for name in sys.modules if name.startswith("code_model_")]:
            del sys.modules[name]
