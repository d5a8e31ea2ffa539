"""The section Check of the page Datasets: findings in full, corrected or accepted with one click."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from storage import checkups, datasets, edits
from storage.records import DatasetVersion, Edit, now
from storage.workspace import Workspace, open_workspace
from tuning import jobs
from tuning.commands import ingest_folder
from tuning.doctor import examine, job_key
from tuning.errors import BadPicture
from tuning.versions import save_edits

Page = Callable[..., AppTest]

WHITE = 30  # pictures that are mostly white, more than are shown at first


@pytest.fixture
def workspace(home: Path) -> Workspace:
    return open_workspace()


@pytest.fixture
def version(workspace: Workspace, make_folder: Callable[..., Path]) -> DatasetVersion:
    """An examined dataset `parts`."""
    folder = make_folder(train=30, flat=True, size=32)
    draw = np.random.default_rng(0)
    for number in range(WHITE):
        pixels = np.full((32, 32), 255, np.uint8)
        pixels[:8] = draw.integers(0, 250, (8, 32))
        Image.fromarray(pixels).save(folder / f"white{number:03d}.png")
    version = ingest_folder(workspace, folder, "parts").version
    examine(workspace, version, quick=True)
    return version


def _open(page: Page) -> AppTest:
    app = page("views/datasets.py", dataset="parts", section="Check")
    assert not app.exception
    return app


def test_all_means_every_picture_of_the_finding(
    page: Page, workspace: Workspace, version: DatasetVersion
) -> None:
    app = _open(page)
    assert "(6 are hidden)" in app.button(key="more clipped").label
    app.button(key="more clipped").click().run()
    assert "more clipped" not in [button.key for button in app.button]
    assert app.button(key="accept clipped").label == f"Accept (all {WHITE})"
    app.button(key="accept clipped").click().run()
    assert "accept clipped" not in [button.key for button in app.button]
    with workspace.session() as session:
        accepted = [kind for kind, _ in checkups.accepted_findings(session, "parts")]
    assert accepted.count("clipped") == WHITE


def test_taking_all_out_makes_a_correction_of_each(
    page: Page, workspace: Workspace, version: DatasetVersion
) -> None:
    app = _open(page)
    app.button(key="fix clipped").click().run()
    assert not app.exception
    with workspace.session() as session:
        waiting = edits.list_edits(session, "parts")
        digests = {
            image.pixel_digest for image in datasets.list_images(session, version.id) if "white" in image.name
        }
    assert {edit.pixel_digest for edit in waiting if edit.remove} == digests


def test_pictures_of_a_finding_are_seen_large_whatever_was_filtered_before(
    page: Page, workspace: Workspace, version: DatasetVersion
) -> None:
    app = page("views/datasets.py", dataset="parts", role="test", image="999")
    app.segmented_control(key="section").set_value("Check").run()
    app.button(key="see clipped").click().run()
    assert not app.exception
    assert app.segmented_control(key="section").value == "Pictures"
    assert app.selectbox(key="finding").value == next(
        finding["title"] for finding in _letter(workspace, version) if finding["kind"] == "clipped"
    )
    assert f"{WHITE} pictures" in [caption.value for caption in app.caption]
    assert [warning.value for warning in app.warning] == []
    again = page("views/datasets.py", **app.query_params)  # reloaded, or sent as a link
    assert f"{WHITE} pictures" in [caption.value for caption in again.caption]


def test_pictures_of_a_version_that_was_never_checked_say_so_in_place_of_findings(
    page: Page, workspace: Workspace, version: DatasetVersion
) -> None:
    with workspace.session() as session:
        image = datasets.list_images(session, version.id)[0]
        wanted = [Edit(pixel_digest=image.pixel_digest, remove=True)]
        edits.put_edits(session, "parts", wanted, who="ada", now=now())
    save_edits(workspace, "parts", who="ada")  # as the command line does, which checks nothing
    app = page("views/datasets.py", dataset="parts")
    assert not app.exception
    (finding,) = [box for box in app.selectbox if box.label == "Finding"]
    assert finding.disabled
    assert "not checked yet" in finding.help


def _letter(workspace: Workspace, version: DatasetVersion) -> list[dict[str, str]]:
    with workspace.session() as session:
        checkup = checkups.get_checkup(session, version.id)
    assert checkup is not None
    findings: list[dict[str, str]] = checkup.findings["findings"]
    return findings


def test_failure_is_told_until_a_later_look_succeeds(
    page: Page, workspace: Workspace, version: DatasetVersion
) -> None:
    def fail(progress: jobs.Progress) -> None:
        raise BadPicture("Picture 'a.png' is gone. Bring it back.")

    jobs.work(workspace.settings, job_key(version.id), fail)
    assert [error.value for error in _open(page).error] == ["Picture 'a.png' is gone. Bring it back."]
    examine(workspace, version, quick=True)
    assert [error.value for error in _open(page).error] == []
