"""`simplenet dataset …` and `simplenet withdraw`: corrections, versions, export, deletion and what they refuse."""

import getpass
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dashboard.commands.reporting import ExitCode
from storage import datasets, events, models
from storage.records import ImageRecord, Label
from storage.workspace import open_workspace

Simplenet = Callable[..., Result]


def _json(result: Result) -> object:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def _refused(result: Result, code: ExitCode = ExitCode.ERROR) -> str:
    """The one line on stderr that says why."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def parts(simplenet: Simplenet, home: Path, make_folder: Callable[..., Path]) -> None:
    """A dataset `parts` with dents and scratches."""
    folder = make_folder(defects={"dent": 4, "scratch": 4})
    _done(simplenet("ingest", folder, "--name", "parts"))


@pytest.fixture
def images(parts: None) -> Callable[[], dict[str, ImageRecord]]:
    """The images of the latest version of `parts` by name."""

    def read() -> dict[str, ImageRecord]:
        workspace = open_workspace()
        with workspace.session() as session:
            version = datasets.latest_version(session, "parts")
            return {image.name: image for image in datasets.list_images(session, version.id)}

    return read


Images = Callable[[], dict[str, ImageRecord]]


def test_corrections_wait_until_they_are_saved(simplenet: Simplenet, images: Images) -> None:
    text = _done(simplenet("dataset", "relabel", "parts", "train/good/003.png", "--type", "deep  dent"))
    assert text == "1 correction taken down. Next: simplenet dataset save parts\n"
    _done(simplenet("dataset", "remove", "parts", "scratch/001.png"))
    _done(simplenet("dataset", "relabel", "parts", "dent/002.png", "--normal"))
    assert images()["train/good/003.png"].label is Label.NORMAL  # nothing is saved yet
    assert set(_done(simplenet("dataset", "edits", "parts")).splitlines()) == {
        "train/good/003.png: normal → deep dent",
        "test/scratch/001.png: scratch, with mask → taken out",
        "test/dent/002.png: dent, with mask → normal",
    }
    listed = _json(simplenet("dataset", "edits", "parts", "--json"))
    assert isinstance(listed, list)
    assert {one["name"] for one in listed} >= {"train/good/003.png"}
    text = _done(simplenet("dataset", "save", "parts"))
    assert "version 2: 1 picture removed, 2 labels changed" in text
    after = images()
    assert after["train/good/003.png"].defect_type == "deep dent"
    assert after["test/dent/002.png"].label is Label.NORMAL
    assert "test/scratch/001.png" not in after
    assert "No correction of dataset 'parts' waits" in _done(simplenet("dataset", "edits", "parts"))


def test_save_option_saves_at_once_under_the_users_name(simplenet: Simplenet, images: Images) -> None:
    text = _done(simplenet("dataset", "remove", "parts", "dent/000.png", "--save"))
    assert text == "Dataset 'parts', version 2: 1 picture removed.\n"
    listed = _json(simplenet("dataset", "versions", "parts", "--json"))
    assert isinstance(listed, list)
    assert (listed[0]["number"], listed[0]["who"]) == (2, getpass.getuser())


def test_correction_that_changes_nothing_is_said_and_does_not_wait(
    simplenet: Simplenet, images: Images
) -> None:
    arguments = ("dataset", "relabel", "parts", "dent/000.png", "--type", "dent")
    assert _done(simplenet(*arguments)) == "That is how it is already.\n"
    assert _done(simplenet(*arguments, "--save")) == "That is how it is already.\n"
    assert "waits to be saved" in _refused(simplenet("dataset", "save", "parts"))


def test_mask_is_given_and_taken_away(simplenet: Simplenet, images: Images, tmp_path: Path) -> None:
    mask = np.full((64, 64), 40, np.uint8)
    mask[:8] = 200
    Image.fromarray(mask).save(tmp_path / "drawn.png")
    drawn = ("dataset", "mask", "parts", "dent/000.png", tmp_path / "drawn.png", "--mask-threshold", 100)
    _done(simplenet(*drawn))
    _done(simplenet("dataset", "mask", "parts", "dent/001.png", "--none"))
    assert "2 masks changed" in _done(simplenet("dataset", "save", "parts"))
    kept = images()["test/dent/000.png"].mask_digest
    assert kept is not None
    with Image.open(open_workspace().blobs.path(kept)) as stored:
        found = np.asarray(stored.convert("1"))
    assert (found == (mask == 200)).all()
    assert images()["test/dent/001.png"].mask_digest is None


def test_masks_that_can_not_be_used_are_refused(simplenet: Simplenet, images: Images, tmp_path: Path) -> None:
    for name, pixels in (("black.png", np.zeros((64, 64))), ("wide.png", np.ones((64, 80)))):
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "text.png").write_text("no picture")
    mask = ("dataset", "mask", "parts")
    assert "marks no pixel" in _refused(simplenet(*mask, "dent/000.png", tmp_path / "black.png"))
    assert "same shape" in _refused(simplenet(*mask, "dent/000.png", tmp_path / "wide.png"))
    assert "text.png" in _refused(simplenet(*mask, "dent/000.png", tmp_path / "text.png"))
    assert "Give one of the two" in _refused(simplenet(*mask, "dent/000.png"))
    assert "Give one of the two" in _refused(
        simplenet(*mask, "dent/000.png", tmp_path / "wide.png", "--none")
    )
    white = tmp_path / "white.png"
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(white)
    assert "labelled normal and is given a mask" in _refused(simplenet(*mask, "train/good/000.png", white))
    assert _json(simplenet("dataset", "edits", "parts", "--json")) == []


def test_unknown_and_ambiguous_pictures_are_refused(simplenet: Simplenet, images: Images) -> None:
    refused = _refused(simplenet("dataset", "remove", "parts", "test/dnt/000.png"), ExitCode.NOTHING)
    assert "Did you mean 'test/dent/000.png'?" in refused
    refused = _refused(simplenet("dataset", "remove", "parts", "000.png"))
    digest = images()["test/dent/000.png"].pixel_digest[:12]
    assert f"fits 4 pictures: test/dent/000.png ({digest})" in refused
    _done(simplenet("dataset", "remove", "parts", digest))
    _done(simplenet("dataset", "save", "parts"))
    assert "no picture 'dent/000.png'" in _refused(
        simplenet("dataset", "relabel", "parts", "dent/000.png", "--normal"), ExitCode.NOTHING
    )


def test_relabel_wants_to_know_what(simplenet: Simplenet, images: Images) -> None:
    relabel = ("dataset", "relabel", "parts", "dent/000.png")
    assert "Nothing to change" in _refused(simplenet(*relabel))
    assert "exclude each other" in _refused(simplenet(*relabel, "--normal", "--type", "dent"))


def test_version_that_changed_meanwhile_is_not_saved_over(simplenet: Simplenet, images: Images) -> None:
    _done(simplenet("dataset", "remove", "parts", "dent/000.png", "--save"))
    _done(simplenet("dataset", "remove", "parts", "dent/001.png"))
    refused = _refused(simplenet("dataset", "save", "parts", "--after", 1))
    assert "has version 2 by now" in refused
    assert "version 3" in _done(simplenet("dataset", "save", "parts", "--after", 2))


def test_corrections_are_discarded_one_by_one_or_all(simplenet: Simplenet, images: Images) -> None:
    _done(simplenet("dataset", "remove", "parts", "dent/000.png", "dent/001.png", "dent/002.png"))
    assert _done(simplenet("dataset", "discard", "parts", "dent/001.png")) == "1 correction forgotten.\n"
    assert _done(simplenet("dataset", "discard", "parts")) == "2 corrections forgotten.\n"
    assert "waits to be saved" in _refused(simplenet("dataset", "save", "parts"))


def test_versions_are_listed_named_and_compared(simplenet: Simplenet, images: Images) -> None:
    _done(simplenet("dataset", "remove", "parts", "dent/000.png", "--save"))
    _done(simplenet("dataset", "relabel", "parts", "dent/001.png", "--type", "crack", "--save"))
    assert "is called 'clean labels'" in _done(simplenet("dataset", "name", "parts", 2, "clean labels"))
    text = _done(simplenet("dataset", "versions", "parts"))
    assert "clean labels" in text
    assert "1 label changed" in text
    listed = _json(simplenet("dataset", "versions", "parts", "--json"))
    assert isinstance(listed, list)
    assert [version["number"] for version in listed] == [3, 2, 1]
    text = _done(simplenet("dataset", "compare", "parts"))
    assert text == "Version 3 against version 2:\nrelabelled: test/dent/001.png: dent → crack\n"
    found = _json(simplenet("dataset", "compare", "parts", 1, 3, "--json"))
    assert isinstance(found, dict)
    assert [image["name"] for image in found["removed"]] == ["test/dent/000.png"]
    assert "removed: test/dent/000.png (dent)" in _done(simplenet("dataset", "compare", "parts", 1, 3))
    assert "has no name now" in _done(simplenet("dataset", "name", "parts", 2, ""))


def test_versions_that_are_not_there_are_refused(simplenet: Simplenet, images: Images) -> None:
    assert "no version 7; it has 1" in _refused(
        simplenet("dataset", "compare", "parts", 1, 7), ExitCode.NOTHING
    )
    assert "Version 1 of dataset 'parts' is the first" in _refused(simplenet("dataset", "compare", "parts"))
    assert "at most 80" in _refused(simplenet("dataset", "name", "parts", 1, "x" * 81))
    for command in ("versions", "pictures", "edits", "save", "history", "restore"):
        assert "Did you mean 'parts'?" in _refused(simplenet("dataset", command, "part"), ExitCode.NOTHING)


def test_pictures_are_listed_by_role(simplenet: Simplenet, images: Images) -> None:
    listed = _json(simplenet("dataset", "pictures", "parts", "--role", "test", "--json"))
    assert isinstance(listed, list)
    assert {image["role"] for image in listed} == {"test"}
    text = _done(simplenet("dataset", "pictures", "parts"))
    assert len(text.splitlines()) == 1 + len(images())
    assert images()["test/dent/000.png"].pixel_digest[:12] in text


def test_export_writes_one_file_and_replaces_none_unasked(
    simplenet: Simplenet, images: Images, tmp_path: Path
) -> None:
    out = tmp_path / "parts.zip"
    _done(simplenet("dataset", "remove", "parts", "dent/000.png", "--save"))
    answer = _json(simplenet("dataset", "export", "parts", "--out", out, "--version", 1, "--json"))
    assert isinstance(answer, dict)
    assert (answer["version"], answer["bytes"]) == (1, out.stat().st_size)
    with zipfile.ZipFile(out) as archive:
        assert len(archive.namelist()) == 1 + 40 + 8  # table, pictures, masks
    assert "exists" in _refused(simplenet("dataset", "export", "parts", "--out", out))
    assert "version 2, 39 pictures" in _done(
        simplenet("dataset", "export", "parts", "--out", out, "--overwrite")
    )
    assert "Choose a folder" in _refused(simplenet("dataset", "export", "parts", "--out", out / "parts.zip"))


def test_deletion_asks_first_and_can_be_undone(simplenet: Simplenet, images: Images) -> None:
    from dashboard.cli import app

    for said in ("n\n", ""):
        kept = CliRunner().invoke(app, ["dataset", "delete", "parts"], input=said)
        assert kept.exit_code == ExitCode.ERROR
        assert "Delete dataset 'parts' with all its versions, studies and models?" in kept.stderr
        assert "was not deleted. To delete without being asked, give --yes." in kept.stderr
        assert kept.stdout.strip() == said.strip()  # the echo of what was typed
    deleted = CliRunner().invoke(app, ["dataset", "delete", "parts"], input="y\n")
    assert "simplenet dataset restore parts" in _done(deleted)
    assert _json(simplenet("datasets", "--json")) == []
    assert "Restore it" in _refused(simplenet("dataset", "versions", "parts"), ExitCode.NOTHING)
    assert "deleted the dataset" in _done(simplenet("dataset", "history", "parts"))
    assert "Dataset 'parts' is back." in _done(simplenet("dataset", "restore", "parts"))
    _done(simplenet("dataset", "restore", "parts"))  # nothing to do is no error, and no event
    _done(simplenet("dataset", "delete", "parts", "--yes"))
    _done(simplenet("dataset", "restore", "parts"))
    history = _json(simplenet("dataset", "history", "parts", "--json"))
    assert isinstance(history, list)
    assert [event["what"] for event in history[:-1]] == ["restored the dataset", "deleted the dataset"] * 2
    assert {event["who"] for event in history[:-1]} == {getpass.getuser()}


def test_champion_must_be_withdrawn_before_its_dataset_is_deleted(
    simplenet: Simplenet, own_studied_home: Path
) -> None:
    refused = _refused(simplenet("dataset", "delete", "parts", "--yes"))
    assert "simplenet withdraw parts" in refused
    assert simplenet("withdraw", "parts").exit_code == ExitCode.USAGE  # no reason
    text = _done(simplenet("withdraw", "parts", "--why", "blind to dents"))
    assert "'parts' has no champion until one is promoted" in text
    assert "no champion" in _refused(simplenet("withdraw", "parts", "--why", "again"), ExitCode.NOTHING)
    workspace = open_workspace()
    with workspace.session() as session:
        assert models.champion(session, "parts") is None
        assert events.list_events(session, "parts")[0].what.endswith("model version 1: blind to dents")
    _done(simplenet("promote", "parts", 1, "--why", "better than none"))
    _done(simplenet("withdraw", "parts", "--why", "no more parts"))
    _done(simplenet("dataset", "delete", "parts", "--yes"))
