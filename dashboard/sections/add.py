"""Adding pictures: from the browser, from a folder of the server, and what has arrived but waits for a decision."""

import streamlit as st

from dashboard import incidents
from dashboard.components.uploader import uploader
from dashboard.sections import arrival, review
from dashboard.session import WHO, workspace
from dashboard.wording import moment, plain
from tuning import arrivals
from tuning.errors import TuningError

LAYOUTS = (
    "One **zip or tar file**, a **folder**, or single pictures (PNG, JPEG, BMP, TIFF, WebP). Understood are: a "
    "folder of normal parts; `good` and `bad` folders of any names; the trees of MVTec AD, VisA and BTAD; and a "
    "list of pictures as CSV or JSON lines, also the manifest of Lookout for Vision. Masks come along. You see what "
    "was understood before anything is kept."
)


def show(name: str) -> None:
    """Draw the section.

    Args:
        name: of the dataset to add to; empty for one that is to be made.
    """
    if "arrival" in st.query_params:
        arrival.show(st.query_params["arrival"], name)
        return
    st.markdown(LAYOUTS)
    completed = uploader(workspace().settings, dataset=name, key=f"uploader-{name}")
    if completed:
        _open(completed, name)
    with st.expander("From a folder of the server"):
        _from_server(name)
    _waiting(name)


def _from_server(name: str) -> None:
    roots = workspace().settings.picture_roots
    if roots:
        st.caption(f"Folders in {plain(', '.join(map(str, roots)))} may be read from here.")
    with st.form("server folder", border=False):
        folder = st.text_input("Folder on the server", placeholder="/data/pictures/parts")
        if st.form_submit_button("Look at it", icon=":material/folder_open:") and folder.strip():
            try:
                arrival_id = arrivals.from_folder(workspace(), folder.strip(), name, who=WHO)
            except TuningError as error:
                incidents.refused(error)
                return
            _open(arrival_id, name)


def _open(arrival_id: str, name: str) -> None:
    """Go to an arrival; the first dataset comes into being there, and the page must stay with it all the same."""
    st.query_params["arrival"] = arrival_id
    if not name:
        st.query_params["new"] = "1"
    st.rerun()


def _waiting(name: str) -> None:
    waiting = [one for one in arrivals.list_arrivals(workspace()) if one.dataset in ("", name) or not name]
    if not waiting:
        return
    st.subheader("Waiting for you")
    for one in waiting:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            target = f" for {plain(one.dataset)}" if one.dataset else ""
            st.markdown(f"**{plain(one.origin)}**{target}, {moment(one.created)}", width="stretch")
            if st.button("Review", key=f"review {one.id}", type="primary"):
                _open(one.id, name)
            review.ask_to_discard(one.id)
