"""Datasets that were deleted, and their way back."""

import streamlit as st

from dashboard.session import WHO, workspace
from dashboard.wording import moment
from storage import datasets
from tuning import commands


def show() -> None:
    """Draw the list, if there is anything in it."""
    with workspace().session() as session:
        found = datasets.list_datasets(session, deleted=True)
    if not found:
        return
    st.subheader("Deleted")
    for dataset in found:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{dataset.name}**, deleted {moment(dataset.deleted_at)}", width="stretch")
            if st.button("Restore", key=f"restore {dataset.name}", icon=":material/restore_from_trash:"):
                commands.restore_dataset(workspace(), dataset.name, who=WHO)
                st.query_params.pop("new", None)
                st.query_params["dataset"] = dataset.name
                st.rerun()
