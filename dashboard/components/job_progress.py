"""A job in the background as people watch it: how far it is, how long it will take, and how to stop it."""

from collections.abc import Callable

import streamlit as st

from dashboard.session import workspace
from dashboard.wording import plain, time_left
from tuning import jobs
from tuning.jobs import Job, JobState

LIVE_SECONDS = 0.7


def watch(job: Job | None, *, words: Callable[[Job], str]) -> bool:
    """Draw a running job; the page runs again at its end.

    Args:
        job: what is known of it.
        words: what is said of it beside the bar.
    Returns:
        whether it runs, and nothing else need be drawn for it.
    """
    if job is None or job.state is not JobState.RUNNING:
        return False
    key = job.key

    @st.fragment(run_every=LIVE_SECONDS)
    def live() -> None:
        now = jobs.status(workspace().settings, key)
        if now is None or now.state is not JobState.RUNNING:
            st.rerun()
            return
        st.progress(min(1.0, now.done / now.total) if now.total else 0.0, text=plain(words(now)))

    with st.container(border=True):
        live()
        st.caption("This goes on when you leave the page.")
        if st.button("Cancel", key=f"cancel {key}", icon=":material/cancel:"):
            jobs.cancel(workspace().settings, key)
    return True


def of_batch(job: Job) -> str:
    """How far the scoring of a batch is: in bytes while its archive is unpacked, then in pictures."""
    return counted(job, "bytes" if job.text.startswith(jobs.UNPACKING) else "pictures")


def counted(job: Job, noun: str) -> str:
    """'comparing scores: 12 of 142 pictures, about 4 s left'."""
    if not job.total:
        return f"{job.text} …"
    left = f", {time_left(job.seconds_left)}" if job.seconds_left is not None else ""
    return f"{job.text}: {job.done:,} of {job.total:,} {noun}{left}"
