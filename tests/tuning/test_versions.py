"""Corrections become versions; versions are compared and exported."""

import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BadImage
from engine.masks import encode_mask
from storage import datasets, edits, events
from storage.errors import BadEdit, BadName, BlobMissing, VersionChanged
from storage.listing import walk
from storage.records import DatasetVersion, Edit, ImageRecord, Label, Role, now
from storage.workspace import Workspace
from tuning import corrections
from tuning.corrections import masked, relabelled
from tuning.errors import AmbiguousPicture, BadDataset, BadPicture, PictureNotFound
from tuning.export import export_version
from tuning.ingest import ingest_folder
from tuning.picture_names import find_pictures
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


def test_waiting_corrections_tell_a_replaced_mask_from_a_new_one_and_from_none(workspace, version) -> None:
    dents = [image for image in images(workspace, version) if image.defect_type == "dent"]
    other = workspace.blobs.put(encode_mask(np.eye(64, dtype=bool)))
    bare = next(image for image in images(workspace, version) if image.label is Label.NORMAL)
    put(
        workspace,
        Edit(pixel_digest=dents[0].pixel_digest, mask_digest=other),
        Edit(pixel_digest=dents[1].pixel_digest, mask_digest=""),
        Edit(pixel_digest=bare.pixel_digest, label=Label.ANOMALOUS, defect_type="dent", mask_digest=other),
    )
    assert {(one.before, one.after) for one in preview_edits(workspace, NAME)} == {
        ("dent, with mask", "dent, with another mask"),
        ("dent, with mask", "dent"),
        ("normal", "dent, with mask"),
    }


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


def latest(workspace: Workspace) -> dict[str, ImageRecord]:
    with workspace.session() as session:
        version = datasets.latest_version(session, NAME)
        return {image.pixel_digest: image for image in datasets.list_images(session, version.id)}


def waiting(workspace: Workspace) -> list[Edit]:
    with workspace.session() as session:
        return edits.list_edits(session, NAME)


def test_people_who_correct_and_save_at_once_lose_nothing(workspace, version) -> None:
    trained = [image for image in images(workspace, version) if image.role is Role.TRAIN][:8]
    start = threading.Barrier(4)
    failed: list[Exception] = []

    def work(image: ImageRecord) -> None:
        start.wait()
        corrections.put(workspace, NAME, relabelled([image], Label.ANOMALOUS), who="x")
        try:
            save_edits(workspace, NAME, who="x")
        except BadEdit:  # another one has saved it along
            pass
        except Exception as error:
            failed.append(error)

    for four in (trained[:4], trained[4:]):
        threads = [threading.Thread(target=work, args=(image,)) for image in four]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    assert [latest(workspace)[image.pixel_digest].label for image in trained] == [Label.ANOMALOUS] * 8


def test_version_made_meanwhile_keeps_the_corrections_waiting(workspace, version) -> None:
    first, second = [image for image in images(workspace, version) if image.defect_type == "dent"][:2]
    put(workspace, Edit(pixel_digest=first.pixel_digest, remove=True))
    save_edits(workspace, NAME, who="ben")
    put(workspace, Edit(pixel_digest=second.pixel_digest, remove=True))
    with pytest.raises(VersionChanged, match="has version 2 by now"):
        save_edits(workspace, NAME, who="ann", after=1)
    assert [edit.pixel_digest for edit in waiting(workspace)] == [second.pixel_digest]
    assert save_edits(workspace, NAME, who="ann", after=2).number == 3


def test_corrections_of_pictures_that_are_gone_are_dropped_and_said(workspace, version) -> None:
    gone, stays = [image for image in images(workspace, version) if image.defect_type == "dent"][:2]
    put(workspace, Edit(pixel_digest=gone.pixel_digest, remove=True))
    save_edits(workspace, NAME, who="ann")
    put(workspace, *relabelled([gone, stays], Label.NORMAL))
    assert [one.name for one in preview_edits(workspace, NAME)] == [stays.name]
    change = save_edits(workspace, NAME, who="ann").change
    assert change is not None
    assert change.endswith("; 1 correction dropped, of pictures that are no longer there")
    assert waiting(workspace) == []


def test_relabelled_back_is_no_correction(workspace, version) -> None:
    trained = [image for image in images(workspace, version) if image.role is Role.TRAIN][:1]
    assert corrections.put(workspace, NAME, relabelled(trained, Label.NORMAL), who="ann") == 0
    assert (
        corrections.put(workspace, NAME, relabelled(trained, Label.ANOMALOUS, " deep  dent "), who="ann") == 1
    )
    assert waiting(workspace)[0].defect_type == "deep dent"
    assert corrections.put(workspace, NAME, relabelled(trained, Label.ANOMALOUS, "deep dent"), who="ann") == 0
    assert corrections.put(workspace, NAME, relabelled(trained, Label.NORMAL), who="ann") == 1
    assert waiting(workspace) == []


def test_correction_of_a_missing_picture_is_refused_with_all_others(workspace, version) -> None:
    there = images(workspace, version)[0]
    both = [Edit(pixel_digest=there.pixel_digest, remove=True), Edit(pixel_digest="0" * 64, remove=True)]
    with pytest.raises(PictureNotFound, match="000000000000 is not in version 1 of dataset 'parts'"):
        corrections.put(workspace, NAME, both, who="ann")
    assert waiting(workspace) == []


def test_normal_picture_is_given_neither_mask_nor_defect_type(workspace, version) -> None:
    normal = next(image for image in images(workspace, version) if image.role is Role.TRAIN)
    for edit in (
        masked(workspace, normal, encode_mask(np.ones((64, 64), bool)), "drawn.png"),
        Edit(pixel_digest=normal.pixel_digest, defect_type="dent"),
    ):
        with pytest.raises(BadEdit, match="is labelled normal and is given"):
            corrections.put(workspace, NAME, [edit], who="ann")
        assert waiting(workspace) == []
        put(workspace, edit)  # past the check, as an older program may have
        assert "can't be saved" in preview_edits(workspace, NAME)[0].after
        with pytest.raises(BadEdit, match="is labelled normal and is given"):
            save_edits(workspace, NAME, who="ann")
        with workspace.session() as session:
            edits.discard_edits(session, NAME)


def test_mask_for_a_picture_that_waits_to_be_normal_is_refused(workspace, version) -> None:
    dent = next(image for image in images(workspace, version) if image.defect_type == "dent")
    corrections.put(workspace, NAME, relabelled([dent], Label.NORMAL), who="ann")
    mask = masked(workspace, dent, encode_mask(np.ones((64, 64), bool)), "drawn.png")
    with pytest.raises(BadEdit, match="waits to be labelled normal and is given a mask"):
        corrections.put(workspace, NAME, [mask], who="ann")
    with workspace.session() as session:
        edits.discard_edits(session, NAME)
    corrections.put(workspace, NAME, [mask], who="ann")  # in the other order the label wins
    corrections.put(workspace, NAME, relabelled([dent], Label.NORMAL), who="ann")
    assert waiting(workspace) == [Edit(pixel_digest=dent.pixel_digest, label=Label.NORMAL)]


def test_mask_that_marks_nothing_or_has_another_shape_is_refused(workspace, version) -> None:
    dent = next(image for image in images(workspace, version) if image.defect_type == "dent")
    with pytest.raises(BadPicture, match=r"Mask 'empty\.png' marks no pixel of picture 'test/dent/000\.png'"):
        masked(workspace, dent, encode_mask(np.zeros((64, 64), bool)), "empty.png")
    with pytest.raises(BadImage, match="both must have the same shape"):
        masked(workspace, dent, encode_mask(np.ones((64, 80), bool)), "wide.png")


@pytest.mark.parametrize("role", [Role.CALIBRATION, Role.VALIDATION, Role.TEST])
def test_no_role_may_lose_its_last_normal_picture(workspace, version, role: Role) -> None:
    normals = [
        image for image in images(workspace, version) if (image.role, image.label) == (role, Label.NORMAL)
    ]
    put(workspace, *(Edit(pixel_digest=image.pixel_digest, remove=True) for image in normals))
    with pytest.raises(BadDataset, match=f"no normal {role} picture of {len(normals)} left; at least 1"):
        save_edits(workspace, NAME, who="ann")
    assert len(waiting(workspace)) == len(normals)


def test_picture_is_found_by_name_by_ending_and_by_digest(workspace, version) -> None:
    known = images(workspace, version)
    wanted = next(image for image in known if image.name == "test/dent/003.png")
    for name in ("test/dent/003.png", "dent/003.png", wanted.pixel_digest[:8], wanted.pixel_digest.upper()):
        assert find_pictures(known, [name]) == [wanted]
    assert find_pictures(known, ["dent/003.png", wanted.pixel_digest]) == [wanted]
    inner = replace(known[0], name=f"lot/{known[0].name}", pixel_digest="f" * 64)
    assert find_pictures([inner, *known], [known[0].name]) == [known[0]]


def test_unknown_picture_names_the_nearest(workspace, version) -> None:
    known = images(workspace, version)
    with pytest.raises(PictureNotFound, match=r"no picture 'dent/0003\.png'.*Did you mean 'test/"):
        find_pictures(known, ["dent/0003.png"])
    with pytest.raises(PictureNotFound, match=rf"no picture 'elephant' among {len(known)}\. `simplenet"):
        find_pictures(known, ["elephant"])


def test_name_of_several_pictures_lists_them_with_their_digests(workspace, version) -> None:
    known = images(workspace, version)
    named = [image for image in known if image.name.endswith("/003.png")]
    with pytest.raises(AmbiguousPicture, match=f"'003.png' fits {len(named)} pictures: ") as refused:
        find_pictures(known, ["003.png"])
    for image in named:
        assert f"{image.name} ({image.pixel_digest[:12]})" in str(refused.value)


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
