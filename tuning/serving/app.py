"""The routes of the model server.

- `/<dataset>/ping`, `/health`, `/version` and `/invocations` are MLflow's own scoring application, made from the model
  that is the dataset's champion at that moment.
- `/<dataset>/predict` takes a plain picture; both score one picture at a time, so that all ways give the same numbers.
- Scoring runs in a few threads. What waits for them is bounded, and more is told to come again.
"""

import asyncio
import base64
import io
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import StrEnum
from importlib.metadata import version as installed_version
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from PIL.Image import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from engine.images import RGB
from engine.scoring import Scored
from storage import datasets, models
from storage.errors import StorageError
from storage.records import Model
from storage.workspace import Workspace
from tuning.errors import NotServed, Overloaded
from tuning.predictor import decision
from tuning.serving.access import Access
from tuning.serving.answers import OURS, Prediction, Served, Stats, refusal, status_of
from tuning.serving.champions import Champions
from tuning.serving.keys import Keys
from tuning.serving.loading import Loaded
from tuning.serving.reading import picture_in, read_body, replayed
from tuning.serving.traffic import Traffic

logger = logging.getLogger(__name__)

FOLLOW_SECONDS = 1.0  # between two looks at aliases and keys
NOTE_SECONDS = 15.0  # between two notes of when keys were used last
MLFLOW_CALLS = ("ping", "health", "version", "invocations")
PNG_LEVEL = 1  # of zlib's compression: an answer is made faster than the network gains from more

Draw = Callable[["MapKind", RGB, NDArray[np.float32], Model], Image]


class MapKind(StrEnum):
    """What a request may ask for beside the score."""

    OVERLAY = "overlay"  # the heatmap over the picture
    PNG = "png"  # the heatmap alone
    NPY = "npy"  # the anomaly map's values


class ModelServer:
    """Everything that the routes share.

    Args:
        draw: draws a heatmap: its kind, the picture (H, W, 3), its anomaly map (H, W), the model whose scale is used.
    """

    def __init__(self, workspace: Workspace, draw: Draw) -> None:
        """Nothing is loaded before the first request."""
        settings = workspace.settings
        self.workspace = workspace
        self.draw = draw
        self.background = ThreadPoolExecutor(max_workers=4, thread_name_prefix="background")
        # MLflow's application scores in the loop's default executor, so this one is made the default.
        self.scoring = ThreadPoolExecutor(max_workers=settings.serve_threads, thread_name_prefix="scoring")
        self.champions = Champions(workspace, self.background)
        self.keys = Keys(workspace)
        self.traffic: dict[str, Traffic] = {}
        self._room = settings.serve_threads + settings.serve_queue
        self._under_way = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Take a place among those that wait.

        Raises:
            Overloaded: all are taken.
        """
        if self._under_way >= self._room:
            raise Overloaded(
                f"{self._under_way} requests are under way, the most that this server keeps. Send the request again in "
                "a second, or raise SIMPLENET_SERVE_QUEUE."
            )
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    @asynccontextmanager
    async def use(self, dataset_name: str) -> AsyncIterator[Loaded]:
        """The dataset's champion; from now on there are figures of the dataset."""
        async with self.champions.use(dataset_name) as loaded:
            self.traffic.setdefault(dataset_name, Traffic())
            yield loaded

    def count(self, dataset_name: str, scope: Scope, started: float, status: int) -> None:
        """Take a request into the figures of its dataset; the requests of our own pages are left out."""
        traffic = self.traffic.get(
            dataset_name
        )  # none for names that never served: anybody could invent more
        if traffic is not None and not scope.get("state", {}).get("own"):
            traffic.record(1000 * (time.perf_counter() - started), status)

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Follow aliases and keys while the server runs."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(self.scoring)
        await self._in_background(self.keys.refresh)
        # Apart from each other: what waits for a database must not keep the others waiting.
        steps = (
            (self.champions.follow, FOLLOW_SECONDS),
            (lambda: self._in_background(self.keys.refresh), FOLLOW_SECONDS),
            (lambda: self._in_background(self.keys.note_uses), NOTE_SECONDS),
        )
        tasks = [loop.create_task(_again_and_again(step, seconds)) for step, seconds in steps]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(StorageError):
                await self._in_background(self.keys.note_uses)
            self.background.shutdown(wait=False, cancel_futures=True)

    async def _in_background(self, function: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self.background, function)

    async def predict(
        self, dataset_name: str, request: Request, kind: MapKind | None, version: int | None
    ) -> Response:
        """Score the picture in a request."""
        started, status = time.perf_counter(), 500
        try:
            with self.admitted():
                body = await read_body(request)
                async with self.use(dataset_name) as loaded:
                    _require_version(loaded.model, version)
                    data, name = await picture_in(request, body)
                    as_file = kind in (MapKind.OVERLAY, MapKind.PNG) and _wants_png(request)
                    answer = await asyncio.get_running_loop().run_in_executor(
                        None, lambda: self._score(loaded, data, name, kind, as_file)
                    )
            status = 200
            return answer
        except OURS as error:
            status = status_of(error)
            raise
        finally:
            self.count(dataset_name, request.scope, started, status)

    def _score(self, loaded: Loaded, data: bytes, name: str, kind: MapKind | None, as_file: bool) -> Response:
        pixels = loaded.decode(data, name)
        scored = loaded.detector.score([pixels])[0]
        drawn = None if kind is None else self._map(kind, pixels, scored, loaded.model)
        threshold = loaded.threshold  # once: it may change at any moment
        verdict = {
            "model_version": loaded.model.version,
            "score": scored.score,
            "threshold": threshold,
            "decision": decision(scored.score, threshold),
        }
        if as_file and drawn is not None:
            headers = {f"X-{name.replace('_', '-').title()}": str(value) for name, value in verdict.items()}
            return Response(drawn, media_type="image/png", headers=headers)
        values: dict[str, Any] = {
            "dataset": loaded.model.dataset_name,
            **verdict,
            "height": pixels.shape[0],
            "width": pixels.shape[1],
        }
        if drawn is not None:
            form = "npy" if kind is MapKind.NPY else "png"
            values["map"] = {"format": form, "base64": base64.b64encode(drawn).decode("ascii")}
        return JSONResponse(values)

    def _map(self, kind: MapKind, pixels: RGB, scored: Scored, model: Model) -> bytes:
        file = io.BytesIO()
        if kind is MapKind.NPY:
            np.save(file, scored.anomaly_map)
        else:
            self.draw(kind, pixels, scored.anomaly_map, model).save(file, "PNG", compress_level=PNG_LEVEL)
        return file.getvalue()

    def listing(self, base: str) -> list[Served]:
        """The datasets, and where their champions answer."""
        with self.workspace.session() as session:
            names = [dataset.name for dataset in datasets.list_datasets(session)]
            champions = {name: models.champion(session, name) for name in names}
        return [
            Served(
                dataset=name,
                model_version=None if champion is None else champion.version,
                loaded=self.champions.serving(name) is not None,
                addresses={call: f"{base}/{name}/{call}" for call in ("predict", *MLFLOW_CALLS, "stats")},
            )
            for name, champion in champions.items()
        ]

    def stats(self, dataset_name: str) -> Stats:
        """The traffic of a dataset."""
        serving = self.champions.serving(dataset_name)
        summary = self.traffic.get(dataset_name, Traffic()).summary()
        return Stats(
            dataset=dataset_name,
            model_version=None if serving is None else serving.version,
            trouble=self.champions.troubles.get(dataset_name),
            **vars(summary),
        )


async def _again_and_again(step: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Do something every so many seconds, until cancelled."""
    while True:
        try:
            await step()
        except StorageError as error:
            logger.warning("what is known stays: %s", error)
        except Exception:  # one odd answer must not end the following for good
            logger.exception("what is known stays")
        await asyncio.sleep(seconds)


class _MlflowRoute:
    """Hands a request on to MLflow's application of the dataset's champion."""

    def __init__(self, server: ModelServer, call: str) -> None:
        self._server = server
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server, started, status = self._server, time.perf_counter(), 500
        dataset_name, path = scope["path_params"]["dataset"], f"/{self._call}"

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with server.admitted():
                body = await read_body(Request(scope, receive))
                async with server.use(dataset_name) as loaded:
                    inner = {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}
                    await loaded.app(inner, replayed(body, receive), noting)
        except OURS as error:
            status = status_of(error)
            await refusal(error)(scope, receive, send)
        finally:
            if self._call == "invocations":
                server.count(dataset_name, scope, started, status)


def make_app(workspace: Workspace, draw: Draw) -> tuple[Access, ModelServer]:
    """The whole application, and what its routes share."""
    server = ModelServer(workspace, draw)
    app = FastAPI(
        title="SimpleNet AutoML model server",
        version=installed_version("simplenet-automl"),
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        lifespan=server.lifespan,
    )
    for kind in OURS:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(HTTPException, _no_such_route)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    app.add_exception_handler(Exception, _failed)
    public = workspace.settings.model_server_public_url

    @app.get("/health", summary="Whether the server answers; needs no key")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/", summary="The datasets, and where their champions answer")
    def listing() -> list[Served]:
        return server.listing(public)

    @app.get("/stats", summary="Requests, errors and latency of every dataset that was asked for")
    async def all_stats() -> list[Stats]:
        return [server.stats(name) for name in sorted({*server.traffic, *server.champions.resident})]

    @app.get("/{dataset}/stats", summary="Requests, errors and latency of one dataset")
    def stats(dataset: str) -> Stats:
        with workspace.session() as session:
            datasets.get_dataset(session, dataset)
        return server.stats(dataset)

    @app.post(
        "/{dataset}/predict",
        summary="Score, decision and, where asked for, the map of one picture",
        response_model=Prediction,
        openapi_extra=_PICTURE_BODY,
    )
    async def predict(
        dataset: str,
        request: Request,
        map: MapKind | None = None,  # noqa: A002
        version: int | None = None,
    ) -> Response:
        """Answer with the champion's score of the picture in the body, or in the field `image` of a form.

        `map`: overlay (the heatmap over the picture, PNG), png (the heatmap alone), npy (float32 values); with
        `Accept: image/png` the answer is the PNG file itself. `version` refuses to answer with another model version.
        """
        return await server.predict(dataset, request, map, version)

    for call in MLFLOW_CALLS:
        app.router.routes.append(Route(f"/{{dataset}}/{call}", _MlflowRoute(server, call)))
    return Access(app, workspace.settings, server.keys), server


async def _refused(_request: Request, error: Exception) -> Response:
    return refusal(error)


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    sentence = (
        f"{request.method} {request.url.path} is no request that the model server knows. GET / lists the addresses "
        "of all datasets."
    )
    return JSONResponse({"error": sentence}, status, headers=getattr(error, "headers", None))


async def _bad_parameter(_request: Request, error: Exception) -> Response:
    broken = error.errors() if isinstance(error, RequestValidationError) else ()
    sentences = [f"Parameter '{one['loc'][-1]}' is {one['input']!r}: {one['msg']}." for one in broken]
    return JSONResponse({"error": " ".join(sentences)}, 400)


async def _failed(_request: Request, error: Exception) -> Response:
    """The last resort of a request; the log has it all."""
    incident = secrets.token_hex(3).upper()
    logger.error("incident %s", incident, exc_info=error)
    sentence = f"Something went wrong on the server (incident {incident}); its log has more about that."
    return JSONResponse({"error": sentence}, 500)


def _require_version(model: Model, version: int | None) -> None:
    if version not in (None, model.version):
        raise NotServed(
            f"Version {version} was asked for; version {model.version} of '{model.dataset_name}' is its champion here. "
            "Promote the other one, or leave the version out."
        )


def _wants_png(request: Request) -> bool:
    return request.headers.get("accept", "").startswith("image/png")


_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": _PICTURE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": _PICTURE["schema"]},
                }
            },
        },
    }
}
