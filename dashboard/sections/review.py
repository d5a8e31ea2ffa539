"""Reviewing an arrival before it is taken in: what was understood of each folder, as a table and as pictures."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import incidents, thumbnails
from dashboard.components import left_out
from dashboard.components.gallery import Tile, gallery
from dashboard.session import WHO, workspace
from dashboard.wording import plain, plural
from engine.errors import EngineError
from engine.masks import MAX_THRESHOLD
from storage import datasets
from storage.errors import BadDatasetName
from storage.layouts import Choice, Entry, Group, Layout, groups
from storage.records import Label
from tuning import arrivals
from tuning.arrivals import Arrival, Intake, Plan, Understood
from tuning.errors import BadPicture

PICTURES = 8  # shown of each group
GROUPS_SHOWN = 12  # with pictures; all are in the table
BY_LABEL = "shared among roles"
UNREADABLE_NAMED = 3  # of a group's previews
MASK_VALUES_TOLD = 8  # as many as an arrival lists; where it lists so many, there may be more
SPLITS: dict[str, Any] = {BY_LABEL: None, "training": "train", "judging": "test"}


def show(arrival: Arrival, name: str) -> None:
    """Draw the form; its button starts taking in.

    Args:
        name: of the dataset it is meant for; empty for one that is to be made.
    """
    found = _understood(arrival.id)
    st.subheader(f"What was understood of {plain(arrival.origin)}")
    with workspace().session() as session:
        known = {dataset.name for dataset in datasets.list_datasets(session)}
    proposed = proposed_names([layout.name for layout in found.layouts], name or arrival.dataset)
    threshold_key = f"threshold {arrival.id}"
    # The pictures above show what the number below makes of their masks.
    outlined_above = int(st.session_state.get(threshold_key, 0))
    intakes = [
        _layout(layout, proposal, known, f"{arrival.id} {number}", outlined_above, alone=len(proposed) == 1)
        for number, (layout, proposal) in enumerate(zip(found.layouts, proposed, strict=True))
    ]
    threshold = _threshold(found, threshold_key)
    if refused := [*found.refused, *(one for layout in found.layouts for one in layout.skipped)]:
        with st.expander(f"{plural(len(refused), 'file')} left out already", expanded=True):
            left_out.table([vars(one) for one in refused], "File")
    problem = _problem(intakes)
    told = st.empty()  # a place that is always there: the buttons below must not move under the pointer
    if problem:
        with told:
            incidents.refused(problem)
    with st.container(horizontal=True):
        if st.button(
            "Take them in",
            type="primary",
            icon=":material/check:",
            disabled=problem is not None,
            key=f"take {arrival.id}",
        ):
            plan = Plan(intakes=tuple(intakes), who=WHO, mask_threshold=threshold)
            arrivals.start_take(workspace(), arrival.id, plan)
            st.rerun()
        ask_to_discard(arrival.id)


def ask_to_discard(arrival_id: str) -> None:
    """A button that says what will be lost, and another inside: an upload of hours is not deleted by one slip."""
    with st.popover("Discard", icon=":material/delete:"):
        st.write(
            "What was uploaded is deleted and would have to be sent again. A folder of the server is left as it is."
        )
        st.button("Discard it", key=f"discard {arrival_id}", on_click=discard, args=[arrival_id])


def discard(arrival_id: str) -> None:
    """Let go of the arrival and of its place in the page's address."""
    arrivals.discard(workspace(), arrival_id)
    st.query_params.pop("arrival", None)


@st.cache_resource(max_entries=4, show_spinner=False)
def _understood(arrival_id: str) -> Understood:
    return arrivals.understood(workspace(), arrival_id)


def proposed_names(names: Sequence[str], wanted: str) -> list[str]:
    """A name for each dataset to be, no two the same: folders 'Part A' and 'part-a' give 'part-a' and 'part-a-2'.

    Args:
        names: as the folders are called.
        wanted: of the dataset that the pictures are meant for; empty where there is none yet.
    """
    if len(names) == 1:
        return [wanted or names[0]]
    firsts = [f"{wanted}-{name}" if wanted else name for name in names]
    proposed: list[str] = []
    for first in firsts:
        found, count = first, 1
        while found in proposed or (count > 1 and found in firsts):
            count += 1
            found = f"{first}-{count}"
        proposed.append(found)
    return proposed


def _layout(
    layout: Layout, proposed: str, known: set[str], key: str, mask_threshold: int, *, alone: bool
) -> Intake:
    """One dataset to be: its name, whether it is added, and its groups."""
    with st.container(border=True):
        left, right = st.columns([2, 3], vertical_alignment="bottom")
        with left:
            name = st.text_input(
                "Dataset", value=proposed, key=f"name {key}", help="Small letters, digits and hyphens."
            ).strip()
        add, leave_out = True, False
        with right:
            if name in known:
                ways = ["are added to it", "replace its pictures"]
                add = (
                    st.radio("The dataset exists; these", ways, key=f"way {key}", horizontal=True) == ways[0]
                )
            elif not alone:
                leave_out = not st.checkbox("Take this one in", value=True, key=f"take {key}")
        st.caption(f"{plural(len(layout.entries), 'picture')}, recognised as {_kind(layout)}.")
        if layout.unsure:
            st.warning(plain(layout.unsure), icon=":material/help:")
        choices = _groups(groups(layout), key)
        for note in layout.notes:
            st.caption(plain(note))
        _pictures(layout, key, mask_threshold)
    return Intake(name=name, add=add, choices=choices, leave_out=leave_out)


def _kind(layout: Layout) -> str:
    return {
        "mvtec": "the tree of MVTec AD",
        "btad": "the tree of BTAD",
        "visa": "the tree of VisA with its split file",
        "flat": "a folder of normal parts",
        "two_folders": "two folders, one of normal and one of anomalous parts",
        "folders": "a folder per kind of picture",
        "manifest": "a list of pictures",
        "lookout": "a manifest of Lookout for Vision",
    }[layout.kind]


def _groups(found: tuple[Group, ...], key: str) -> Mapping[str, Choice]:
    """The groups as a table that can be corrected; answers every group's choice."""
    table = pd.DataFrame(
        [
            {
                "use": True,
                "where": group.key,
                "pictures": group.pictures,
                "masks": group.masks,
                "label": group.label.value,
                "type": group.defect_type or "",
                "split": next(words for words, split in SPLITS.items() if split == group.split),
            }
            for group in found
        ]
    )
    edited = st.data_editor(
        table,
        key=f"groups {key}",
        hide_index=True,
        width="stretch",
        disabled=["where", "pictures", "masks"],
        column_config={
            "use": st.column_config.CheckboxColumn("Use", width="small"),
            "where": "Where",
            "pictures": "Pictures",
            "masks": "With mask",
            "label": st.column_config.SelectboxColumn(
                "Label", options=[label.value for label in Label], required=True
            ),
            "type": st.column_config.TextColumn("Defect type", help="Of anomalous pictures; may stay empty."),
            "split": st.column_config.SelectboxColumn(
                "For",
                options=list(SPLITS),
                required=True,
                help="Normal pictures for training become train and calibration, those for judging validation and "
                "test. Anomalous ones are always for judging.",
            ),
        },
    )
    return {
        row["where"]: Choice(
            split=SPLITS[row["split"]],
            label=Label(row["label"]),
            defect_type=(row["type"] or "").strip() or None if row["label"] == Label.ANOMALOUS else None,
            leave_out=not row["use"],
        )
        for row in edited.to_dict("records")
    }


def _pictures(layout: Layout, key: str, mask_threshold: int) -> None:
    """The first pictures of each group, with the outlines of their defects."""
    by_group = defaultdict(list)
    for entry in layout.entries:
        if len(by_group[entry.group]) < PICTURES:
            by_group[entry.group].append(entry)
    for number, (group, entries) in enumerate(by_group.items()):
        if number >= GROUPS_SHOWN:
            st.caption(f"{plural(len(by_group) - GROUPS_SHOWN, 'more group')} without pictures here.")
            break
        if group != ".":  # the folder itself
            st.caption(plain(group))
        tiles, unreadable = [], []
        for entry in entries:
            source, detail = _small(entry, mask_threshold)
            if source is None:
                unreadable.append(entry.name)
            else:
                tiles.append(Tile(id=entry.name, source=source, title=entry.name, detail=detail))
        if tiles:
            gallery(tiles, key=f"pictures {key} {group}", on_pick=lambda _: None, tile_width=92)
        if unreadable:
            st.caption(plain(_unreadable(unreadable, len(entries))))


def _unreadable(names: Sequence[str], looked_at: int) -> str:
    """'2 of its first 8 can't be read: a.png, b.png. The report will say why.'"""
    if looked_at == 1:
        return f"Its only picture can't be read: {names[0]}. The report will say why."
    named = ", ".join(names[:UNREADABLE_NAMED])
    more = f" and {len(names) - UNREADABLE_NAMED} more" if len(names) > UNREADABLE_NAMED else ""
    which = "None" if len(names) == looked_at else str(len(names))
    can = "can" if len(names) == looked_at else "can't"
    return f"{which} of its first {looked_at} {can} be read: {named}{more}. The report will say why."


@st.cache_data(max_entries=1000, show_spinner=False)
def _small(entry: Entry, mask_threshold: int) -> tuple[str | None, str]:
    """A small copy of a picture that is in no store yet, and a word on its mask; None where it can't be read."""
    path = str(entry.path)
    if entry.mask_paths:
        try:
            masks = [str(mask) for mask in entry.mask_paths]
            drawn = thumbnails.of_file_and_masks(
                path,
                entry.name,
                masks,
                threshold=mask_threshold,
                white_is_background=entry.white_is_background,
            )
            return thumbnails.data_url(drawn), "with mask"
        except (EngineError, BadPicture):
            word = "mask can't be read"
    else:
        word = ""
    try:
        return thumbnails.data_url(thumbnails.of_file(path, entry.name)), word
    except (EngineError, BadPicture):
        return None, ""


def _threshold(found: Understood, key: str) -> int:
    """Asked only where masks hold values that are neither 0 and 1 nor 0 and 255."""
    if not found.mask_values:
        return 0
    several = len(found.mask_values) >= MASK_VALUES_TOLD
    values = ", ".join(map(str, found.mask_values)) + (" and more" if several else "")
    st.warning(
        f"Some masks are not only black and white: they hold the values {values}.", icon=":material/tonality:"
    )
    return int(
        st.number_input(
            "A mask's value above this is a defect",
            min_value=0,
            max_value=254 if max(found.mask_values) <= 255 else MAX_THRESHOLD,
            value=0,
            key=key,
            help="With 0, everything that isn't black is a defect. The outlines above show what comes of it.",
            width=280,
        )
    )


def _problem(intakes: list[Intake]) -> str | None:
    """Why this can not be taken in, if so."""
    taken = [intake for intake in intakes if not intake.leave_out]
    for intake in taken:
        try:
            datasets.check_dataset_name(intake.name)
        except BadDatasetName as error:
            return str(error)
    names = [intake.name for intake in taken]
    twice = next((name for name in names if names.count(name) > 1), None)
    return f"Two datasets would be called '{twice}'. Give each a name of its own." if twice else None
