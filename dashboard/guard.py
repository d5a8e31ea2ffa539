"""What every route of ours does before and after its own work: refuse other pages, and answer errors as sentences."""

import functools
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from streamlit import config

from dashboard.errors import BadTicket, DashboardError, ForeignPage, NothingThere
from engine.errors import EngineError
from storage import errors
from storage.errors import StorageError
from tuning.errors import TuningError

logger = logging.getLogger(__name__)

STATUS: dict[type[Exception], int] = {
    BadTicket: 401,
    ForeignPage: 403,
    NothingThere: 404,
    errors.UploadNotFound: 404,
    errors.BlobMissing: 404,
    errors.OffsetMismatch: 409,
    errors.UploadIncomplete: 409,
    errors.UploadTooLarge: 413,
    errors.BlobsUnavailable: 503,
    errors.DiskFull: 507,
}

Endpoint = Callable[[Any, Request], Awaitable[Response]]


def base_path() -> str:
    """What stands before every address of the dashboard: '' or for instance '/quality'."""
    base = str(config.get_option("server.baseUrlPath") or "").strip("/")
    return f"/{base}" if base else ""


def guarded(endpoint: Endpoint) -> Endpoint:
    """Wrap a method that answers a request: pages of others are refused, and errors become {"error": sentence}."""

    @functools.wraps(endpoint)
    async def wrapper(self: Any, request: Request) -> Response:
        try:
            refuse_foreign_page(request)
            return await endpoint(self, request)
        except (EngineError, StorageError, TuningError, DashboardError) as error:
            status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
            place = (
                {"index": error.index, "offset": error.offset}
                if isinstance(error, errors.OffsetMismatch)
                else {}
            )
            return answer({"error": str(error), **place}, status)
        except Exception:  # the last resort of a request; the log has it all
            incident = secrets.token_hex(3).upper()
            logger.exception("incident %s", incident)
            sentence = (
                f"Something went wrong on the server (incident {incident}); its log has more about that."
            )
            return answer({"error": sentence}, 500)

    return wrapper


def answer(values: dict[str, Any], status: int = 200) -> Response:
    """JSON that nobody keeps."""
    return JSONResponse(values, status, headers={"Cache-Control": "no-store"})


def refuse_foreign_page(request: Request) -> None:
    """Accept what a page of this dashboard sends, or a program that is no browser.

    Raises:
        ForeignPage: a browser says that another page sent it.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if origin is not None and origin in config.get_option("server.corsAllowedOrigins"):
        return
    if site is None:
        # Browsers leave it out where the address is plain http on another machine. No header at all: no browser.
        ours = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    else:
        ours = site in ("same-origin", "none")  # none: typed by a person
    if not ours:
        raise ForeignPage(
            f"The request was sent by another page ({origin or site}), which this dashboard does not allow. If that is "
            "its own address behind a proxy, let the proxy keep the Host header, or name the address in Streamlit's "
            "option server.corsAllowedOrigins."
        )
