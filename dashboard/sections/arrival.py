"""One arrival on its way to a dataset version: being looked at, to be reviewed, being taken in, done."""

import csv
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st

from dashboard import incidents
from dashboard.components import left_out
from dashboard.sections import review
from dashboard.session import workspace
from dashboard.wording import plain, plural, time_left
from storage.errors import UploadNotFound
from tuning import arrivals, jobs
from tuning.jobs import Job, JobState

LIVE_SECONDS = 0.7


def show(arrival_id: str, name: str) -> None:
    """Draw where the arrival is, and what a person can do now.

    Args:
        arrival_id: from the page's address.
        name: of the dataset it is meant for; empty for one that is to be made.
    """
    taking = _status(arrivals.take_key, arrival_id)
    if taking is not None and taking.state is not JobState.CANCELLED:
        _taking(arrival_id, taking)
        return
    try:
        arrival = arrivals.find(workspace(), arrival_id)
    except UploadNotFound as error:
        st.warning(plain(str(error)), icon=":material/search_off:")
        st.button("Add other pictures", on_click=leave)
        return
    if taking is not None:
        done = arrivals.taken(workspace(), arrival_id)
        rest = "nothing was changed" if not done else f"what was done before stays: {_named(done)}"
        st.info(f"Taking in was cancelled; {rest}.", icon=":material/undo:")
    looking = _status(arrivals.look_key, arrival_id)
    if looking is None:
        looking = arrivals.start_look(workspace(), arrival_id)
    if looking.state is JobState.RUNNING:
        st.subheader(f"Looking at {plain(arrival.origin)}")
        _progress(arrivals.look_key, arrival_id, lambda job: f"{job.text} …")
    elif looking.state is JobState.DONE:
        review.show(arrival, name)
    else:
        st.subheader(plain(arrival.origin))
        incidents.refused(looking.error or "Looking at it was interrupted.")
        with st.container(horizontal=True):
            if st.button("Look again", icon=":material/refresh:"):
                arrivals.start_look(workspace(), arrival_id)
                st.rerun()
            st.button("Discard", on_click=review.discard, args=[arrival_id], icon=":material/delete:")


def leave() -> None:
    """Forget the arrival in the page's address."""
    st.query_params.pop("arrival", None)


def _status(key: Callable[[str], str], arrival_id: str) -> Job | None:
    try:
        return jobs.status(workspace().settings, key(arrival_id))
    except ValueError:  # the address holds no id
        return None


def _taking(arrival_id: str, job: Job) -> None:
    if job.state is JobState.RUNNING:
        st.subheader("Taking the pictures in")
        st.caption(
            "This goes on when you leave the page. A dataset changes when all its pictures have been read, not before."
        )
        _progress(arrivals.take_key, arrival_id, _pace)
        if st.button("Cancel", icon=":material/cancel:"):
            jobs.cancel(workspace().settings, job.key)
            st.rerun()
    elif job.state is JobState.DONE:
        _outcome(arrival_id, job.result)
    else:
        interrupted = "Taking the pictures in was interrupted; no dataset was changed by half."
        incidents.refused(job.error or interrupted)
        if done := arrivals.taken(workspace(), arrival_id):
            st.info(f"Taken in before that, and there: {_named(done)}.", icon=":material/check_circle:")
        with st.container(horizontal=True):
            if st.button("Continue", type="primary", icon=":material/play_arrow:"):
                arrivals.start_take(workspace(), arrival_id)
                st.rerun()
            if st.button("Change what was decided", icon=":material/edit:"):
                jobs.forget(workspace().settings, job.key)
                st.rerun()
            review.ask_to_discard(arrival_id)


def _pace(job: Job) -> str:
    left = f", {time_left(job.seconds_left)}" if job.seconds_left is not None else ""
    return f"{job.done:,} of {job.total:,} pictures{left} ({job.text})"


def _progress(key: Callable[[str], str], arrival_id: str, words: Callable[[Job], str]) -> None:
    @st.fragment(run_every=LIVE_SECONDS)
    def live() -> None:
        job = _status(key, arrival_id)
        if job is None or job.state is not JobState.RUNNING:
            st.rerun()
            return
        st.progress(min(1.0, job.done / job.total) if job.total else 0.0, text=plain(words(job)))

    live()


def _named(results: list[dict[str, Any]]) -> str:
    return ", ".join(f"dataset {one['dataset']}, version {one['version']}" for one in results)


def _outcome(arrival_id: str, results: list[dict[str, Any]]) -> None:
    """What came of it, per dataset, with what was left out."""
    for one in results:
        if one.get("made", True):
            st.success(
                f"Dataset **{one['dataset']}**, version {one['version']}: {plural(one['pictures'], 'picture')}.",
                icon=":material/check_circle:",
            )
        else:
            st.info(
                f"Nothing new: dataset **{one['dataset']}** is as it was, version {one['version']}.",
                icon=":material/equal:",
            )
        for note in one["notes"]:
            st.caption(plain(note))
        skipped = one["skipped"]
        if skipped:
            st.warning(
                f"{plural(one['left_out'], 'file')} left out, the others are in.", icon=":material/rule:"
            )
            left_out.table(skipped, "Picture", count=one["left_out"])
            st.download_button(
                "Download the report",
                partial(_report, arrival_id, one["version_id"]),
                file_name=f"{one['dataset']}-version-{one['version']}-left-out.csv",
                icon=":material/download:",
                key=f"report {one['dataset']}",
            )
        with st.container(horizontal=True):
            name = one["dataset"]
            st.button(
                "See the pictures", key=f"see {name}", type="primary", on_click=_go, args=[name, "Pictures"]
            )
            st.button(
                "Check them",
                key=f"check {name}",
                icon=":material/stethoscope:",
                on_click=_go,
                args=[name, "Check"],
            )
    if not results:
        st.info("Everything was left out, as was decided.", icon=":material/info:")
    st.button("Add more pictures", on_click=leave, icon=":material/add:")


def _go(dataset: str, section: str) -> None:
    for parameter in ("arrival", "new"):
        st.query_params.pop(parameter, None)
    st.query_params["dataset"] = dataset
    st.session_state["section"] = section


def _report(arrival_id: str, version_id: int) -> str:
    return _csv(arrivals.left_out(workspace().settings, arrival_id, version_id))


def _csv(skipped: list[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["name", "reason"])
    writer.writeheader()
    writer.writerows({key: _as_text(value) for key, value in one.items()} for one in skipped)
    return out.getvalue()


def _as_text(cell: str) -> str:
    """A cell that a spreadsheet shows and never computes: files may be called '=HYPERLINK(…)'."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell
