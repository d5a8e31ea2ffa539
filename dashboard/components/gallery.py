"""A grid of pictures to choose from: the browser draws it, a click answers with the picture's id."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import streamlit as st

STATIC = Path(__file__).parents[1] / "static"


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture of the grid."""

    id: str
    source: str  # address of the picture, usually a data URL
    title: str  # read out, and shown under the pointer
    caption: str = ""  # below the picture, left
    detail: str = ""  # below the picture, right
    note: str = ""  # below both, as long as it needs
    decision: str | None = None  # accept or reject: coloured and with its shape
    wrong: str | None = None  # "false reject" or "escape": marked on the picture
    beside: str | None = None  # address of a second picture, to compare with


def gallery(
    tiles: Sequence[Tile],
    *,
    key: str,
    on_pick: Callable[[str], None],
    selected: str | None = None,
    tile_width: int = 120,
    chosen: Sequence[str] | None = None,
    on_choose: Callable[[list[str]], None] | None = None,
) -> None:
    """Draw the grid; `on_pick(id)` is called before the page runs again.

    Args:
        tiles: at most a few dozen; page longer lists.
        chosen: ids that are marked as chosen; where given, clicks choose several instead of picking one (with
            shift, all between), and `on_choose(ids)` is called with those of this grid.
        key: of the widget, unique on the page.
        selected: id of the tile to mark.
        tile_width: least width of a tile in pixels; as many stand side by side as fit.
    """
    mount = st.components.v2.component(
        "simplenet_gallery",
        html='<div class="grid" role="listbox"></div>',
        css=(STATIC / "gallery.css").read_text(),
        js=(STATIC / "gallery.js").read_text(),
    )

    def chose() -> None:
        state = st.session_state.get(key)
        if on_choose is not None and state is not None and state.get("chosen") is not None:
            on_choose([str(one) for one in state["chosen"]])

    def picked() -> None:
        state = st.session_state.get(key)
        if state is not None and state.get("picked") is not None:
            on_pick(str(state["picked"]))

    mount(
        key=key,
        data={
            "tiles": [asdict(tile) for tile in tiles],
            "selected": selected,
            "tile_width": tile_width,
            "chosen": None if chosen is None else list(chosen),
        },
        on_picked_change=picked,
        on_chosen_change=chose,
    )
