import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import BadName, UnreadableFolder
from storage.listing import is_hidden, survey, walk


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """A folder with files of these names, each holding its name."""

    def make(*names: str) -> Path:
        folder = tmp_path / "given"
        folder.mkdir()
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        return folder

    return make


def names(folder: Path) -> list[str]:
    return [file.name for file in walk(folder)]


def test_files_are_listed_by_name_with_their_paths(make: Callable[..., Path]) -> None:
    folder = make("b.png", "a/2.png", "a/1.png", "a-b.png", "Ä/ü.png")
    files = walk(folder)
    assert [file.name for file in files] == ["a-b.png", "a/1.png", "a/2.png", "b.png", "Ä/ü.png"]
    assert [file.path.read_text() for file in files] == [file.name for file in files]


def test_hidden_files_and_what_file_managers_leave_are_left_out(make: Callable[..., Path]) -> None:
    folder = make(
        "a.png", ".DS_Store", ".git/x.png", "__MACOSX/._a.png", "b/Thumbs.db", "b/DESKTOP.INI", "b/c.png"
    )
    assert names(folder) == ["a.png", "b/c.png"]


def test_folder_that_is_hidden_itself_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / ".cache"
    folder.mkdir()
    (folder / "a.png").touch()
    assert names(folder) == ["a.png"]


def test_links_stay_inside(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make("a/1.png")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "given-too").mkdir()
    (tmp_path / "given-too" / "x.png").touch()
    (folder / "inside.png").symlink_to("a/1.png")
    (folder / "outside.png").symlink_to("../secret")
    (folder / "beside.png").symlink_to(tmp_path / "given-too" / "x.png")
    (folder / "absolute.png").symlink_to(tmp_path / "secret")
    (folder / "around.png").symlink_to("a/../../secret")
    (folder / "folder").symlink_to("a")
    (folder / "a" / "up").symlink_to("..")
    (folder / "missing.png").symlink_to("nothing")
    (folder / "self.png").symlink_to("self.png")
    (folder / "chain.png").symlink_to("outside.png")
    assert names(folder) == ["a/1.png", "inside.png"]
    files, refused = survey(folder)
    assert [file.name for file in files] == ["a/1.png", "inside.png"]
    reasons = {one.name: one.reason for one in refused}
    for name in ("outside.png", "beside.png", "absolute.png", "around.png", "chain.png"):
        assert "leads out of the folder" in reasons.pop(name)
    for name in ("folder", "a/up"):
        assert "link to a folder" in reasons.pop(name)
    for name in ("missing.png", "self.png"):
        assert "link to nothing" in reasons.pop(name)
    assert reasons == {}


def test_folder_given_through_a_link_is_listed(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make("a.png")
    (folder / "b.png").symlink_to("a.png")
    (tmp_path / "link").symlink_to(folder)
    assert names(tmp_path / "link") == ["a.png", "b.png"]


def test_what_is_no_file_is_left_out(make: Callable[..., Path]) -> None:
    folder = make("a.png")
    os.mkfifo(folder / "pipe.png")
    assert names(folder) == ["a.png"]
    assert [(one.name, one.reason[:12]) for one in survey(folder)[1]] == [("pipe.png", "It is a pipe")]


def test_names_that_some_computer_could_not_keep_are_left_out_of_a_survey(make: Callable[..., Path]) -> None:
    folder = make("a.png", "A.PNG", "CON.png", "b\x07.png", "good/c.png")
    files, refused = survey(folder)
    assert [file.name for file in files] == ["A.PNG", "good/c.png"]
    assert [one.name for one in refused] == ["CON.png", "a.png", "b\\x07.png"]
    assert all(one.reason.endswith("Rename it.") for one in refused)
    assert len(walk(folder)) == 5  # where names are not kept, they don't matter


@pytest.mark.parametrize("name", ["nothing", "a.png"])
def test_missing_folder_or_file_is_refused(make: Callable[..., Path], name: str) -> None:
    folder = make("a.png")
    with pytest.raises(UnreadableFolder, match=rf"{name}' can't be listed.*Give a folder that exists"):
        walk(folder / name)


def test_folder_that_may_not_be_read_is_refused(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make("a.png", "closed/b.png")
    (folder / "closed").chmod(0)
    # The superuser may read everything, so the test becomes somebody else.
    script = f"""
import os, sys
from pathlib import Path
from storage.errors import UnreadableFolder
from storage.listing import walk
os.chdir({str(folder)!r})
if os.getuid() == 0:
    os.setuid(65534)
try:
    walk(Path("."))
except UnreadableFolder as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (folder / "closed").chmod(0o700)
    assert "'closed' can't be listed: Permission denied" in done.stdout


def test_name_that_is_not_utf8_is_refused(make: Callable[..., Path]) -> None:
    folder = make("a.png")
    (folder / os.fsdecode(b"\xff.png")).touch()
    with pytest.raises(BadName, match=r"UTF-8.*Rename it"):
        walk(folder)
    files, refused = survey(folder)
    assert [file.name for file in files] == ["a.png"]
    assert [(one.name, one.reason) for one in refused] == [
        ("\\udcff.png", "Name '\\udcff.png' is not UTF-8; names must be. Rename it.")
    ]


@pytest.mark.parametrize("name", [".a", "a/.b/c", "__MACOSX/a", "a/thumbs.DB", "Desktop.ini", "..."])
def test_hidden_names(name: str) -> None:
    assert is_hidden(name)


@pytest.mark.parametrize("name", ["a", "a.b/c", "macosx/a", "a/thumbs.db.png", "a_", "a/b..", "./a", "a/.."])
def test_visible_names(name: str) -> None:
    assert not is_hidden(name)
