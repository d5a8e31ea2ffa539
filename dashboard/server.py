"""How the dashboard's process is started, theme included: `python -m dashboard.server` with Streamlit's flags."""

import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from dashboard.theme import THEME_FILE
from storage.settings import Settings

APP_FILE = Path(__file__).parent / "app.py"
GRACE_SECONDS = 5.0  # for answers under way, once the server is asked to end


def command(settings: Settings) -> list[str]:
    """Arguments of the process that serves the dashboard on `settings.host` and `settings.dashboard_port`.

    The home and the other settings reach it through the environment, as they reach every process. Flags win over
    whatever Streamlit configuration lies in the current folder or the user's home.
    """
    options = {
        "server.address": settings.host,
        "server.port": settings.dashboard_port,
        "server.headless": "true",  # opens no browser and asks no question
        "server.fileWatcherType": "none",  # an installation does not change under its feet
        "server.showEmailPrompt": "false",
        "browser.gatherUsageStats": "false",
        "runner.magicEnabled": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",  # dashboard/incidents.py shows what a person can use
        "theme.base": THEME_FILE,
    }
    return [sys.executable, "-m", "dashboard.server", *(f"--{key}={value}" for key, value in options.items())]


def serve(flags: Sequence[str], script: Path = APP_FILE) -> None:
    """Serve the pages of `script` and our routes beside them in this process, until it is asked to end.

    MLflow and torch are imported first, by this one thread: that takes seconds which no visitor then waits, and two
    visitors' threads that import MLflow at once leave it half imported for good.
    """
    import streamlit
    from streamlit.web import bootstrap

    from dashboard import downloads, maps, thumbnails, uploads
    from tuning import candidates, packaging, predictor  # noqa: F401

    # uvicorn closes everything, then raises the signals again for whoever handles them besides.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    settings = Settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    options = streamlit_options(flags)
    bootstrap.load_config_options(options)  # routes lie below server.baseUrlPath
    answering = (uploads, thumbnails, downloads, maps)
    routes = [route for module in answering for route in module.routes(settings)]
    app = streamlit.App(script, routes=routes, lifespan=_ending)
    send_at_once()
    app.run(config=options)


def send_at_once() -> None:
    """Let the server send small answers at once.

    Streamlit binds its socket without naming TCP, so asyncio leaves Nagle's algorithm on: the body of every answer
    waits 40 ms for the browser to acknowledge the headers, and a page has dozens of thumbnails. Connections inherit
    the option from the socket that listens. A Streamlit that binds elsewhere is left as it is, only slower.
    """
    from streamlit.web.server.starlette import starlette_server

    bind = getattr(starlette_server, "_bind_socket", None)
    if bind is None:
        return

    @functools.wraps(bind)
    def bind_without_delay(*args: Any, **kwargs: Any) -> socket.socket:
        bound: socket.socket = bind(*args, **kwargs)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return bound

    starlette_server._bind_socket = bind_without_delay


@asynccontextmanager
async def _ending(_app: object) -> AsyncIterator[None]:
    """Let nobody hold the server up for long once it is asked to end: uvicorn waits for every upload and download.

    It gives up waiting at a Ctrl-C that comes after another signal.
    """

    def in_time(ask: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], Any]:
        def asked(number: int, frame: FrameType | None) -> None:
            hurry = threading.Timer(GRACE_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
            hurry.daemon = True
            hurry.start()
            ask(number, frame)

        return asked

    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)  # uvicorn's, which goes when the server ends
        if callable(handler):
            signal.signal(number, in_time(handler))
    yield


def streamlit_options(flags: Sequence[str]) -> dict[str, str | int | bool]:
    """Streamlit's options from flags such as `--server.port=8501`, with the types that Streamlit wants."""
    options: dict[str, str | int | bool] = {}
    for flag in flags:
        key, _, text = flag.removeprefix("--").partition("=")
        if text in ("true", "false"):
            options[key] = text == "true"
        else:
            options[key] = int(text) if text.isdecimal() else text
    return options


if __name__ == "__main__":
    serve(sys.argv[1:])
