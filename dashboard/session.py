"""What all visitors of the dashboard share: the open workspace, and the log."""

import importlib
import threading

import streamlit as st

from dashboard import logs
from storage.workspace import Workspace, open_workspace


@st.cache_resource(show_spinner="Opening the workspace …")
def workspace() -> Workspace:
    """The workspace that the environment names, opened and migrated once per process."""
    opened = open_workspace()
    logs.configure(opened.settings.log_level)
    threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()
    return opened


def _warm_up() -> None:
    """Import what some page will need, while the first visitor still reads: MLflow and torch take seconds."""
    for name in ("tuning.queries", "tuning.champion", "tuning.predictor"):
        importlib.import_module(name)
