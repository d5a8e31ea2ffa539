"""The measurement of pages runs to its end on a few pictures, and says what it measured."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.serving import chromium
from storage import datasets
from storage.records import Edit, Label
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tuning import corrections
from tuning.ingest import ingest_folder
from tuning.versions import save_edits


@pytest.mark.browser
@pytest.mark.slow
def test_pages_are_opened_twice_and_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if chromium() is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    file = tmp_path / "pages.json"
    home = tmp_path / "home"
    few = ["--pictures", "1000", "--rounds", "1", "--home", str(home), "--json", str(file)]
    pages.main(few)
    told = json.loads(file.read_text())
    assert list(told["pages"]) == [step.name for step in pages.STEPS]
    for visits in told["pages"].values():
        assert list(visits) == ["first", "second"]
        assert all(seconds > 0 for one in visits.values() for seconds in one)
    assert "study of one trial" in told["work_seconds"]
    assert (
        told["pictures"] == pages.pictures_held(home) == 1000 + 4 - pages.REMOVED
    )  # copies were drawn beside
    assert "| one picture | " in capsys.readouterr().out
    assert pages.work_seconds(home, 1000) == {}  # an installation that is there is used


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--pictures", "999"], "takes 1000 or more"), (["--rounds", "0"], "must be 1 or more")],
)
def test_pages_of_too_little_are_refused(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        pages.main(options)
    assert words in capsys.readouterr().err


def test_installation_left_half_built_is_refused_and_a_whole_one_is_counted(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    home = tmp_path / "home"
    workspace = open_workspace(Settings(home=home, device="cpu"))
    ingest_folder(workspace, make_folder(train=24, flat=True), pages.NAME)
    with pytest.raises(SystemExit, match="left half built"):
        pages.work_seconds(home, 1000)
    _correct(workspace, 1)
    with pytest.raises(SystemExit, match="left half built"):
        pages.work_seconds(home, 1000)
    save_edits(workspace, pages.NAME, who="test")
    with pytest.raises(SystemExit, match="left half built"):  # nothing waits yet
        pages.work_seconds(home, 1000)
    _correct(workspace, 1)
    workspace.close()
    assert pages.work_seconds(home, 1000) == {}
    assert pages.pictures_held(home) == 23


def _correct(workspace: Workspace, count: int) -> None:
    with workspace.session() as session:
        version = datasets.latest_version(session, pages.NAME)
        images = [image for image in datasets.list_images(session, version.id) if image.label is Label.NORMAL]
    wanted = [Edit(pixel_digest=image.pixel_digest, remove=True) for image in images[:count]]
    corrections.put(workspace, pages.NAME, wanted, who="test")
