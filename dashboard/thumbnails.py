"""Small copies of pictures on disk, so that a page of many pictures never decodes the originals twice.

Pages show them by address (`address`), which browsers ask once and keep.
"""

import asyncio
import base64
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dashboard import display, tickets
from dashboard.guard import base_path, guarded
from engine import heatmap, images
from engine.images import decode, decode_mask
from engine.masks import Mask, fit_mask, merge_masks, read_mask
from storage.blobs import BlobStore
from storage.settings import Settings
from storage.thumbnails import Thumbnails
from storage.workspace import open_blobs
from tuning.reading import file_bytes

SIDE = 192  # pixels of the longer side: twice the grid's tile, for dense displays
QUALITY = 82  # JPEG
OUTLINE = 2  # pixels of the longer side that SIDE is: a tile shows half of them


def thumbnail(settings: Settings, blobs: BlobStore, digest: str, name: str) -> bytes:
    """JPEG bytes of a small copy of the picture `digest`, from disk or made now.

    Raises:
        BlobMissing: the picture is not in the store.
        BadImage: it can not be decoded.
    """
    kept = Thumbnails(settings.thumbnails_folder)
    found = kept.get(digest)
    if found is None:
        found = images.thumbnail(decode(blobs.get(digest), name), SIDE)
        kept.put(digest, found)
    return found


def outlined(settings: Settings, blobs: BlobStore, digest: str, mask_digest: str) -> bytes:
    """JPEG bytes of the small copy of a picture with the outline of its mask, from disk or made now.

    Raises:
        BlobMissing: the picture or the mask is not in the store.
        BadImage: one of them can not be decoded.
    """
    kept = Thumbnails(settings.thumbnails_folder)
    key = sha256(f"{digest} {mask_digest}".encode()).hexdigest()
    found = kept.get(key)
    if found is None:
        mask = decode_mask(blobs.get(mask_digest), "mask")
        small = np.asarray(
            Image.open(io.BytesIO(thumbnail(settings, blobs, digest, "picture"))).convert("RGB")
        )
        fitted = display.shrunk_mask(mask, *small.shape[:2])
        found = shrunk(heatmap.outline(small, fitted, OUTLINE))
        kept.put(key, found)
    return found


def of_file(path: str, name: str) -> bytes:
    """JPEG bytes of a small copy of a picture that is in no store.

    Raises:
        BadImage: it can not be decoded.
        BadPicture: the file can not be read, or is too large.
    """
    return images.thumbnail(decode(file_bytes(Path(path)), name), SIDE)


def of_file_and_masks(
    path: str, name: str, masks: Sequence[str], *, threshold: int = 0, white_is_background: bool = False
) -> bytes:
    """JPEG bytes of a small copy of a picture that is in no store, with the outline of what its masks mark.

    Args:
        masks: their files; see `engine.masks.read_mask` for the other two.
    Raises:
        BadImage: the picture or a mask can not be decoded, or they don't fit.
        BadPicture: a file can not be read, or is too large.
    """
    image = decode(file_bytes(Path(path)), name)
    height, width = image.shape[:2]

    def fitted() -> Iterator[Mask]:
        for file in map(Path, masks):
            read = read_mask(
                file_bytes(file), file.name, threshold=threshold, white_is_background=white_is_background
            )
            yield fit_mask(read.mask, height, width, file.name, name)

    small = display.shrunk(image, SIDE)
    mask = display.shrunk_mask(merge_masks(fitted()), *small.shape[:2])
    return shrunk(heatmap.outline(small, mask, OUTLINE))


def shrunk(picture: Image.Image, side: int = SIDE) -> bytes:
    """JPEG bytes of `picture` with its longer side at most `side` pixels."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def data_url(data: bytes, kind: str = "jpeg") -> str:
    """The bytes of a small picture as an address that a browser draws without asking anybody."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def address(settings: Settings, digest: str, mask_digest: str | None = None) -> str:
    """Where a browser gets the small copy of a picture, with the outline of a mask; the address never changes."""
    name = f"{digest}-{mask_digest}" if mask_digest else digest
    key = tickets.address_key(tickets.secret(settings.home), f"thumbnails {name}")
    return f"{base_path()}/thumbnails/{name}?key={key}"


def routes(settings: Settings) -> list[BaseRoute]:
    """The route that `address` leads to, for `streamlit.App`."""
    return [Route(f"{base_path()}/thumbnails/{{name}}", _Route(settings).show)]


class _Route:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._blobs = open_blobs(settings)
        self._secret = tickets.secret(settings.home)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="thumbnails")

    @guarded
    async def show(self, request: Request) -> Response:
        name = request.path_params["name"]
        tickets.check_address_key(self._secret, f"thumbnails {name}", request.query_params.get("key", ""))
        data = await asyncio.get_running_loop().run_in_executor(self._threads, self._drawn, name)
        return Response(
            data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=31536000, immutable"}
        )

    def _drawn(self, name: str) -> bytes:
        digest, _, mask_digest = name.partition("-")
        if mask_digest:
            return outlined(self._settings, self._blobs, digest, mask_digest)
        return thumbnail(self._settings, self._blobs, digest, "picture")
