"""The picture in a request: a plain body, or a file of a form."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from tuning.errors import BadRequest
from tuning.serving.access import BODY_SECONDS

FIELD = "image"
HOW = f"Send the picture's bytes as the body with a Content-Type of image/…, or as the field '{FIELD}' of a form."


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        RequestTooLarge: it is longer than the server takes.
        BadRequest: it does not arrive.
    """
    try:
        return await asyncio.wait_for(request.body(), BODY_SECONDS)
    except TimeoutError as error:
        raise BadRequest(
            f"The request did not arrive within {BODY_SECONDS:g} s. Send it again over a faster connection."
        ) from error
    except ClientDisconnect as error:
        raise BadRequest("The connection ended before the request had arrived. Send it again.") from error


async def picture_in(request: Request, body: bytes) -> tuple[bytes, str]:
    """The bytes of the picture that was sent, and what messages call it.

    Raises:
        BadRequest: there is none, or several.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return body, "picture"
    if kind != "multipart/form-data":
        raise BadRequest(f"The Content-Type is {kind!r}, which is no picture. {HOW}")
    form_request = Request(request.scope, replayed(body, request.receive))
    try:
        async with form_request.form(max_files=1, max_fields=4) as form:
            files = form.getlist(FIELD)
            if len(files) != 1:
                names = ", ".join(map(repr, form)) or "none"
                raise BadRequest(f"The form has {len(files)} fields '{FIELD}'; it has {names}. {HOW}")
            (file,) = files
            if isinstance(file, str):
                return file.encode(), FIELD
            return await file.read(), file.filename or FIELD
    except HTTPException as error:  # Starlette's word for a form that is none
        raise BadRequest(f"The form can't be read ({error.detail}). {HOW}") from error


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
