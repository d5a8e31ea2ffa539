"""The dashboard's look beyond Streamlit's theme: a small style sheet, and words with a colour and a shape."""

from html import escape
from pathlib import Path

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import theme
from dashboard.wording import plain

STATIC = Path(__file__).parents[1] / "static"
STYLE_FILE, LOGO_FILE, ICON_FILE = STATIC / "page.css", STATIC / "logo.svg", STATIC / "icon.svg"


def apply() -> None:
    """Add the style sheet and the logo to the page."""
    st.html(STYLE_FILE)
    st.logo(str(LOGO_FILE), size="large", icon_image=str(ICON_FILE))


def state(name: str) -> str:
    """HTML of a state: colour, shape and word; a cancelled one is an outline."""
    colour = theme.STATE_COLOURS.get(name, theme.MUTED)
    shape = theme.STATE_SHAPES.get(name, "")
    kind = "sn-chip sn-outline" if name == "cancelled" else "sn-chip"
    return f'<span class="{kind}" style="--chip:{colour}">{shape} {escape(name)}</span>'


def decision(name: str) -> str:
    """HTML of a decision: ✓ accept in teal, ✕ reject in orange."""
    colour = theme.DECISION_COLOURS[name]
    return (
        f'<span class="sn-chip" style="--chip:{colour}">{theme.DECISION_SHAPES[name]} {escape(name)}</span>'
    )


def note(text: str, *, title: str = "") -> str:
    """HTML of a neutral badge, such as "synthetic validation"; `title` explains it under the pointer."""
    style = f"--chip:{theme.MUTED}"
    return f'<span class="sn-chip sn-outline" style="{style}" title="{escape(title)}">{escape(text)}</span>'


def top(title: str) -> DeltaGenerator:
    """Draw the page's title; answers the row to its right, for a choice and a button."""
    row = st.container(horizontal=True, vertical_alignment="bottom")
    row.title(plain(title), width="stretch")
    return row


def progress(fraction: float | None, text: str) -> None:
    """Draw a bar with plain text; the text alone where nobody knows the end."""
    if fraction is None:
        st.markdown(f":material/hourglass: {plain(text)}")
    else:
        st.progress(fraction, text=plain(text))


def line(*parts: str) -> None:
    """Draw pieces of HTML side by side; plain text must be escaped by the caller."""
    st.html(f'<div class="sn-line">{"".join(parts)}</div>')


def download(label: str, address: str, about: str) -> None:
    """Draw a link to a file of ours that the browser saves, with some quiet words beside it."""
    line(
        f'<a class="sn-download" href="{escape(address)}" download>↓ {escape(label)}</a>',
        f'<span class="sn-muted">{escape(about)}</span>',
    )


def facts(pairs: list[tuple[str, str]]) -> None:
    """Draw names and values as a quiet two-column list."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    st.html(f'<dl class="sn-facts">{rows}</dl>')
