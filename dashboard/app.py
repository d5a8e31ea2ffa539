"""The dashboard's entry point, run by Streamlit: look, navigation, and the page that was asked for."""

import streamlit as st

from dashboard import incidents
from dashboard.components import ahead, look
from dashboard.views import COMPARE, DATASETS, HEATMAPS, HOME, MODELS, SCORE, STUDIES, SYSTEM


def main() -> None:
    """Draw one run of the page."""
    st.set_page_config(
        page_title="SimpleNet AutoML", page_icon=str(look.ICON_FILE), layout="wide", initial_sidebar_state=230
    )
    look.apply()
    page = st.navigation(
        [
            st.Page(HOME, title="Home", icon=":material/home:", url_path="home", default=True),
            st.Page(DATASETS, title="Datasets", icon=":material/photo_library:", url_path="datasets"),
            st.Page(STUDIES, title="Studies", icon=":material/tune:", url_path="studies"),
            st.Page(COMPARE, title="Compare", icon=":material/compare:", url_path="compare"),
            st.Page(HEATMAPS, title="Heatmaps", icon=":material/center_focus_strong:", url_path="heatmaps"),
            st.Page(MODELS, title="Models", icon=":material/workspace_premium:", url_path="models"),
            st.Page(SCORE, title="Score", icon=":material/image_search:", url_path="score"),
            st.Page(SYSTEM, title="System", icon=":material/monitor_heart:", url_path="system"),
        ]
    )
    if "study" in st.query_params:
        ahead.charts(ahead.AT_ONCE)
    else:
        ahead.charts(ahead.AT_REST if page.url_path == "heatmaps" else ahead.SOON)
    with incidents.shown():
        page.run()


main()
