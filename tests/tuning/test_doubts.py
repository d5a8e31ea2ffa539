"""Labels and masks to be doubted: hidden wrong ones are found, right ones left alone, and nothing unread stops it."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage import checkups, datasets
from storage.records import Label
from storage.workspace import Workspace
from tuning import jobs
from tuning.doctor import examine, job_key, start_examination
from tuning.findings import Finding, correction, read_findings
from tuning.ingest import ingest_folder
from tuning.jobs import JobState

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def examined(workspace: Workspace, folder: Path) -> dict[str, Finding]:
    version = ingest_folder(workspace, folder, "parts").version
    return {finding.kind: finding for finding in examine(workspace, version)}


def counted(found: dict[str, Finding], kind: str) -> int:
    return found[kind].count if kind in found else 0


def names(workspace: Workspace, finding: Finding) -> list[str]:
    with workspace.session() as session:
        version = datasets.latest_version(session, "parts")
        known = {image.pixel_digest: image.name for image in datasets.list_images(session, version.id)}
    return [known[picture.pixel_digest] for picture in finding.pictures]


def test_healthy_dataset_hears_no_doubt(workspace, make_folder) -> None:
    found = examined(workspace, make_folder(train=110, test_normal=24, defects={"dent": 8}))
    assert not set(found) & {"usual-anomalous", "misplaced-mask"}
    assert counted(found, "odd-normal") <= 4  # of 134


def test_defect_among_the_normal_pictures_is_found_and_one_click_labels_it(workspace, make_folder) -> None:
    folder = make_folder(train=40, test_normal=24, defects={"dent": 8})
    shutil.move(folder / "test/dent/003.png", folder / "train/good/dent.png")
    (folder / "ground_truth/dent/003_mask.png").unlink()
    finding = examined(workspace, folder)["odd-normal"]
    assert names(workspace, finding)[0] == "train/good/dent.png"
    edit = correction(finding, finding.pictures[0])
    assert edit is not None
    assert (edit.label, edit.remove) == (Label.ANOMALOUS, False)


def test_normal_picture_among_the_anomalous_ones_is_found_and_one_click_labels_it(
    workspace, make_folder
) -> None:
    folder = make_folder(train=40, test_normal=24, defects={"dent": 8})
    for number in range(4):  # half of all normal pictures are less odd than the median
        shutil.move(folder / f"train/good/00{number}.png", folder / f"test/dent/normal{number}.png")
    finding = examined(workspace, folder)["usual-anomalous"]
    assert set(names(workspace, finding)) <= {f"test/dent/normal{number}.png" for number in range(4)}
    edit = correction(finding, finding.pictures[0])
    assert edit is not None
    assert edit.label is Label.NORMAL


def test_mask_saved_upside_down_is_found(workspace, make_folder) -> None:
    folder = make_folder(train=40, test_normal=24, defects={"dent": 8})
    _mark(folder, 2, top=8, marked=40)
    finding = examined(workspace, folder)["misplaced-mask"]
    assert names(workspace, finding) == ["test/dent/002.png"]
    assert finding.pictures[0].note == "would fit better mirrored top to bottom"


def _mark(folder: Path, number: int, *, top: int, marked: int) -> None:
    """Draw a defect at one height of a picture of 64 px, and a mask at another."""
    pixels = np.random.default_rng(number).integers(60, 180, (64, 64), dtype=np.uint8)
    pixels[top : top + 16, 24:40] = 255
    mask = np.zeros((64, 64), np.uint8)
    mask[marked : marked + 16, 24:40] = 255
    Image.fromarray(pixels).save(folder / f"test/dent/{number:03d}.png")
    Image.fromarray(mask).save(folder / f"ground_truth/dent/{number:03d}_mask.png")


def test_too_few_normal_pictures_raise_no_doubt(workspace, make_folder) -> None:
    found = examined(workspace, make_folder(train=12, test_normal=4, defects={"dent": 2}))
    assert not set(found) & {"odd-normal", "usual-anomalous", "misplaced-mask"}


def test_lost_files_are_left_out_of_the_comparison(workspace, make_folder) -> None:
    version = ingest_folder(
        workspace, make_folder(train=40, test_normal=24, defects={"dent": 4}), "parts"
    ).version
    with workspace.session() as session:
        images = datasets.list_images(session, version.id)
    workspace.blobs.path(images[0].digest).write_bytes(b"no picture any more")
    masked = next(image for image in images if image.mask_digest)
    workspace.blobs.path(str(masked.mask_digest)).unlink()
    findings = examine(workspace, version)
    looked = {
        picture.pixel_digest for one in findings for picture in one.pictures if one.kind == "odd-normal"
    }
    assert images[0].pixel_digest not in looked
    assert "misplaced-mask" not in {one.kind for one in findings}


def test_what_was_found_quickly_outlives_an_examination_that_is_cancelled(workspace, make_folder) -> None:
    version = ingest_folder(workspace, make_folder(train=40, test_normal=24), "parts").version

    class CancelledError(Exception):
        pass

    def progress(done: int, total: int, text: str) -> None:
        if text.startswith("comparing") and "with normal pictures" in text and done == 3:
            raise CancelledError

    with pytest.raises(CancelledError):
        examine(workspace, version, progress=progress)
    with workspace.session() as session:
        kept = checkups.get_checkup(session, version.id)
    assert kept is not None
    assert {"calibration-19", "calibration-99"} & {finding.kind for finding in read_findings(kept)}


def test_examination_in_the_background_ends_with_the_same_findings(workspace, make_folder) -> None:
    folder = make_folder(train=40, test_normal=24, defects={"dent": 8})
    _mark(folder, 2, top=8, marked=40)
    version = ingest_folder(workspace, folder, "parts").version
    here = examine(workspace, version)
    job = start_examination(workspace, version.id)
    limit = time.monotonic() + 120
    while job.state is JobState.RUNNING and time.monotonic() < limit:
        time.sleep(0.1)
        job = jobs.status(workspace.settings, job_key(version.id)) or job
    assert job.state is JobState.DONE, job.error
    with workspace.session() as session:
        kept = checkups.get_checkup(session, version.id)
    assert kept is not None
    assert read_findings(kept) == here


def test_magnetic_tiles_hear_few_findings(workspace) -> None:
    tiles = DATA / "magnetic_tile"
    if not tiles.is_dir():
        pytest.skip("the magnetic tiles are not on this machine")
    found = examined(workspace, tiles)
    assert set(found) <= {
        "near-copies",
        "calibration-99",
        "shape",
        "small-defect",
        "cropped-defect",
        "blur",
        "exposure",
        "odd-normal",
    }
    assert found["near-copies"].count <= 2
    assert counted(found, "odd-normal") <= 3  # of 157
