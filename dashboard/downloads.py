"""Files that browsers get by address: exports of versions, models and batches, and pictures as they were given.

They are sent from disk a part at a time; Streamlit's own button would hold the whole of an archive in memory.
"""

import asyncio
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from dashboard import tickets
from dashboard.errors import NothingThere
from dashboard.guard import base_path, guarded
from storage.blobs import BlobStore
from storage.settings import Settings
from storage.workspace import open_blobs
from tuning import batches
from tuning.export_names import picture_suffix

# What browsers are told of a picture; they show the first four and keep the last.
KINDS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
}
_ARCHIVE = re.compile(r"[a-z0-9-]+\.(zip|onnx)")


def archive_address(settings: Settings, file: Path) -> str:
    """Where a browser gets an archive of the exports' folder."""
    return _address(settings, "exports", file.name)


def original_address(settings: Settings, digest: str, *, batch: str | None = None) -> str:
    """Where a browser gets a picture byte for byte as it was given, to a dataset or in a batch."""
    return _address(settings, "originals", digest, batch)


def routes(settings: Settings) -> list[BaseRoute]:
    """The routes that the addresses lead to, for `streamlit.App`."""
    answers, base = _Downloads(settings), base_path()
    return [
        Route(f"{base}/exports/{{name}}", answers.archive),
        Route(f"{base}/originals/{{name}}", answers.original),
    ]


class _Downloads:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._blobs = open_blobs(settings)
        self._secret = tickets.secret(settings.home)

    @guarded
    async def archive(self, request: Request) -> Response:
        name = self._checked(request, "exports")
        file = self._settings.exports_folder / name
        if not _ARCHIVE.fullmatch(name) or not file.is_file():
            raise NothingThere(
                f"Archive '{name}' is not there any more; exports are kept for a day. Prepare it again on the page "
                "that offered it."
            )
        return FileResponse(
            file,
            filename=name,
            media_type="application/zip" if file.suffix == ".zip" else "application/octet-stream",
            headers={"Cache-Control": "no-store"},
        )

    @guarded
    async def original(self, request: Request) -> Response:
        digest, batch = self._checked(request, "originals"), request.query_params.get("batch")
        # It may have to be fetched.
        file, suffix = await asyncio.to_thread(self._picture, digest, batch)
        return FileResponse(
            file,
            filename=f"{digest[:12]}{suffix}",
            content_disposition_type="inline",
            media_type=KINDS[suffix],
            headers={
                "Cache-Control": "private, max-age=31536000, immutable",
                "X-Content-Type-Options": "nosniff",  # it came from outside, and is a picture, whatever it may seem
            },
        )

    def _picture(self, digest: str, batch: str | None) -> tuple[Path, str]:
        store: BlobStore = self._blobs
        if batch is not None:
            store = batches.pictures(batches.find(self._settings, batch))
        # The suffix that it came with is not known here; the bytes tell it.
        suffix = picture_suffix("", next(store.chunks(digest, size=12), b""))
        return store.path(digest), suffix

    def _checked(self, request: Request, kind: str) -> str:
        name = str(request.path_params["name"])
        subject = _subject(kind, name, request.query_params.get("batch"))
        tickets.check_address_key(self._secret, subject, request.query_params.get("key", ""))
        return name


def _address(settings: Settings, kind: str, name: str, batch: str | None = None) -> str:
    key = tickets.address_key(tickets.secret(settings.home), _subject(kind, name, batch))
    return f"{base_path()}/{kind}/{name}?key={key}{f'&batch={batch}' if batch else ''}"


def _subject(kind: str, name: str, batch: str | None) -> str:
    return f"{kind} {name}{f' {batch}' if batch else ''}"
