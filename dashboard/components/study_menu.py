"""Buttons for what can be asked of a study now: pause and cancel, more trials, a configuration, a name, a place."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from dashboard import incidents, wording
from dashboard.session import workspace
from dashboard.views import STUDIES
from storage.errors import StorageError
from storage.records import Study, StudyState, Wanted
from tuning import commands, steering
from tuning.errors import TuningError
from tuning.spec import Range, StudySpec, Values

DONE = "study menu: done"  # in the session: what to say once the page is drawn anew


def show(study: Study) -> None:
    """Draw the buttons; what they do is done before this returns, or the page is drawn anew."""
    if done := st.session_state.pop(DONE, None):
        st.toast(wording.plain(done), icon=":material/check:")
    if not study.state.finished:
        _run(study)
    if study.state is not StudyState.CANCELLED and study.wanted is not Wanted.CANCEL:
        with st.popover("Trials", icon=":material/science:"):
            _trials(study)
    with st.popover("More", icon=":material/more_vert:"):
        _more(study)


def _run(study: Study) -> None:
    def ask(wanted: Wanted) -> None:
        # A button's action runs before the page, where nothing would show its error.
        try:
            commands.want(workspace(), study.id, wanted)
        except StorageError as error:
            st.toast(wording.plain(str(error)), icon=":material/error:")

    if study.state is StudyState.PAUSED or study.wanted is Wanted.PAUSE:
        st.button("Resume", icon=":material/play_arrow:", on_click=ask, args=[Wanted.RUN])
    elif study.state in (StudyState.RUNNING, StudyState.QUEUED):
        st.button("Pause", icon=":material/pause:", on_click=ask, args=[Wanted.PAUSE])
    with st.popover("Cancel", icon=":material/close:", disabled=study.wanted is Wanted.CANCEL):
        st.write("The trials so far stay in MLflow; no model comes of this study, and it can not be resumed.")
        st.button("Cancel the study", on_click=ask, args=[Wanted.CANCEL])


def _trials(study: Study) -> None:
    """More trials, a configuration by hand, a follow-up."""
    st.markdown("**More trials**")
    more = st.number_input("How many more", 1, 1000, 10, key=f"more-{study.id}")
    if study.state.finished:
        st.caption(f"The study is {study.state.value}; with more trials it goes back to the queue.")
    if st.button("Add trials", icon=":material/add:", key=f"add-{study.id}"):
        _do(
            lambda: steering.add_trials(workspace(), study.id, int(more)),
            f"{more} more trials will be tried.",
        )
    st.divider()
    st.markdown("**Try a configuration**")
    st.caption("It is tried next, beyond the budget. What is left empty, the sampler chooses.")
    spec = StudySpec.from_json(study.spec)
    asked = {name: _value(name, values, f"try-{study.id}-{name}") for name, values in spec.space.items()}
    if st.button("Enqueue", icon=":material/playlist_add:", key=f"enqueue-{study.id}"):
        wanted = {name: value for name, value in asked.items() if value is not None}
        _do(lambda: steering.enqueue(workspace(), study.id, wanted), "The configuration will be tried next.")
    st.divider()
    st.markdown("**Narrow into a follow-up**")
    st.caption(
        "A new study of the same pictures, in a space around the best trials of this one, which it starts from."
    )
    if st.button("Narrow", icon=":material/filter_alt:", key=f"narrow-{study.id}"):
        _open(lambda: steering.narrow(workspace(), study.id))


def _value(name: str, values: Values, key: str) -> Any:
    if isinstance(values, Range):
        number = dict[str, Any](step=1) if values.integer else dict[str, Any](step=None, format="%g")
        return st.number_input(
            f"{wording.knob(name)}, {values}",
            value=None,
            key=key,
            placeholder="the sampler's choice",
            **number,
        )
    return st.selectbox(
        wording.knob(name),
        values,
        index=None,
        format_func=wording.knob_value,
        key=key,
        placeholder="the sampler's choice",
    )


def _more(study: Study) -> None:
    """Clone, name, place in the queue, place in lists."""
    name = st.text_input("Name", study.name, max_chars=200, key=f"name-{study.id}")
    if st.button("Rename", icon=":material/edit:", key=f"rename-{study.id}"):
        _do(lambda: steering.rename(workspace(), study.id, name), "The study has another name.")
    st.page_link(
        STUDIES,
        label="Clone: a new study with these settings",
        icon=":material/content_copy:",
        query_params={"new": "1", "dataset": study.dataset_name, "like": str(study.id)},
    )
    if not study.state.finished and st.button(
        "Move up", icon=":material/vertical_align_top:", key=f"up-{study.id}",
        help="Before all other studies that wait. What runs is not interrupted.",
    ):  # fmt: skip
        _do(
            lambda: steering.move_up(workspace(), study.id), "The study is taken before all others that wait."
        )
    if study.archived_at is not None:
        if st.button("Bring back", icon=":material/unarchive:", key=f"unarchive-{study.id}"):
            _do(lambda: steering.unarchive(workspace(), study.id), "The study is in the lists again.")
    elif study.state.finished and st.button(
        "Archive", icon=":material/archive:", key=f"archive-{study.id}",
        help="Leaves it out of lists; trials, runs and models stay.",
    ):  # fmt: skip
        _do(lambda: steering.archive(workspace(), study.id), "The study is archived.")


def _do(action: Callable[[], object], done: str) -> None:
    """Do what was asked and draw the page anew, or say why it can't be done."""
    try:
        action()
    except (StorageError, TuningError) as error:
        incidents.refused(error)
        return
    st.session_state[DONE] = done
    st.rerun()


def _open(launch: Callable[[], Study]) -> None:
    """Launch a study and go to its page, or say why it can't be done."""
    try:
        made = launch()
    except (StorageError, TuningError) as error:
        incidents.refused(error)
        return
    st.switch_page(STUDIES, query_params={"dataset": made.dataset_name, "study": str(made.id)})
