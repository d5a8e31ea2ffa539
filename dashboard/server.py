"""How the dashboard's process is started, theme included: `python -m dashboard.server` with Streamlit's flags."""

import sys
from pathlib import Path

from dashboard.theme import THEME_FILE
from storage.settings import Settings

APP_FILE = Path(__file__).parent / "app.py"


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


def serve(flags: list[str]) -> None:
    """Run Streamlit in this process until it is asked to end.

    MLflow and torch are imported first, by this one thread: that takes seconds which no visitor then waits, and two
    visitors' threads that import MLflow at once leave it half imported for good.
    """
    from streamlit.web import cli

    from tuning import packaging, predictor  # noqa: F401

    cli.main(["run", str(APP_FILE), *flags], prog_name="streamlit")


if __name__ == "__main__":
    serve(sys.argv[1:])
