"""What all visitors of the dashboard share: the open workspace, and the log."""

import streamlit as st

from dashboard import logs
from storage.workspace import Workspace, open_workspace

WHO = "dashboard"  # until people log in, what is done from a page names the page


@st.cache_resource(show_spinner="Opening the workspace …")
def workspace() -> Workspace:
    """The workspace that the environment names, opened and migrated once per process."""
    opened = open_workspace()
    logs.configure(opened.settings.log_level)
    return opened
