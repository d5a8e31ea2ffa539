"""What the colours of a heatmap mean; the same under every heatmap."""

import io

import streamlit as st

from dashboard.thumbnails import data_url
from engine.heatmap import colour_bar


def show() -> None:
    """Draw the colour bar with its three marks."""
    out = io.BytesIO()
    colour_bar(400, 1).save(out, "PNG")
    source = data_url(out.getvalue(), "png")
    st.html(
        f'<div class="sn-legend"><img src="{source}" alt="From dark blue to blue, then orange from '
        'the middle on, pale yellow"><div class="sn-ticks"><span>normal</span>'
        "<span>as far as normal parts reach</span><span>far beyond</span></div></div>"
    )
