"""One picture of a list, large, with what models see on it: the browser draws, steps and zooms by itself.

It fetches pictures and maps by address (`dashboard.maps`), the neighbours' ahead, so that the next one stands at once;
the page is told which picture was reached, and what was said of which.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from engine import heatmap

STATIC = Path(__file__).parents[1] / "static"


@dataclass(frozen=True, kw_only=True)
class Lens:
    """A model that looks at the pictures, and its absolute colour scale."""

    title: str
    low: float  # level of the dark end
    threshold: float  # level at which the colour leaps
    high: float  # level of the bright end


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one model sees on a picture."""

    score: float
    decision: str  # accept, reject
    wrong: str | None  # "false reject" or "escape"
    folder: str  # address, before the names of `dashboard.maps.FILES`
    query: str  # and behind
    view: tuple[int, int, int, int] | None  # top, left, bottom, right of what it sees; None for all of it
    unseen: int  # percent of the picture that it does not see


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture of the list."""

    id: str
    name: str
    height: int  # pixels
    width: int
    truth: str  # its label, in words
    type: str | None  # its defect type
    remark: str  # why there is no ground truth to see; empty where there is one
    marked: str | None  # what somebody said of it: normal, anomalous
    screen: str  # address
    outlines: str | None  # address of its ground truth
    original: str  # address
    file: str  # name that the original is saved under
    seen: tuple[Seen, ...]  # by every lens


@dataclass(frozen=True, kw_only=True)
class Led:
    """Where something that was said has led."""

    to: str | None = None  # id of the picture that the page shows next; None: it stays
    away: bool = False  # from where the viewer has gone by itself


@dataclass(kw_only=True)
class _Handled:
    """What was said so far. Streamlit may begin a page's next run while a callback of the last one is still busy."""

    number: int = 0  # of the last event
    away: bool = False  # whether it led away
    lock: threading.Lock = field(default_factory=threading.Lock)


def viewer(
    shots: Sequence[Shot],
    lenses: Sequence[Lens],
    *,
    key: str,
    current: str,
    first: int,
    total: int,
    types: Sequence[str],
    labelled: bool,
    marking: bool,
    on_pick: Callable[[str], None],
    on_event: Callable[[Mapping[str, Any]], Led],
) -> None:
    """Draw the picture `current` and let people go through its neighbours.

    Args:
        shots: `current` and as many of its neighbours as should be reached without the page.
        lenses: at least one.
        key: of the widget, unique on the page.
        first, total: place of the first shot in the whole list, from 1, and the list's length.
        types: defect types to choose from.
        labelled: whether any picture of the list has a label; without, there is no ground truth to show.
        marking: whether pictures may be marked.
        on_pick: called with the id of the picture that was reached.
        on_event: called once with each thing that was said, in order: `kind` "mark" (with `id`, `label`, `type`,
            `shapes`, `regions` and `next`) or "undo". It must not ask Streamlit for anything, which would end it half
            done where the browser already wants something else. `on_pick` is called with where it leads.
    """
    mount = st.components.v2.component(
        "simplenet_viewer",
        html=(STATIC / "viewer.html").read_text(),
        css=(STATIC / "viewer.css").read_text(),
        js=(STATIC / "viewer.js").read_text(),
    )
    handled: _Handled = st.session_state.setdefault(f"{key} handled", _Handled())

    def picked() -> None:
        state = st.session_state.get(key)
        wanted = state.get("picked") if state is not None else None
        # A wish that is older than what was said last would take back where that has led.
        if isinstance(wanted, Mapping) and int(wanted.get("after", 0)) >= handled.number:
            on_pick(str(wanted["id"]))

    def said() -> bool:
        state = st.session_state.get(key)
        to = None
        with handled.lock:
            before = handled.number
            for event in (state.get("events") if state is not None else None) or ():
                # The list grows until it is acknowledged; what was handled before is in it again.
                if isinstance(event, Mapping) and int(event.get("n", 0)) > handled.number:
                    handled.number = int(event["n"])
                    led = on_event(event)
                    to, handled.away = led.to or to, led.away
            told = handled.number > before
        if to is not None:
            on_pick(to)
        return told

    # Where another wish of the browser overtook a callback before it began, its list is done here.
    if said():
        st.rerun()
    mount(
        key=key,
        data={
            "key": key,
            "shots": [asdict(shot) for shot in shots],
            "lenses": [asdict(lens) for lens in lenses],
            "current": current,
            "first": first,
            "total": total,
            "types": list(types),
            "labelled": labelled,
            "marking": marking,
            "acknowledged": handled.number,
            "moved": handled.away,
            "palettes": {name: heatmap.stops(name) for name in heatmap.PALETTES},
            "leap": heatmap.THRESHOLD_POSITION,
            "visible": heatmap.VISIBLE_FROM,
        },
        on_picked_change=picked,
        on_events_change=said,
    )
