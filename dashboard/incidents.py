"""What a visitor sees when something goes wrong: our own errors as they are, everything else as a numbered incident."""

import functools
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

import streamlit as st

from dashboard.errors import DashboardError
from dashboard.wording import plain
from engine.errors import EngineError
from storage.errors import StorageError
from tuning.errors import TuningError

logger = logging.getLogger(__name__)

OURS = (EngineError, StorageError, TuningError, DashboardError)

P = ParamSpec("P")


def refused(reason: object, *, icon: str = ":material/block:") -> None:
    """Say why something can't be done. What is named in it is shown as it is, never read as Markdown."""
    st.error(plain(str(reason)), icon=icon)


@contextmanager
def shown() -> Iterator[None]:
    """Show what goes wrong inside: our errors as they are; the others go to the log with their traceback."""
    try:
        yield
    except OURS as error:
        refused(error, icon=":material/error:")
    except Exception:  # the last resort of a page; the log has it all
        incident = secrets.token_hex(3).upper()
        logger.exception("incident %s", incident)
        st.error(
            f"Something went wrong that this page can not explain (incident {incident}). Reload the page; if it stays, "
            "the dashboard's log tells more under that number.",
            icon=":material/report:",
        )


def guarded(function: Callable[P, None]) -> Callable[P, None]:
    """Wrap a fragment: it reruns alone, outside the page's own `shown()`."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        with shown():
            function(*args, **kwargs)

    return wrapper
