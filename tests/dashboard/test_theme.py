"""One place for every colour, a theme without network, and a process that carries it."""

import re
import sys
import tomllib
from pathlib import Path

from dashboard import theme
from dashboard.server import APP_FILE, command
from engine.heatmap import TRUTH_RGB
from storage.records import StudyState
from storage.settings import Settings

STATIC = theme.THEME_FILE.parent


def _luminance(colour: str) -> float:
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(first: str, second: str) -> float:
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_theme_file_has_the_tokens() -> None:
    written = tomllib.loads(theme.THEME_FILE.read_text())["theme"]
    assert written["primaryColor"] == theme.PRIMARY
    assert written["backgroundColor"] == theme.PAPER
    assert written["secondaryBackgroundColor"] == theme.MIST
    assert written["textColor"] == theme.INK
    assert written["borderColor"] == theme.LINE


def test_ground_truth_is_outlined_in_the_colour_of_the_theme() -> None:
    assert f"#{bytes(TRUTH_RGB).hex()}" == theme.TRUTH


def test_every_state_of_a_study_has_colour_and_shape() -> None:
    assert {state.value for state in StudyState} <= set(theme.STATE_COLOURS)
    assert set(theme.STATE_COLOURS) == set(theme.STATE_SHAPES)
    assert len(set(theme.STATE_SHAPES.values())) == len(theme.STATE_SHAPES)


def test_words_are_readable_on_their_colours() -> None:
    chips = [
        theme.STATE_COLOURS[state.value] for state in StudyState
    ]  # trials' own states are markers of charts
    for colour in (*chips, theme.ACCEPT, theme.REJECT):
        assert _contrast(colour, theme.PAPER) >= 4.5, colour
    assert _contrast(theme.MUTED, theme.PAPER) >= 4.5


def test_nothing_packaged_asks_the_network() -> None:
    for file in STATIC.iterdir():
        addresses = re.findall(r"https?://[^\s\"')]+", file.read_text())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, file.name


def test_command_starts_the_app_with_theme_host_and_port(tmp_path: Path) -> None:
    arguments = command(Settings(home=tmp_path, host="127.0.0.9", dashboard_port=8777))
    assert arguments[:3] == [sys.executable, "-m", "dashboard.server"]
    assert APP_FILE.is_file()
    for flag in (
        "--server.address=127.0.0.9",
        "--server.port=8777",
        "--server.headless=true",
        "--browser.gatherUsageStats=false",
        "--server.fileWatcherType=none",
        f"--theme.base={theme.THEME_FILE}",
    ):
        assert flag in arguments


def test_streamlit_knows_every_option(tmp_path: Path) -> None:
    from streamlit import config

    flags = command(Settings(home=tmp_path))[3:]
    assert {flag.removeprefix("--").partition("=")[0] for flag in flags} <= set(config.get_config_options())
