"""The measurement of the next heatmap runs to its end on small pictures, and says what it measured."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import heatmaps
from benchmarks.serving import chromium
from storage.settings import Settings
from storage.workspace import open_workspace
from tuning.ingest import ingest_folder

pytestmark = pytest.mark.slow


@pytest.mark.browser
@pytest.mark.slow
def test_next_heatmap_is_timed_three_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if chromium() is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    file = tmp_path / "heatmaps.json"
    few = ["--size", "64", "--rounds", "1", "--home", str(tmp_path / "home"), "--json", str(file)]
    heatmaps.main(few)
    told = json.loads(file.read_text())["milliseconds"]
    assert list(told) == ["ahead", "disk", "none"]
    assert all(times and min(times) > 0 for times in told.values())
    assert "| none | " in capsys.readouterr().out


def test_measurement_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        heatmaps.main(["--rounds", "0"])
    assert "must be 1 or more" in capsys.readouterr().err


def test_installation_left_half_built_is_refused(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    workspace = open_workspace(Settings(home=tmp_path / "home", device="cpu"))
    ingest_folder(workspace, make_folder(train=24, flat=True), heatmaps.NAME)
    workspace.close()
    with pytest.raises(SystemExit, match="left half built"):
        heatmaps.build(tmp_path / "home", 64)
