"""Routes beside the pages that take uploads: each body goes to disk as it comes, whatever its size.

| request | answer |
|---|---|
| POST /uploads with an `Announcement` | id; files it does without; where it goes on |
| GET /uploads/{id} | bytes received of each file that has some |
| GET /uploads/{id}/{index}?to=last | where these files go on |
| PATCH /uploads/{id}/{index}?to=last, header Upload-Offset | the same, after the body was written there |
| POST /uploads/{id}/complete | done, or an error that names what is missing |
| DELETE /uploads/{id} | |

A body may run on from one file into the next ones up to `to`: thousands of small pictures come in few requests.
Every request carries a ticket (dashboard/tickets.py). Refused ones are answered with {"error": sentence}.
"""

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from typing import ParamSpec, TypeVar

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dashboard import tickets, unread
from dashboard.guard import answer, base_path, guarded
from storage import staging
from storage.errors import BadUpload, OffsetMismatch, UploadTooLarge
from storage.names import faults, shown
from storage.records import Skipped
from storage.settings import Settings
from storage.staging import Limits, Position, Upload
from tuning import arrivals, exports

SILENT_SECONDS = 60  # a connection that says nothing for so long is closed
BUFFER_BYTES = 1 << 20  # written at once; all that a request holds in memory
MAX_ANNOUNCEMENT_BYTES = 64 << 20  # the names of 200,000 files fit
TICKET_HEADER = "Upload-Ticket"
OFFSET_HEADER = "Upload-Offset"

P = ParamSpec("P")
T = TypeVar("T")


def limits(settings: Settings) -> Limits:
    """What one upload may take in this installation."""
    return Limits(max_bytes=settings.upload_max_gb * 1e9)


def routes(settings: Settings) -> list[BaseRoute]:
    """The routes of uploads, for `streamlit.App`."""
    uploads, base = Uploads(settings), f"{base_path()}/uploads"
    return [
        Route(base, uploads.begin, methods=["POST"]),
        Route(f"{base}/{{id}}", uploads.show, methods=["GET"]),
        Route(f"{base}/{{id}}", uploads.discard, methods=["DELETE"]),
        Route(f"{base}/{{id}}/complete", uploads.complete, methods=["POST"]),
        Route(f"{base}/{{id}}/{{index:int}}", uploads.position, methods=["GET"]),
        Route(f"{base}/{{id}}/{{index:int}}", uploads.receive, methods=["PATCH"]),
    ]


class Announcement(BaseModel):
    """What a browser tells before it sends anything."""

    dataset: str = Field(max_length=200)
    files: list[tuple[str, int, float]]  # name, bytes, when it was last changed
    left_out: list[
        str
    ] = []  # names of what was chosen too and is not sent, for it is of no kind that is read

    def fingerprint(self) -> str:
        """Equal for the same files chosen again, and in all likelihood for no others."""
        return sha256(json.dumps(self.files).encode()).hexdigest()


class Uploads:
    """The answers. Threads of its own do what waits for the disk, so that pages never wait for an upload."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.staging_folder
        self._limits = limits(settings)
        self._secret = tickets.secret(settings.home)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="upload")

    @guarded
    async def begin(self, request: Request) -> Response:
        self._check_ticket(request)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_ANNOUNCEMENT_BYTES:
                raise UploadTooLarge("The list of files is too long. Pack them into a zip.")
        upload, refused, found = await self._in_thread(self._find_or_create, bytes(body))
        received = await self._in_thread(_received, upload) if found else {}
        # Numbers of files are those of the upload, which does without the refused ones.
        values = {"id": upload.id, "refused": list(refused.items()), "received": received}
        return answer(values, 200 if found else 201)

    def _find_or_create(self, body: bytes) -> tuple[Upload, dict[int, str], bool]:
        """The upload; why it does without some of the announced files, by their place in the list; whether it was."""
        try:
            announced = Announcement.model_validate_json(body)
        except ValidationError as error:
            raise BadUpload(
                f"The list of files can't be read: {error.errors(include_url=False)[0]['msg']}. Reload the page."
            ) from error
        refused = faults([name for name, _, _ in announced.files])
        if refused and len(refused) == len(announced.files):
            first = next(iter(refused.values()))
            many = f"None of the {len(refused):,} files can be taken. The first: "
            raise BadUpload(first if len(refused) == 1 else many + first)
        now = datetime.now(UTC)
        arrivals.sweep(self._settings)
        exports.sweep(self._settings)
        fingerprint = announced.fingerprint()
        found = staging.find_unfinished(self._folder, dataset=announced.dataset, fingerprint=fingerprint)
        if found:
            return found, refused, True
        created = staging.create(
            self._folder,
            files=[
                (name, size) for index, (name, size, _) in enumerate(announced.files) if index not in refused
            ],
            dataset=announced.dataset,
            limits=self._limits,
            now=now,
            fingerprint=fingerprint,
            refused=[
                Skipped(name=shown(announced.files[index][0])[1:-1], reason=reason)
                for index, reason in refused.items()
            ]
            + unread.skipped(announced.left_out),
        )
        return created, refused, False

    @guarded
    async def show(self, request: Request) -> Response:
        upload = await self._upload(request)
        received = await self._in_thread(_received, upload)
        return answer(
            {
                "id": upload.id,
                "dataset": upload.dataset,
                "files": len(upload.files),
                "size": upload.size,
                "received": received,
                "complete": upload.completed is not None,
            }
        )

    @guarded
    async def position(self, request: Request) -> Response:
        upload = await self._upload(request)
        first, last = _span(request)
        return _answer_position(await self._in_thread(staging.position, upload, first, last))

    @guarded
    async def receive(self, request: Request) -> Response:
        upload = await self._upload(request)
        first, last = _span(request)
        length = _number(request.headers.get("content-length"), "The header Content-Length")
        at = Position(first, _number(request.headers.get(OFFSET_HEADER), f"The header {OFFSET_HEADER}"))
        await self._in_thread(self._check_slice, upload, at, last, length)
        pending = bytearray()
        try:
            async with asyncio.timeout(SILENT_SECONDS) as limit:
                async for chunk in request.stream():
                    pending += chunk
                    if len(pending) >= BUFFER_BYTES:
                        limit.reschedule(None)  # a slow disk is not the client's silence
                        full, pending = pending, bytearray()
                        at = await self._in_thread(staging.append, upload, at, last, full)
                    limit.reschedule(asyncio.get_running_loop().time() + SILENT_SECONDS)
        except (ClientDisconnect, TimeoutError):
            await self._in_thread(staging.append, upload, at, last, pending)  # what came is kept
            return answer({"error": "The connection was lost."}, 408)
        at = await self._in_thread(staging.append, upload, at, last, pending)
        return _answer_position(at)

    def _check_slice(self, upload: Upload, at: Position, last: int, length: int) -> None:
        """Refuse a body before it comes, where it can't be written."""
        true = staging.position(upload, at.index, last)
        room = sum(file.size for file in upload.files[at.index : last + 1]) - at.offset
        if length > room:
            raise UploadTooLarge(
                f"The body has {length} bytes, but only {max(0, room)} were announced from there to file {last}. "
                "Reload the page and choose the files again."
            )
        if at != true:
            raise OffsetMismatch(
                f"The upload goes on at byte {true.offset} of file {true.index}, not at byte {at.offset} of file "
                f"{at.index}.",
                index=true.index,
                offset=true.offset,
            )
        staging.check_room(upload.folder, length, self._limits)

    @guarded
    async def complete(self, request: Request) -> Response:
        upload = await self._upload(request)
        done = await self._in_thread(staging.complete, upload, datetime.now(UTC))
        return answer({"id": done.id, "complete": True})

    @guarded
    async def discard(self, request: Request) -> Response:
        upload = await self._upload(request)
        await self._in_thread(staging.discard, self._folder, upload.id)
        return answer({})

    async def _upload(self, request: Request) -> Upload:
        self._check_ticket(request)
        return await self._in_thread(staging.find, self._folder, request.path_params["id"])

    def _check_ticket(self, request: Request) -> None:
        tickets.check(self._secret, request.headers.get(TICKET_HEADER, ""), time.time())

    async def _in_thread(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: function(*arguments, **named)
        )


def _received(upload: Upload) -> dict[int, int]:
    """Bytes by index, of files that have some: most of 20,000 have none, or all would be told with every reload."""
    return {index: size for index, size in enumerate(staging.received(upload)) if size}


def _answer_position(at: Position) -> Response:
    return answer({"index": at.index, "offset": at.offset})


def _span(request: Request) -> tuple[int, int]:
    first = int(request.path_params["index"])
    return first, _number(request.query_params.get("to", str(first)), "The parameter 'to'")


def _number(text: str | None, what: str) -> int:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadUpload(f"{what} is {text!r}; it must be a whole number from 0. Reload the page.")
    return int(text)
