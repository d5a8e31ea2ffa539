"""Colour tokens of the dashboard: one place for every colour that means something.

Green never says "a good figure": colour marks decisions and states, nothing else. Accept and reject are teal and
orange, apart for every common kind of colour blindness, and always stand beside a word or a shape. `static/theme.toml`
hands the neutral tokens to Streamlit; a test holds the two together.
"""

from pathlib import Path

THEME_FILE = Path(__file__).parent / "static" / "theme.toml"

INK = "#1b2430"  # text
MUTED = "#5b6675"  # secondary text; 5.7:1 on white
LINE = "#dbe1e8"  # borders
MIST = "#f4f6f9"  # surfaces behind cards and inputs
PAPER = "#ffffff"
PRIMARY = "#2b4a8f"  # buttons and links

ACCEPT = "#0f8279"  # teal
ACCEPT_SOFT = "#e3f3f1"
REJECT = "#c2560c"  # orange
REJECT_SOFT = "#fdeee1"
TRUTH = "#e6007e"  # outline of the ground truth: in no part of the heatmap's scale, and rare in photographs

STATE_COLOURS = {
    "queued": "#6b7280",
    "running": "#2563c9",
    "paused": "#9c6200",
    "completed": "#1f7a4d",
    "failed": "#b3261e",
    "cancelled": "#6b7280",  # drawn as an outline
    "pruned": "#8a94a3",
    "interrupted": "#8a94a3",
}
STATE_SHAPES = {  # beside the colour, for those who do not see it
    "queued": "○",
    "running": "◐",
    "paused": "‖",
    "completed": "●",
    "failed": "✕",
    "cancelled": "⊘",
    "pruned": "◌",
    "interrupted": "↻",
}
DECISION_COLOURS = {"accept": ACCEPT, "reject": REJECT}
DECISION_SHAPES = {"accept": "✓", "reject": "✕"}
