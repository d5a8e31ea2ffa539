"""Who may use the model server, and with how large requests: everything that is settled before a route is found.

A browser lets any page send requests to a server on this machine, so what comes from another page is refused, and so is
a Host header that names another server (a name of somebody else's can be made to lead here).
"""

import asyncio
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from storage.settings import Settings
from tuning.errors import RequestTooLarge
from tuning.serving.keys import Keys

OPEN_PATHS = ("/health",)  # what supervisors and containers ask
BODY_SECONDS = 60.0  # patience with a request that arrives slowly
DISCARDED_SHARE = (
    4  # of the largest request: read on so far before refusing, for who still sends hears no answer
)


def is_loopback(host: str) -> bool:
    """Whether what listens on this host can be reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key_required(settings: Settings) -> bool:
    """Whether every request needs an API key."""
    return settings.serve_require_key or not is_loopback(settings.serve_host)


class Access:
    """ASGI middleware: refuses other pages, other names, missing and wrong keys, and too large requests."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys) -> None:
        """Stand before `app`."""
        self._app = app
        self._keys = keys
        self._key_required = key_required(settings)
        self._hosts = _own_hosts(settings)
        self._max_bytes = int(settings.serve_max_request_mb * 1_000_000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or hand it on with a `receive` that gives no more than the largest body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        refusal = self._refusal(scope["path"], headers)
        if refusal is None and length.isdecimal() and int(length) > self._max_bytes:
            refusal = 413, self._too_large(f"{int(length):,}")
        if refusal is not None:
            if "expect" not in headers:
                await self._discard(receive)
            await _answer(refusal, scope, receive, send)
            return
        scope.setdefault("state", {})["own"] = self._keys.is_own(_key(headers) or "")
        await self._app(scope, self._bounded(receive), send)

    def _refusal(self, path: str, headers: Headers) -> tuple[int, str] | None:
        """Status and sentence for who may not use the server at all."""
        host, origin = headers.get("host", ""), headers.get("origin")
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none") or (origin is not None and urlsplit(origin).netloc != host):
            return 403, (
                f"The request was sent by a page of another site ({origin or site}). The model server answers programs "
                "only; let your own server ask it."
            )
        if not self._key_required and _name(host) not in self._hosts:
            return 403, (
                f"The request names the host {host!r}; without API keys the model server answers to "
                f"{', '.join(sorted(self._hosts))} only. Call it so, or set SIMPLENET_SERVE_PUBLIC_URL to its address."
            )
        if path in OPEN_PATHS:
            return None
        key = _key(headers)
        if key is None:
            if not self._key_required:
                return None
            return 401, (
                "The request carries no API key. Send the header 'Authorization: Bearer KEY'; `simplenet keys add "
                "NAME` makes one."
            )
        if not self._keys.opens(key):
            return 401, (
                f"The API key that begins with {key[:7]!r} is unknown or was revoked. `simplenet keys add NAME` makes "
                "a new one."
            )
        return None

    def _too_large(self, size: str) -> str:
        return (
            f"The request has {size} bytes; at most {self._max_bytes:,} are taken. Send fewer or smaller pictures, or "
            "raise SIMPLENET_SERVE_MAX_REQUEST_MB."
        )

    def _bounded(self, receive: Receive) -> Receive:
        """Count what arrives: a body may come without saying how long it is."""
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > self._max_bytes:
                if message.get("more_body"):
                    await self._discard(receive)
                raise RequestTooLarge(self._too_large(f"more than {self._max_bytes:,}"))
            return message

        return counted

    async def _discard(self, receive: Receive) -> None:
        """Read what is still being sent, within bounds."""
        left = DISCARDED_SHARE * self._max_bytes

        async def drain() -> None:
            nonlocal left
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return

        try:
            await asyncio.wait_for(drain(), BODY_SECONDS)
        except TimeoutError:
            return


def _own_hosts(settings: Settings) -> Collection[str]:
    addresses = (settings.model_server_url, settings.model_server_public_url)
    named = {urlsplit(address).hostname or "" for address in addresses}
    return {"localhost", "127.0.0.1", "::1", settings.serve_host, *named} - {""}


def _name(host: str) -> str:
    """The host of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _key(headers: Headers) -> str | None:
    """What stands in the Authorization header, whatever its kind; None where there is none."""
    value = headers.get("authorization")
    if value is None:
        return None
    kind, _, key = value.partition(" ")
    return key.strip() if kind.lower() == "bearer" else value


async def _answer(refusal: tuple[int, str], scope: Scope, receive: Receive, send: Send) -> None:
    status, sentence = refusal
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    await JSONResponse({"error": sentence}, status, headers=headers)(scope, receive, send)
