"""From a folder to a dataset version: what goes in, what is left out and why, and nothing half-made is ever seen."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dashboard.cli import app
from engine.images import MAX_FILE_BYTES
from engine.masks import MAX_THRESHOLD
from storage import datasets
from storage.errors import BadDatasetName, StorageError
from storage.records import Edit, Label, Role
from tuning import corrections
from tuning.errors import BadDataset
from tuning.ingest import ingest_folder
from tuning.versions import save_edits


def images_of(workspace, version):
    with workspace.session() as session:
        return datasets.list_images(session, version.id)


def test_source_split_is_kept_apart(workspace, make_folder):
    folder = make_folder(defects={"scratch": 5, "dent": 4})
    report = ingest_folder(workspace, folder, "parts")
    images = images_of(workspace, report.version)
    assert not report.skipped
    assert len(images) == 24 + 8 + 9
    for image in images:
        from_train = image.name.startswith("train/")
        assert from_train == (image.role in (Role.TRAIN, Role.CALIBRATION)), image.name
        assert (image.label is Label.ANOMALOUS) == (image.mask_digest is not None)


def test_progress_reaches_the_total(workspace, make_folder):
    seen = []
    ingest_folder(
        workspace, make_folder(), "parts", progress=lambda done, total, what: seen.append((done, total))
    )
    assert seen[0] == (0, 32)
    assert seen[-1] == (32, 32)


def test_unreadable_picture_is_listed_and_the_others_go_in(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    (folder / "train" / "good" / "broken.png").write_bytes(b"this is text")
    report = ingest_folder(workspace, folder, "parts")
    assert [skipped.name for skipped in report.skipped] == ["train/good/broken.png"]
    assert "broken.png" in report.skipped[0].reason
    assert report.version.count() == 24 + 8 + 4


def test_mask_of_another_size_is_listed(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    Image.fromarray(np.full((10, 10), 255, np.uint8)).save(
        folder / "ground_truth" / "scratch" / "000_mask.png"
    )
    report = ingest_folder(workspace, folder, "parts")
    assert [skipped.name for skipped in report.skipped] == ["test/scratch/000.png"]
    assert "10×10" in report.skipped[0].reason


def test_empty_mask_keeps_the_picture_anomalous_without_pixel_truth(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / "ground_truth" / "scratch" / "000_mask.png")
    report = ingest_folder(workspace, folder, "parts")
    image = next(
        image for image in images_of(workspace, report.version) if image.name == "test/scratch/000.png"
    )
    assert image.label is Label.ANOMALOUS
    assert image.mask_digest is None


def test_picture_in_train_and_test_stays_out_of_training(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    shutil.copy(folder / "test" / "good" / "000.png", folder / "train" / "good" / "copy.png")
    report = ingest_folder(workspace, folder, "parts")
    assert [skipped.name for skipped in report.skipped] == ["train/good/copy.png"]
    names = {image.name for image in images_of(workspace, report.version)}
    assert "test/good/000.png" in names


def test_same_pixels_in_another_file_format_count_as_a_copy(workspace, make_folder):
    folder = make_folder()
    with Image.open(folder / "train" / "good" / "000.png") as image:
        image.save(folder / "train" / "good" / "000.bmp")
    report = ingest_folder(workspace, folder, "parts")
    assert len(report.skipped) == 1
    assert "same pixels" in report.skipped[0].reason


def test_contradicting_labels_leave_both_out(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    shutil.copy(folder / "test" / "scratch" / "001.png", folder / "test" / "good" / "fine.png")
    report = ingest_folder(workspace, folder, "parts")
    assert {skipped.name for skipped in report.skipped} == {"test/good/fine.png", "test/scratch/001.png"}


def test_the_same_folder_again_gives_the_same_version(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    first = ingest_folder(workspace, folder, "parts").version
    assert ingest_folder(workspace, folder, "parts").version.id == first.id


def test_too_few_normal_pictures_are_refused_and_leave_nothing(workspace, make_folder):
    with pytest.raises(BadDataset, match=r"9 usable normal pictures.*at least 10"):
        ingest_folder(workspace, make_folder(train=9), "parts")
    with workspace.session() as session:
        assert datasets.list_datasets(session) == []


def test_bad_name_is_refused_before_anything_is_read(workspace, tmp_path: Path):
    with pytest.raises(BadDatasetName, match="Bad Name"):
        ingest_folder(workspace, tmp_path / "nowhere", "Bad Name")


def test_missing_folder_is_a_clear_error(workspace, tmp_path: Path):
    with pytest.raises(StorageError, match="nowhere"):
        ingest_folder(workspace, tmp_path / "nowhere", "parts")


def test_flat_folder_has_only_normal_pictures_in_every_role(workspace, make_folder):
    report = ingest_folder(workspace, make_folder(train=40, flat=True), "parts")
    assert not report.version.has_defects
    assert all(report.version.count(role=role) > 0 for role in Role)


def test_real_tiles_are_understood(workspace, magnetic_tile: Path):
    report = ingest_folder(workspace, magnetic_tile, "magnetic-tile")
    version = report.version
    assert (
        version.count(label=Label.ANOMALOUS) + version.count(label=Label.NORMAL) + len(report.skipped) == 221
    )
    assert version.count(role=Role.TEST, label=Label.ANOMALOUS) == 32
    assert version.has_masks


def test_mask_that_a_person_took_away_does_not_come_back_with_the_same_folder(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    first = ingest_folder(workspace, folder, "parts").version
    scratch = next(image for image in images_of(workspace, first) if image.mask_digest)
    edit = Edit(pixel_digest=scratch.pixel_digest, mask_digest="")
    corrections.put(workspace, "parts", [edit], who="ann")
    second = save_edits(workspace, "parts", who="ann")
    again = ingest_folder(workspace, folder, "parts")
    assert again.version.id == second.id
    (conflict,) = again.skipped
    assert conflict.name == scratch.name
    assert "was corrected after this one; version 2 keeps it" in conflict.reason


def test_mask_that_the_dataset_never_had_is_taken(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    mask = folder / "ground_truth" / "scratch" / "000_mask.png"
    ingest_folder(workspace, folder, "parts")
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(mask)
    report = ingest_folder(workspace, folder, "parts")
    assert (report.version.number, report.version.change, report.skipped) == (2, "1 mask changed", ())


def test_file_larger_than_any_picture_is_left_out_unread(workspace, make_folder):
    folder = make_folder(train=12, flat=True)
    with (folder / "huge.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # takes no room on the disk
    report = ingest_folder(workspace, folder, "parts")
    (huge,) = report.skipped
    assert (huge.name, report.version.count()) == ("huge.png", 12)
    assert "has 536,870,913 bytes; at most 536,870,912 are read" in huge.reason


@pytest.mark.parametrize(
    "command", [["ingest", "{folder}", "--dry-run"], ["dataset", "mask", "p", "a", "--none"]]
)
def test_threshold_of_masks_is_limited_alike_by_both_commands(tmp_path: Path, make_folder, command):
    folder = make_folder()
    words = [word.format(folder=folder) for word in command]

    def told(threshold: int) -> str:
        options = [*words, "--mask-threshold", str(threshold)]
        return CliRunner().invoke(app, ["--home", str(tmp_path / "home"), *options]).output

    assert "less than or equal to 65534" in " ".join(told(MAX_THRESHOLD + 1).split())
    assert "Invalid value" not in told(MAX_THRESHOLD)
