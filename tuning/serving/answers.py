"""What the routes of the model server answer, and which status an error has."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from engine.errors import BadImage, EngineError
from storage.errors import (
    DatabaseUnavailable,
    DatasetNotFound,
    ModelNotFound,
    StorageError,
    TrackingError,
)
from tuning.errors import BadRequest, NoChampion, NotServed, Overloaded, RequestTooLarge, TuningError

OURS = (EngineError, StorageError, TuningError)

STATUS: Mapping[type[Exception], int] = {
    BadRequest: 400,
    DatasetNotFound: 404,
    NoChampion: 409,
    ModelNotFound: 409,
    NotServed: 409,
    RequestTooLarge: 413,
    BadImage: 422,
    Overloaded: 503,
    TrackingError: 503,
    DatabaseUnavailable: 503,
}
RETRY_SECONDS = {Overloaded: 1, TrackingError: 5, DatabaseUnavailable: 5}


class MapAnswer(BaseModel):
    """A heatmap or an anomaly map as a file."""

    format: Literal["png", "npy"]
    base64: str


class Prediction(BaseModel):
    """What a champion says of a picture."""

    dataset: str
    model_version: int
    score: float  # unbounded, higher is more anomalous
    threshold: float  # a higher score is rejected
    decision: Literal["accept", "reject"]
    height: int  # of the picture, upright, pixels
    width: int
    map: MapAnswer | None = None  # present when asked for


class Served(BaseModel):
    """A dataset and where its champion answers."""

    dataset: str
    model_version: int | None  # none: no champion
    loaded: bool
    addresses: dict[str, str]


class Stats(BaseModel):
    """The traffic of a dataset since the server started; quantiles are of the window."""

    dataset: str
    model_version: int | None  # in memory
    requests: int
    errors: int
    window_seconds: float
    window_requests: int
    window_errors: int
    p50_ms: float | None
    p95_ms: float | None
    trouble: str | None  # why the champion's alias can't be followed at this moment


def status_of(error: Exception) -> int:
    """The HTTP status of an error of ours."""
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)


def refusal(error: Exception) -> Response:
    """An error of ours as JSON: {"error": sentence}."""
    retry = next((seconds for kind, seconds in RETRY_SECONDS.items() if isinstance(error, kind)), None)
    headers = {} if retry is None else {"Retry-After": str(retry)}
    return JSONResponse({"error": str(error)}, status_of(error), headers=headers)
