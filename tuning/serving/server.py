"""Running the model server in this process."""

import logging
from typing import TYPE_CHECKING

from storage import api_keys
from storage.settings import Settings
from storage.workspace import Workspace
from tuning.errors import ServingRefused
from tuning.ports import is_free
from tuning.serving.access import is_loopback, key_required

if TYPE_CHECKING:
    from tuning.serving.app import Draw

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10  # for requests under way, once the server is asked to end


def serve(workspace: Workspace, draw: "Draw") -> None:
    """Serve the champions of an installation until SIGTERM or Ctrl-C.

    Raises:
        ServingRefused: other machines could reach it and there is no API key, or its port is taken.
    """
    settings = workspace.settings
    refuse_open(workspace)
    if not is_free(settings.serve_host, settings.serve_port):
        raise ServingRefused(
            f"Port {settings.serve_port} of {settings.serve_host} is taken by another program. Free it, or set "
            "SIMPLENET_SERVE_PORT to another port."
        )
    # Seconds of imports, after what may be refused at once; by this one thread, or MLflow is left half imported.
    import uvicorn

    from tuning.serving.app import make_app

    app, _ = make_app(workspace, draw)
    logger.info("model server on %s:%d", settings.serve_host, settings.serve_port)
    # uvicorn ends with 1 where it can't listen, and raises the signal that ended it once more.
    uvicorn.run(
        app,
        host=settings.serve_host,
        port=settings.serve_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def refuse_open(workspace: Workspace) -> None:
    """Let no server start that other machines can reach while there is no key to ask them for.

    Raises:
        ServingRefused: that is so.
    """
    settings: Settings = workspace.settings
    if not key_required(settings):
        return
    with workspace.session() as session:
        if api_keys.active_keys(session):
            return
    why = (
        "SIMPLENET_SERVE_REQUIRE_KEY is set"
        if is_loopback(settings.serve_host)
        else f"SIMPLENET_SERVE_HOST is {settings.serve_host!r}, which other machines can reach"
    )
    raise ServingRefused(
        f"The model server does not start: {why}, and there is no API key. Make one with `simplenet keys add NAME`, or "
        "leave the setting out to serve this machine only."
    )
