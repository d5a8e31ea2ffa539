"""What browsers get of anomaly maps by address: small overlays, levels, regions, and files to keep.

The addresses of what never changes are kept by browsers; what depends on the operating point is not. A map that no
cache holds is computed when somebody asks for it, so asking for the neighbours of a picture ahead makes them quick.
"""

import asyncio
import io
import json
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dashboard import display, tickets
from dashboard.errors import BadOption
from dashboard.guard import base_path, guarded
from dashboard.scales import scale_of, seen_by
from dashboard.thumbnails import shrunk
from engine import heatmap
from engine.images import decode
from engine.masks import decode_mask
from storage import models
from storage.atomic_files import write_file
from storage.records import Model
from storage.settings import Settings
from storage.thumbnails import Thumbnails
from storage.workspace import Workspace, open_workspace
from tuning import batches
from tuning.map_cache import map_folder
from tuning.predictor import StoredPicture

LEVELS_SIDE = (
    512  # of the levels that a browser colours; maps are smooth, so it shows no more of a larger one
)
STEPS = 65535  # between a map's lowest and highest level
TILE_OPACITY = 0.6
SCREEN_QUALITY = 92  # JPEG
OUTLINE_DIGITS = 1  # of a pixel
REGIONS_LISTED = 50
_KEPT = "private, max-age=31536000, immutable"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COMPUTING = tuple(threading.Lock() for _ in range(32))


@dataclass(frozen=True, kw_only=True)
class Named:
    """A picture as an address names it."""

    digest: str
    pixel_digest: str
    name: str


def address(
    settings: Settings,
    what: str,
    model: Model,
    picture: StoredPicture,
    *,
    batch: str | None = None,
    **options: str,
) -> str:
    """Where a browser gets something of a picture under a model.

    Args:
        what: one of `FILES`.
        batch: id of the batch that the picture is of; None for one of a dataset.
        options: of the file: opacity (0 to 100) and colours (a palette) of overlay.png.
    """
    folder, query = addresses(settings, model, picture, batch=batch)
    return f"{folder}{what}{query}" + (f"&{urlencode(options, quote_via=quote)}" if options else "")


def addresses(
    settings: Settings, model: Model, picture: StoredPicture, *, batch: str | None = None
) -> tuple[str, str]:
    """What stands before and behind the name of a file in all addresses of a picture under a model."""
    key = tickets.address_key(tickets.secret(settings.home), _subject(model.id, picture, batch))
    values = {"of": picture.digest, "name": picture.name, "key": key} | ({"batch": batch} if batch else {})
    query = urlencode(values, quote_via=quote)
    return f"{base_path()}/maps/{model.id}/{picture.pixel_digest}/", f"?{query}"


def screen_address(settings: Settings, digest: str, *, batch: str | None = None) -> str:
    """Where a browser gets a picture as a screen shows it: as the model saw it, and no larger than needed."""
    return _small_address(settings, "screens", digest, batch)


def truth_address(settings: Settings, mask_digest: str) -> str:
    """Where a browser gets the outlines of a ground-truth mask, in the pixels of its picture."""
    return _small_address(settings, "truths", mask_digest)


def routes(settings: Settings) -> list[BaseRoute]:
    """The routes that the addresses lead to, for `streamlit.App`."""
    answers, base = _Maps(settings), base_path()
    return [
        Route(f"{base}/maps/{{model:int}}/{{pixels}}/{{what}}", answers.of_model),
        Route(f"{base}/screens/{{digest}}", answers.screen),
        Route(f"{base}/truths/{{digest}}", answers.truth),
    ]


def _small_address(settings: Settings, kind: str, digest: str, batch: str | None = None) -> str:
    key = tickets.address_key(tickets.secret(settings.home), _small_subject(kind, digest, batch))
    return f"{base_path()}/{kind}/{digest}?key={key}{f'&batch={batch}' if batch else ''}"


def _small_subject(kind: str, digest: str, batch: str | None) -> str:
    return f"{kind} {digest}{f' {batch}' if batch else ''}"


def _subject(model_id: int, picture: StoredPicture, batch: str | None) -> str:
    return f"maps {model_id} {picture.digest} {picture.pixel_digest}{f' {batch}' if batch else ''}"


class _Maps:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = tickets.secret(settings.home)
        # A grid asks for dozens of small overlays at once; the picture that somebody looks at must not wait for them.
        self._tiles = ThreadPoolExecutor(1, thread_name_prefix="tiles")
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="maps")
        self._opening = threading.Lock()

    @cached_property
    def _workspace(self) -> Workspace:
        return open_workspace(self._settings)

    @guarded
    async def of_model(self, request: Request) -> Response:
        what = str(request.path_params["what"])
        query = request.query_params
        picture = Named(
            digest=query.get("of", ""),
            pixel_digest=str(request.path_params["pixels"]),
            name=query.get("name", "picture"),
        )
        model_id = int(request.path_params["model"])
        batch = query.get("batch")
        tickets.check_address_key(self._secret, _subject(model_id, picture, batch), query.get("key", ""))
        make = FILES.get(what)
        if make is None:
            raise BadOption(f"There is no file '{what}' of a map; there are {', '.join(FILES)}.")
        pool = self._tiles if what == "tile.jpg" else self._threads
        return await self._made(
            lambda: make(self._opened(batch), self._model(model_id), picture, query), pool
        )

    @guarded
    async def screen(self, request: Request) -> Response:
        digest, batch = self._checked(request, "screens")
        return await self._made(lambda: _jpeg(screen(self._opened(batch), digest)))

    @guarded
    async def truth(self, request: Request) -> Response:
        digest, batch = self._checked(request, "truths")
        return await self._made(lambda: _answer_json(truth(self._opened(batch), digest), _KEPT))

    async def _made(self, make: Callable[[], Response], pool: ThreadPoolExecutor | None = None) -> Response:
        return await asyncio.get_running_loop().run_in_executor(pool or self._threads, make)

    def _opened(self, batch: str | None = None) -> Workspace:
        with self._opening:
            opened = self._workspace
        return batches.within(opened, batches.find(self._settings, batch)) if batch else opened

    def _model(self, model_id: int) -> Model:
        with self._opened().session() as session:
            return models.get_model(session, model_id)

    def _checked(self, request: Request, kind: str) -> tuple[str, str | None]:
        digest, batch = str(request.path_params["digest"]), request.query_params.get("batch")
        subject = _small_subject(kind, digest, batch)
        tickets.check_address_key(self._secret, subject, request.query_params.get("key", ""))
        return digest, batch


def screen(workspace: Workspace, digest: str) -> bytes:
    """JPEG bytes of a picture as a screen shows it, from disk or made now.

    Raises:
        BlobMissing: the picture is not in the store.
        BadImage: it can not be decoded.
    """
    kept = Thumbnails(workspace.thumbnails.folder / "screens")
    found = kept.get(digest)
    if found is None:
        pixels = display.shrunk(decode(workspace.blobs.get(digest), "picture"))
        out = io.BytesIO()
        # No subsampling: it would smear the colours of small defects.
        Image.fromarray(pixels).save(out, "JPEG", quality=SCREEN_QUALITY, subsampling=0)
        found = out.getvalue()
        kept.put(digest, found)
    return found


def truth(workspace: Workspace, mask_digest: str) -> dict[str, Any]:
    """Outlines of a ground-truth mask, in its pixels."""
    from engine.regions import outlines

    mask = decode_mask(workspace.blobs.get(mask_digest), "mask")
    height, width = mask.shape
    small = display.shrunk_mask(mask, *_fitting(height, width, 2 * LEVELS_SIDE)).astype(np.float32)
    return {"outlines": _rounded(outlines(small, 0.5, height, width))}


def tile(workspace: Workspace, model: Model, picture: StoredPicture) -> bytes:
    """JPEG bytes of a small overlay, from disk or made now."""
    file = _kept_file(workspace, model, picture, "tiles", ".jpg")
    if (found := _read(file)) is not None:
        return found
    anomaly_map = _map(workspace, model, picture)[1]
    pixels = decode(workspace.blobs.get(picture.digest), picture.name)
    # Small first: a hundredth of the pixels is to be coloured then.
    small = display.shrunk(pixels, 2 * 192)
    levels = _resized(anomaly_map, *small.shape[:2])
    drawn = heatmap.overlay(small, levels, scale_of(model), TILE_OPACITY)
    data = shrunk(heatmap.veil(drawn, seen_by(model, *small.shape[:2])))
    write_file(file, data, settled=False)
    return data


def levels(anomaly_map: NDArray[np.float32]) -> tuple[bytes, dict[str, Any]]:
    """A map as whole numbers of 16 bits, small enough to be sent at once, and what tells how to read them.

    Returns:
        Little-endian numbers row by row, 0 at the lowest level and `STEPS` at the highest; and height and width of
        them, both levels, and the size of the picture.
    """
    height, width = anomaly_map.shape
    small = _resized(anomaly_map, *_fitting(height, width, LEVELS_SIDE))
    low, high = float(small.min()), float(small.max())
    steps = np.rint((small.astype(np.float64) - low) / max(high - low, 1e-12) * STEPS).astype("<u2")
    about = {
        "height": small.shape[0],
        "width": small.shape[1],
        "low": low,
        "high": high,
        "picture": [height, width],
    }
    return steps.tobytes(), about


def found_regions(workspace: Workspace, model: Model, picture: StoredPicture) -> dict[str, Any]:
    """The score of a picture, and the regions of its map that reach beyond what normal parts reach."""
    from engine.regions import outlines, regions

    file = _kept_file(workspace, model, picture, "regions", ".json")
    if (kept := _read(file)) is not None:
        return dict(json.loads(kept))
    score, anomaly_map = _map(workspace, model, picture)
    height, width = anomaly_map.shape
    level = scale_of(model).map_threshold
    small = _resized(anomaly_map, *_fitting(height, width, LEVELS_SIDE))
    all_of_them = regions(anomaly_map, level)
    found = {
        "score": score,
        "level": level,
        "height": height,
        "width": width,
        "count": len(all_of_them),
        "area": sum(region.area for region in all_of_them),
        "regions": [asdict(region) for region in all_of_them[:REGIONS_LISTED]],
        "outlines": _rounded(outlines(small, level, height, width)),
    }
    write_file(file, json.dumps(found).encode(), settled=False)
    return found


def result(workspace: Workspace, model: Model, picture: StoredPicture) -> dict[str, Any]:
    """What a model says of a picture by its present operating point, as people keep it."""
    from tuning.operating_points import point_of
    from tuning.predictor import decision

    found, point = found_regions(workspace, model, picture), point_of(workspace, model)
    return {
        "picture": picture.name,
        "digest": picture.digest,
        "height": found["height"],
        "width": found["width"],
        "dataset": model.dataset_name,
        "model_version": model.version,
        "score": found["score"],
        "threshold": point.threshold,
        "decision": decision(found["score"], point.threshold),
        "operating_point": {"source": point.source.value, "set_at": point.created_at.isoformat()},
        "map_level": found["level"],
        "area": found["area"],
        "share": found["area"] / (found["height"] * found["width"]),
        "regions": found["regions"],
    }


Query = Mapping[str, str]


def _send_tile(workspace: Workspace, model: Model, picture: Named, _query: Query) -> Response:
    return _jpeg(tile(workspace, model, picture))


def _send_levels(workspace: Workspace, model: Model, picture: Named, _query: Query) -> Response:
    file = _kept_file(workspace, model, picture, "levels", ".bin")
    kept = _read(file)  # a tenth of the map itself, which would be read and made small each time
    if kept is None:
        data, about = levels(_map(workspace, model, picture)[1])
        kept = json.dumps(about).encode() + b"\n" + data
        write_file(file, kept, settled=False)
    about_line, _, data = kept.partition(b"\n")
    headers = {"Cache-Control": _KEPT, "X-Levels": about_line.decode()}
    return Response(data, media_type="application/octet-stream", headers=headers)


def _send_regions(workspace: Workspace, model: Model, picture: Named, _query: Query) -> Response:
    return _answer_json(found_regions(workspace, model, picture), _KEPT)


def _save_result(workspace: Workspace, model: Model, picture: Named, _query: Query) -> Response:
    data = json.dumps(result(workspace, model, picture), indent=2, ensure_ascii=False).encode()
    return _file(data, "application/json", picture, ".json")


def _save_npy(workspace: Workspace, model: Model, picture: Named, _query: Query) -> Response:
    out = io.BytesIO()
    np.save(out, _map(workspace, model, picture)[1])
    return _file(out.getvalue(), "application/octet-stream", picture, ".npy")


def _save_tiff(workspace: Workspace, model: Model, picture: Named, _query: Query) -> Response:
    out = io.BytesIO()
    Image.fromarray(_map(workspace, model, picture)[1]).save(out, "TIFF")
    return _file(out.getvalue(), "image/tiff", picture, ".tiff")


def _save_overlay(workspace: Workspace, model: Model, picture: Named, query: Query) -> Response:
    palette, strength = query.get("colours", heatmap.BLUE_ORANGE), query.get("opacity", "60")
    if palette not in heatmap.PALETTES:
        raise BadOption(f"There are no colours '{palette}'; there are {', '.join(heatmap.PALETTES)}.")
    if not re.fullmatch(r"\d{1,3}", strength) or int(strength) > 100:
        raise BadOption(f"The opacity is '{strength}'; it must be a whole number from 0 to 100.")
    pixels = decode(workspace.blobs.get(picture.digest), picture.name)
    anomaly_map = _map(workspace, model, picture)[1]
    drawn = heatmap.overlay(pixels, anomaly_map, scale_of(model), int(strength) / 100, palette)
    out = io.BytesIO()
    heatmap.veil(drawn, seen_by(model, *pixels.shape[:2])).save(out, "PNG", compress_level=3)
    return _file(out.getvalue(), "image/png", picture, ".overlay.png")


FILES: dict[str, Callable[[Workspace, Model, Named, Query], Response]] = {
    "tile.jpg": _send_tile,
    "levels": _send_levels,
    "regions": _send_regions,
    "overlay.png": _save_overlay,
    "map.tiff": _save_tiff,
    "map.npy": _save_npy,
    "result.json": _save_result,
}


def _map(workspace: Workspace, model: Model, picture: StoredPicture) -> tuple[float, NDArray[np.float32]]:
    from tuning.predictor import map_of

    # What is asked of one picture comes in several requests at once: only the first may compute.
    with _COMPUTING[hash(picture.pixel_digest) % len(_COMPUTING)]:
        return map_of(workspace, model, picture)


def _kept_file(workspace: Workspace, model: Model, picture: StoredPicture, kind: str, suffix: str) -> Path:
    """Where something drawn of a map lies, beside the maps; the key of the address says that the digest is one."""
    if not _DIGEST.fullmatch(picture.pixel_digest):
        raise BadOption(f"'{picture.pixel_digest}' is no digest; take the address that the page gives.")
    folder = map_folder(workspace, model.dataset_name, model.version) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{picture.pixel_digest}{suffix}"


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _fitting(height: int, width: int, side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(height, width))
    return max(1, round(scale * height)), max(1, round(scale * width))


def _resized(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    if values.shape == (height, width):
        return values
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))


def _rounded(lines: list[NDArray[np.float64]]) -> list[list[list[float]]]:
    return [np.round(line, OUTLINE_DIGITS).tolist() for line in lines]


def _jpeg(data: bytes) -> Response:
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": _KEPT})


def _answer_json(values: dict[str, Any], cache: str) -> Response:
    return Response(json.dumps(values), media_type="application/json", headers={"Cache-Control": cache})


def _file(data: bytes, media_type: str, picture: Named, suffix: str) -> Response:
    """A file that browsers save under the picture's name."""
    stem = picture.name.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0] or "picture"
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(stem + suffix)}",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(data, media_type=media_type, headers=headers)
