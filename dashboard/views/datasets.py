"""Datasets: one dataset's version and counts, and its sections: pictures, check, versions, adding."""

from html import escape

import streamlit as st

from dashboard.components import choosing, look
from dashboard.sections import add, check, deleted, pictures, versions
from dashboard.session import workspace
from dashboard.views import HOME, STUDIES
from dashboard.wording import moment, plain, plural
from storage import datasets
from storage.records import DatasetVersion, Label, Role

SECTIONS = ("Pictures", "Check", "Versions", "Add")
CLEARED = ("image", "page", "arrival", "type", "finding", "version")  # mean nothing for another dataset


def show() -> None:
    """Draw the page."""
    gone = st.session_state.pop(versions.GONE, None)
    if gone is not None:
        _deleted(gone)
        return
    with workspace().session() as session:
        names = [dataset.name for dataset in datasets.list_datasets(session)]
    if not names or "new" in st.query_params:
        _new(names)
        return
    row = look.top("Datasets")
    with row:
        try:
            name = choosing.dataset(names, clears=CLEARED)
        finally:  # an address of no dataset must not be the end of the road
            _new_button()
    with workspace().session() as session:
        version = datasets.latest_version(session, name)
    with row:
        if st.button("New study", type="primary", icon=":material/add:"):
            st.switch_page(STUDIES, query_params={"dataset": name, "new": "1"})
    _header(version)
    _tell_version(version)
    section = st.segmented_control(
        "Section",
        SECTIONS,
        default="Pictures",
        key="section",
        bind="query-params",
        required=True,
        label_visibility="collapsed",
    )
    {
        "Pictures": lambda: pictures.show(name, version),
        "Check": lambda: check.show(name, version),
        "Versions": lambda: versions.show(name, version),
        "Add": lambda: add.show(name),
    }[section]()


DATASETS_PAGE = "views/datasets.py"


def _new_button() -> None:
    if st.button("New dataset", icon=":material/create_new_folder:"):
        st.switch_page(DATASETS_PAGE, query_params={"new": "1"})


def _tell_version(latest: DatasetVersion) -> None:
    """Say so where the address asks for another version than this page shows."""
    asked = st.query_params.get("version", str(latest.number))
    if asked == str(latest.number):
        return
    if asked.isdecimal() and 0 < int(asked) < latest.number:
        st.info(
            f"This is version {latest.number}, the latest. Version {asked} is compared and exported under Versions.",
            icon=":material/history:",
        )
    else:
        st.warning(
            f"There is no version {plain(asked)}; this is version {latest.number}.",
            icon=":material/search_off:",
        )


def _new(names: list[str]) -> None:
    """Pictures of a product that has no dataset yet."""
    begun = "arrival" in st.query_params
    if names or begun:
        row = look.top("New dataset")
        with row:
            if names and st.button("Back to the datasets", icon=":material/arrow_back:"):
                st.switch_page(DATASETS_PAGE)
    else:
        choosing.none_yet(
            "No dataset yet", "Upload pictures of normal parts, with some anomalous ones if you have them."
        )
    add.show("")
    if not names and not begun:
        st.page_link(HOME, label="Or try the demo", icon=":material/play_arrow:")
    deleted.show()


def _deleted(name: str) -> None:
    st.session_state.pop(choosing.REMEMBERED, None)
    st.title("Datasets")
    st.success(f"Dataset {name} was deleted. It can be restored below.", icon=":material/delete:")
    deleted.show()
    st.page_link(HOME, label="Home", icon=":material/home:")


def _header(version: DatasetVersion) -> None:
    split = "split by its source" if version.source_split else "split here"
    came = version.change or f"from {version.source}, {split}"
    title = f" “{version.title}”" if version.title else ""
    look.line(
        look.note(f"version {version.number}{title}", title=f"Content {version.digest[:12]}"),
        f'<span class="sn-muted">{plural(version.count(), "picture")} · {escape(came)} · '
        f"{moment(version.created_at)}</span>",
    )
    grid = st.grid(4, min_column_width=140, border=True)
    meanings = {
        Role.TRAIN: "the model is fitted on these",
        Role.CALIBRATION: "set threshold and colour scale",
        Role.VALIDATION: "every choice of a study",
        Role.TEST: "sealed: read once per candidate",
    }
    for role, meaning in meanings.items():
        normal, anomalous = (version.count(role=role, label=label) for label in Label)
        with grid.cell():
            st.html(
                f'<div class="sn-muted">{role.value.capitalize()}</div><div class="sn-big">{normal + anomalous:,}</div>'
                f'<div class="sn-muted">{normal:,} normal, {anomalous:,} anomalous<br>{meaning}</div>'
            )
    if not version.has_defects:
        st.info(
            "No picture is labelled anomalous: studies are judged by defects planted in normal pictures, and "
            "everything derived from them is badged “synthetic validation”.",
            icon=":material/info:",
        )


if __name__ == "__main__":
    show()
