"""System: what runs, what waits, what the installation takes on disk, and which versions it is made of."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import incidents, wording
from dashboard.components import look
from dashboard.disk import usage
from dashboard.sections import keys
from dashboard.session import workspace
from dashboard.versions import installed
from storage import studies
from storage.places import places
from storage.records import StudyState, Worker
from tuning import queries, supervisor

LIVE_SECONDS = 5.0


def show() -> None:
    """Draw the page."""
    with look.top("System"):
        st.link_button("MLflow", workspace().settings.mlflow_url, icon=":material/open_in_new:")
    st.fragment(_running, run_every=LIVE_SECONDS)()
    keys.show()
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Disk")
        _disk()
    with right:
        st.subheader("Versions")
        look.facts(list(installed().items()))
        st.subheader("Places")
        look.facts(list(places(workspace().settings).items()))


@incidents.guarded
def _running() -> None:
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Processes")
        _processes()
    with right:
        st.subheader("Workers")
        _workers(queries.live_workers(workspace()))
        _queue()


def _processes() -> None:
    statuses = supervisor.running(workspace().settings)
    if not statuses:
        st.info(
            "Started one by one; `simplenet up` starts, watches and restarts them all.",
            icon=":material/info:",
        )
        return
    rows = [
        {
            "process": status.name,
            "state": status.state,
            "address": status.address or "",
            "log": Path(status.log).name,
            "detail": status.detail,
        }
        for status in statuses
    ]
    config = {"address": st.column_config.LinkColumn()}
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=config)


def _workers(workers: Sequence[Worker]) -> None:
    if not workers:
        st.warning(
            "No worker is running: studies wait. Start one: `simplenet worker`", icon=":material/hourglass:"
        )
        return
    moment = queries.common_now(workspace())
    rows = [
        {
            "worker": worker.hostname,
            "process": worker.pid,
            "device": worker.device,
            "threads": worker.threads,
            "study": worker.study_id,
            "trial": None if worker.trial_number is None else worker.trial_number + 1,
            "heartbeat": wording.ago(worker.heartbeat_at, moment),
        }
        for worker in workers
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True)


def _queue() -> None:
    with workspace().session() as session:
        waiting = [study for study in studies.list_studies(session) if study.state is StudyState.QUEUED]
    if not waiting:
        st.caption("No study waits.")
        return
    names = ", ".join(wording.plain(f"{study.name} ({study.id})") for study in waiting)
    st.caption(f"{wording.plural(len(waiting), 'study')} {'waits' if len(waiting) == 1 else 'wait'}: {names}")


@st.cache_data(ttl=30, show_spinner="Adding up files …")
def _usage() -> dict[str, int]:
    return usage(workspace().settings)


def _disk() -> None:
    found = _usage()
    look.facts([(kind, wording.size(count)) for kind, count in found.items()])
    st.caption(
        "Features, maps and thumbnails can be deleted at any time; they are computed again when needed."
    )


if __name__ == "__main__":
    show()
