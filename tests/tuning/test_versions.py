"""Corrections become versions; versions are compared and exported."""

import zipfile
from pathlib import Path

import pytest

from storage import datasets, edits, events
from storage.errors import BadEdit, BadName, BlobMissing
from storage.listing import walk
from storage.records import DatasetVersion, Edit, ImageRecord, Label, Role, now
from storage.workspace import Workspace
from tuning.corrections import relabelled
from tuning.errors import BadDataset
from tuning.export import export_version
from tuning.ingest import ingest_folder
from tuning.versions import compare, preview_edits, save_edits

NAME = "parts"


@pytest.fixture
def version(workspace: Workspace, make_folder) -> DatasetVersion:
    folder = make_folder(train=24, test_normal=6, defects={"dent": 4, "scratch": 4})
    return ingest_folder(workspace, folder, NAME).version


def images(workspace: Workspace, version: DatasetVersion) -> list[ImageRecord]:
    with workspace.session() as session:
        return datasets.list_images(session, version.id)


def put(workspace: Workspace, *wanted: Edit) -> None:
    with workspace.session() as session:
        edits.put_edits(session, NAME, wanted, who="ann", now=now())


def test_corrections_make_the_next_version_and_leave_the_former(workspace, version) -> None:
    before = images(workspace, version)
    dents = [image for image in before if image.defect_type == "dent"]
    gone = next(image for image in before if image.role is Role.TRAIN)
    put(workspace, *relabelled(dents[:2], Label.NORMAL), Edit(pixel_digest=gone.pixel_digest, remove=True))
    assert [one.after for one in preview_edits(workspace, NAME)].count("taken out") == 1
    made = save_edits(workspace, NAME, who="ann")
    assert (made.number, made.who) == (2, "ann")
    assert made.change == "1 picture removed, 2 labels changed, 2 masks changed"
    assert images(workspace, version) == before
    found = compare(workspace, version, made)
    assert [image.name for image in found.removed] == [gone.name]
    assert {old.name for old, _ in found.relabelled} == {image.name for image in dents[:2]}
    assert found.moved == ()
    with workspace.session() as session:
        assert edits.list_edits(session, NAME) == []
        assert "made version 2" in events.list_events(session, NAME)[0].what


def test_trained_picture_that_turns_out_anomalous_goes_to_validation(workspace, version) -> None:
    trained = next(image for image in images(workspace, version) if image.role is Role.TRAIN)
    put(workspace, *relabelled([trained], Label.ANOMALOUS, "dent"))
    made = save_edits(workspace, NAME, who="ann")
    ((_, moved),) = compare(workspace, version, made).moved
    assert (moved.role, moved.label, moved.defect_type) == (Role.VALIDATION, Label.ANOMALOUS, "dent")


def test_nothing_waiting_and_too_few_left_are_refused_and_nothing_is_lost(workspace, version) -> None:
    with pytest.raises(BadEdit, match="No correction of dataset 'parts' waits"):
        save_edits(workspace, NAME, who="ann")
    trained = [image for image in images(workspace, version) if image.role in (Role.TRAIN, Role.CALIBRATION)]
    put(workspace, *(Edit(pixel_digest=image.pixel_digest, remove=True) for image in trained[:-9]))
    with pytest.raises(BadDataset, match="would have 9 normal pictures"):
        save_edits(workspace, NAME, who="ann")
    with workspace.session() as session:
        assert len(edits.list_edits(session, NAME)) == len(trained) - 9
        assert datasets.latest_version(session, NAME) == version


def test_export_comes_back_as_the_same_pictures_labels_and_masks(workspace, version, tmp_path: Path) -> None:
    out = tmp_path / "out" / "parts.zip"
    assert export_version(workspace, version, out) == out.stat().st_size
    again = tmp_path / "again"
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        archive.extractall(again)
    back = ingest_folder(workspace, again, "again").version

    def content(of: DatasetVersion) -> set[tuple[str, Label, str | None, str | None]]:
        return {
            (image.pixel_digest, image.label, image.defect_type, image.mask_digest)
            for image in images(workspace, of)
        }

    assert content(back) == content(version)
    pool = {Role.TRAIN, Role.CALIBRATION}
    assert {image.pixel_digest for image in images(workspace, back) if image.role in pool} == {
        image.pixel_digest for image in images(workspace, version) if image.role in pool
    }


def test_export_that_fails_leaves_no_file(workspace, version, tmp_path: Path) -> None:
    lost = images(workspace, version)[5]
    workspace.blobs.path(lost.digest).unlink()
    with pytest.raises(BlobMissing):
        export_version(workspace, version, tmp_path / "out" / "parts.zip")
    assert walk(tmp_path / "out") == []
    assert list((tmp_path / "out").iterdir()) == []


def test_names_that_differ_in_case_only_do_not_meet_in_an_export(workspace, make_folder, tmp_path) -> None:
    folder = make_folder(train=12, flat=True)
    (folder / "000.png").rename(folder / "con.png")
    (folder / "001.png").rename(folder / "A.png")
    (folder / "002.png").rename(folder / "a.png")
    version = ingest_folder(workspace, folder, NAME).version
    export_version(workspace, version, tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        names = [name.lower() for name in archive.namelist()]
    assert len(set(names)) == len(names)
    from storage.names import check_name

    for name in names:
        check_name(name)
    with pytest.raises(BadName):
        check_name("train/good/con.png")
