"""Choosing a dataset on a page; the address of the page holds the choice, so that it can be reloaded and sent."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import streamlit as st

from dashboard.session import workspace
from storage import datasets
from storage.errors import DatasetNotFound

REMEMBERED = "chosen dataset"  # in the session: the default of the pages that come after


NOTHING: Mapping[str, Any] = MappingProxyType({})


def dataset(
    names: Sequence[str],
    *,
    clears: Sequence[str] = (),
    resets: Mapping[str, Any] = NOTHING,
    width: int | Literal["stretch"] = 280,
) -> str:
    """A select box of datasets; answers the chosen name.

    Args:
        names: at least one.
        clears: parameters of the address that mean nothing for another dataset.
        resets: keys of widgets that hold a parameter of the address themselves, with what they go back to.
        width: of the box, pixels.
    Raises:
        DatasetNotFound: the address names an unknown dataset; the box is drawn all the same.
    """
    wanted = str(st.query_params.get("dataset") or st.session_state.get(REMEMBERED))
    unknown: DatasetNotFound | None = None
    if wanted not in names:
        if "dataset" in st.query_params:
            try:
                with workspace().session() as session:
                    datasets.get_dataset(session, wanted)
            except DatasetNotFound as error:  # its message names the nearest one
                unknown = error
        if unknown is None:
            wanted = names[0]
    # A key per value: after a link to another dataset the box must not remember the former choice.
    key = f"dataset={wanted}"

    def changed() -> None:
        st.query_params["dataset"] = st.session_state[key]
        for parameter in clears:
            st.query_params.pop(parameter, None)
        for widget, value in resets.items():
            if widget in st.session_state:
                st.session_state[widget] = value

    chosen = st.selectbox(
        "Dataset",
        names,
        index=None if unknown else list(names).index(wanted),
        placeholder="Choose a dataset",
        key=key,
        on_change=changed,
        label_visibility="collapsed",
        width=width,
    )
    if unknown is not None:  # told beside the box, so that another one can be chosen
        raise unknown
    st.session_state[REMEMBERED] = chosen
    if st.query_params.get("dataset") != chosen:
        st.query_params["dataset"] = chosen
    return str(chosen)


def none_yet(what: str, text: str) -> None:
    """The empty state of a page: what is missing and why, centred; the next step follows below it."""
    st.html(f'<div class="sn-empty"><h3>{what}</h3><p>{text}</p></div>')
