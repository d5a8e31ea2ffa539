"""The files that were left out, each with its reason and remedy, whole sentences that wrap."""

from collections.abc import Mapping, Sequence
from html import escape

import streamlit as st

ROWS = 500  # shown at most; a report can be downloaded


def table(rows: Sequence[Mapping[str, str]], heading: str, *, count: int | None = None) -> None:
    """Draw name and reason of each file.

    Args:
        rows: with `name` and `reason`.
        heading: what the names are names of: 'Picture'.
        count: of all that was left out, where `rows` are only the first of it.
    """
    drawn = "".join(
        f"<tr><td>{escape(row['name'])}</td><td>{escape(row['reason'])}</td></tr>" for row in rows[:ROWS]
    )
    st.html(
        f'<div class="sn-left-out"><table><thead><tr><th>{escape(heading)}</th><th>Why, and what to do</th></tr>'
        f"</thead><tbody>{drawn}</tbody></table></div>"
    )
    more = (len(rows) if count is None else count) - min(len(rows), ROWS)
    if more > 0:
        st.caption(f"and {more:,} more")
