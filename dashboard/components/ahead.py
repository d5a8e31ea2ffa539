"""The charts' scripts, fetched and run while a first page is read, so that the next page's chart is drawn at once."""

from functools import cache
from pathlib import Path

import streamlit as st

CHART_SCRIPT = "PlotlyChart.*.js"  # of Streamlit's: 4.7 MB, half a second of a slow processor
WAIT_MS = 1000  # what the page itself needs comes first


def charts(*, at_once: bool) -> None:
    """Have the browser load them once; takes no room in the page.

    Args:
        at_once: this page will draw a chart itself; otherwise an idle moment is waited for.
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
            if (main) {"load()" if at_once else f"setTimeout(() => requestIdleCallback(load), {WAIT_MS})"};
          }}
        </script>""",
        unsafe_allow_javascript=True,
    )


@cache
def _chart_script() -> str | None:
    folder = Path(st.__file__).parent / "static" / "static" / "js"
    return next((path.name for path in folder.glob(CHART_SCRIPT)), None)
