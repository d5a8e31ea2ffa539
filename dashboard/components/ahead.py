"""The charts' scripts, fetched and run while a first page is read, so that the next page's chart is drawn at once."""

from functools import cache
from pathlib import Path

import streamlit as st

CHART_SCRIPT = "PlotlyChart.*.js"  # of Streamlit's: 4.7 MB, half a second of a slow processor
AT_ONCE = 0  # milliseconds; for a page that will draw a chart itself
SOON = 1000  # for others: what the page itself needs comes first
AT_REST = 5000  # for a page on which people press keys in a row, and after anything that was pressed


def charts(wait_ms: int) -> None:
    """Have the browser load them once, which stops the page for that half second; takes no room in the page.

    Args:
        wait_ms: until then, in which nobody presses anything; one of the constants above.
    """
    script = _chart_script()
    if script is None:  # a Streamlit that packs its scripts otherwise: a chart then loads them itself
        return
    st.html(
        f"""<script>
          if (!window.snChartsAhead) {{
            window.snChartsAhead = true;
            const main = document.querySelector('script[type="module"][src]');
            const load = () => import(new URL("{script}", main.src).href).catch(() => {{}});
            const whenQuiet = () => {{
              const pressed = ["keydown", "pointerdown", "wheel"];
              let quiet;
              const ended = () => {{
                for (const kind of pressed) document.removeEventListener(kind, again);
                requestIdleCallback(load);
              }};
              const wait = (ms) => {{
                clearTimeout(quiet);
                quiet = setTimeout(ended, ms);
              }};
              const again = () => wait({AT_REST});
              for (const kind of pressed) document.addEventListener(kind, again, {{ passive: true }});
              wait({wait_ms});
            }};
            if (main) {"whenQuiet" if wait_ms else "load"}();
          }}
        </script>""",
        unsafe_allow_javascript=True,
    )


@cache
def _chart_script() -> str | None:
    folder = Path(st.__file__).parent / "static" / "static" / "js"
    return next((path.name for path in folder.glob(CHART_SCRIPT)), None)
