"""API keys of the model server: made, shown once, listed and revoked."""

import streamlit as st

from dashboard import incidents
from dashboard.session import WHO, workspace
from dashboard.wording import moment, plain
from storage import api_keys
from storage.errors import StorageError
from storage.records import now
from tuning.serving.access import key_required

MADE = "key just made"  # in the session: name and key, until the page is left or the next one is made


def show() -> None:
    """Draw the section."""
    st.subheader("API keys")
    settings = workspace().settings
    if key_required(settings):
        st.caption(f"The model server listens on {plain(settings.serve_host)} and answers who sends a key.")
    else:
        st.caption(
            "The model server answers this machine only, without a key. It asks for keys as soon as "
            "`SIMPLENET_SERVE_HOST` lets other machines in, and does not start there while there is none."
        )
    with workspace().session() as session:
        keys = api_keys.list_keys(session)
    in_use = [key for key in keys if key.revoked_at is None]
    with st.container(horizontal=True):
        with st.popover("Make a key", icon=":material/key:"), st.form("make a key", border=False):
            name = st.text_input("What will use it", placeholder="line 3", key="name of a key")
            if st.form_submit_button("Make the key", type="primary"):
                _make(name)
        if in_use:
            with st.popover("Revoke", icon=":material/block:"), st.form("revoke a key", border=False):
                chosen = st.selectbox("Key", [key.name for key in in_use], key="key to revoke")
                st.caption(
                    "Whatever uses it is refused within seconds. A revoked key does not come back; make a new one."
                )
                if st.form_submit_button("Revoke the key", type="primary"):
                    _revoke(chosen)
    _just_made()
    if not keys:
        st.caption("No key has been made yet.")
        return
    st.dataframe(
        [
            {
                "name": key.name,
                "begins with": f"{key.hint}…",
                "state": "in use" if key.revoked_at is None else f"revoked {moment(key.revoked_at)}",
                "made": moment(key.created_at),
                "by": key.who,
                "last used": moment(key.last_used_at),
            }
            for key in keys
        ],
        hide_index=True,
    )


def _make(name: str) -> None:
    try:
        with workspace().session() as session:
            made, key = api_keys.add_key(session, name=name, who=WHO, now=now())
    except StorageError as error:
        incidents.refused(error)
        return
    st.session_state[MADE] = (made.name, key)
    st.rerun()


def _revoke(name: str) -> None:
    try:
        with workspace().session() as session:
            api_keys.revoke_key(session, name=name, now=now())
    except StorageError as error:
        incidents.refused(error)
        return
    st.session_state.pop(MADE, None)
    st.rerun()


def _just_made() -> None:
    """The key itself, once: a reload of the page forgets it."""
    if MADE not in st.session_state:
        return
    name, key = st.session_state[MADE]
    st.success(f"Key {plain(name)} is made. Copy it now; it can't be shown again.", icon=":material/key:")
    st.code(key, language=None)
    if st.button("I have copied it"):
        del st.session_state[MADE]
        st.rerun()
