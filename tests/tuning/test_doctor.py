"""The dataset doctor: every finding fires where it should, and a healthy dataset hears little."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from storage import checkups, datasets
from storage.workspace import Workspace
from tuning.doctor import examine
from tuning.findings import Finding, correction, read_findings
from tuning.ingest import ingest_folder


def examined(workspace: Workspace, folder: Path) -> dict[str, Finding]:
    version = ingest_folder(workspace, folder, "parts").version
    return {finding.kind: finding for finding in examine(workspace, version, quick=True)}


def opened(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.copy()


def names(workspace: Workspace, finding: Finding) -> list[str]:
    with workspace.session() as session:
        version = datasets.latest_version(session, "parts")
        known = {image.pixel_digest: image.name for image in datasets.list_images(session, version.id)}
    return [known[picture.pixel_digest] for picture in finding.pictures]


def test_healthy_dataset_hears_only_what_more_pictures_would_bring(workspace, make_folder) -> None:
    found = examined(workspace, make_folder(train=110, test_normal=24, defects={"dent": 8}))
    assert set(found) == {"calibration-99"}
    assert found["calibration-99"].why.endswith("there are 22.")


def test_copy_saved_anew_is_found_across_roles(workspace, make_folder) -> None:
    folder = make_folder(train=30, test_normal=24, defects={"dent": 8}, size=128)
    picture = opened(folder / "train/good/003.png")
    data = io.BytesIO()
    picture.resize((192, 192), Image.Resampling.BICUBIC).save(data, "JPEG", quality=80)
    (folder / "test/good/copy.jpg").write_bytes(data.getvalue())
    finding = examined(workspace, folder)["near-copies-across"]
    assert (finding.count, finding.severity) == (1, "serious")
    assert names(workspace, finding) == ["test/good/copy.jpg"]
    edit = correction(finding, finding.pictures[0])
    assert edit is not None
    assert edit.remove


def test_light_blur_size_and_clipping(workspace, make_folder) -> None:
    folder = make_folder(train=40, test_normal=24, defects={"dent": 8})
    good = folder / "train/good"
    size = opened(good / "000.png").size
    opened(good / "001.png").point(lambda value: value // 3).save(good / "001.png")
    opened(good / "002.png").filter(ImageFilter.GaussianBlur(4)).save(good / "002.png")
    Image.fromarray(np.full(size, 255, np.uint8)).save(good / "003.png")
    opened(good / "004.png").crop((0, 0, size[0] - 8, size[1] - 8)).save(good / "004.png")
    found = examined(workspace, folder)
    assert "train/good/001.png" in names(workspace, found["exposure"])
    assert "train/good/002.png" in names(workspace, found["blur"])
    assert names(workspace, found["clipped"]) == ["train/good/003.png"]
    assert names(workspace, found["size"]) == ["train/good/004.png"]


def test_masks_that_mark_nothing_or_nearly_all(workspace, make_folder) -> None:
    folder = make_folder(train=40, test_normal=24, defects={"dent": 8})
    size = opened(folder / "test/dent/000.png").size
    Image.fromarray(np.zeros(size, np.uint8)).save(folder / "ground_truth/dent/000_mask.png")
    Image.fromarray(np.full(size, 255, np.uint8)).save(folder / "ground_truth/dent/001_mask.png")
    found = examined(workspace, folder)
    assert names(workspace, found["empty-mask"]) == ["test/dent/000.png"]
    assert names(workspace, found["large-mask"]) == ["test/dent/001.png"]
    edit = correction(found["large-mask"], found["large-mask"].pictures[0])
    assert edit is not None
    assert edit.mask_digest == ""


def test_what_was_left_out_and_what_is_too_few_is_told(workspace, make_folder) -> None:
    folder = make_folder(train=12, test_normal=4, defects={"dent": 2})
    (folder / "train/good/broken.png").write_bytes(b"\x89PNG\r\n")
    (folder / "train/good/copy.png").write_bytes((folder / "train/good/000.png").read_bytes())
    found = examined(workspace, folder)
    assert "train/good/broken.png" in found["left-out"].names[0]
    assert found["copies"].count == 1
    assert {"calibration-19", "calibration-99", "few-validation", "few-test", "rare-types"} <= set(found)


def test_lost_file_is_serious_and_the_others_are_still_examined(workspace, make_folder) -> None:
    version = ingest_folder(workspace, make_folder(train=30, test_normal=24), "parts").version
    with workspace.session() as session:
        lost = datasets.list_images(session, version.id)[0]
    workspace.blobs.path(lost.digest).unlink()
    found = {finding.kind: finding for finding in examine(workspace, version)}
    assert (found["missing"].severity, found["missing"].count) == ("serious", 1)
    assert f"Restore {workspace.settings.home}/blobs from a backup" in found["missing"].remedy


def test_findings_are_kept_and_read_back(workspace, make_folder) -> None:
    version = ingest_folder(workspace, make_folder(train=12, test_normal=4), "parts").version
    found = examine(workspace, version)
    with workspace.session() as session:
        kept = checkups.get_checkup(session, version.id)
    assert kept is not None
    assert read_findings(kept) == found


def test_defects_in_the_margin_are_told_apart_from_those_that_a_crop_keeps(workspace, make_folder) -> None:
    folder = make_folder(train=40, test_normal=24, defects={"dent": 8}, size=128)
    for number in range(8):
        mask = np.zeros((128, 128), np.uint8)
        mask[(2 if number == 5 else 60) :][:5, 50:60] = 255
        Image.fromarray(mask).save(folder / f"ground_truth/dent/{number:03d}_mask.png")
    assert names(workspace, examined(workspace, folder)["cropped-defect"]) == ["test/dent/005.png"]


def test_every_picture_of_a_finding_is_kept_however_many_they_are(workspace, make_folder) -> None:
    folder = make_folder(train=30, test_normal=24, flat=True, size=32)
    draw = np.random.default_rng(0)
    for number in range(230):  # mostly white, each another picture
        pixels = np.full((32, 32), 255, np.uint8)
        pixels[:8] = draw.integers(0, 250, (8, 32))
        Image.fromarray(pixels).save(folder / f"white{number:03d}.png")
    finding = examined(workspace, folder)["clipped"]
    assert (finding.count, len(finding.pictures)) == (230, 230)


def test_of_copies_in_two_roles_the_one_that_is_trained_on_stays(workspace, make_folder) -> None:
    folder = make_folder(train=30, test_normal=24, defects={"dent": 8}, size=128)
    picture = opened(folder / "train/good/003.png")
    for number in range(3):
        picture.resize((160 + number, 160 + number), Image.Resampling.BICUBIC).save(
            folder / f"test/good/copy{number}.png"
        )
    found = examined(workspace, folder)
    across = found["near-copies-across"]
    assert sorted(names(workspace, across)) == [f"test/good/copy{number}.png" for number in range(3)]
    assert {one.note for one in across.pictures} == {across.pictures[0].note}
    assert "train/good/003.png" in across.pictures[0].note
    assert "near-copies" not in found
