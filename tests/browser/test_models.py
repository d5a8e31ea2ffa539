"""The life of a champion in a real Chromium: compare, promote, roll back, export, score a zip; by real processes."""

import io
import os
import re
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.serving import free_port
from engine.demo import draw_demo
from storage import models, studies
from storage.records import Study
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tests.browser.running import running, window
from tuning import candidates
from tuning.commands import ingest_folder, launch_study
from tuning.queries import study_trials
from tuning.spec import StudySpec
from tuning.worker import run_worker

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# Set by whoever wants the pictures of the guide: a folder that they are written to.
PICTURES = os.environ.get("PICTURES_OF_THE_GUIDE")


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Brushed plates, a study of three trials, its champion, and another of its trials as a candidate."""
    home = tmp_path_factory.mktemp("installation")
    workspace = open_workspace(
        Settings(home=home, device="cpu", precision="fp32", dashboard_port=free_port())
    )
    draw_demo(home / "pictures", size=128)
    ingest_folder(workspace, home / "pictures", "plates")
    spec = StudySpec(trials=3, epochs=2, height=128, width=128, layers=((2, 3), (1, 2)))
    study = launch_study(workspace, "plates", spec, name="first study")
    run_worker(workspace, worker_id="test", stop=threading.Event(), study_id=study.id)
    candidates.make(workspace, study.id, _others(workspace, study)[0], who="test", progress=lambda *_: None)
    return workspace


def _others(workspace: Workspace, study: Study) -> list[int]:
    with workspace.session() as session:
        best = models.champion(session, "plates")
        study = studies.get_study(session, study.id)
    assert best is not None
    trials = [trial.number for trial in study_trials(workspace, study) if trial.state == "completed"]
    return [number for number in trials if number != best.trial_number]


@pytest.fixture(scope="module")
def address(installation: Workspace) -> Iterator[str]:
    settings = installation.settings
    environment = {
        "SIMPLENET_HOME": str(settings.home),
        "SIMPLENET_DEVICE": "cpu",
        "SIMPLENET_PRECISION": "fp32",
        "SIMPLENET_DASHBOARD_PORT": str(settings.dashboard_port),
    }
    simplenet, log = [sys.executable, "-m", "dashboard.cli", "dashboard"], settings.home / "dashboard.log"
    with running(simplenet, environment, log, f"{settings.dashboard_url}/_stcore/health"):
        yield settings.dashboard_url


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with window(browser, address, accept_downloads=True) as opened:
        yield opened


def test_candidate_is_compared_promoted_and_rolled_back(page: Page, installation: Workspace) -> None:
    page.goto("/models?dataset=plates")
    expect(page.get_by_role("heading", name="Champion: version 1")).to_be_visible()
    page.get_by_role("button", name="Compare and promote").click()
    expect(page.get_by_text("Image AUROC of version 2 minus that of version 1")).to_be_visible()
    page.reload()  # the address remembers what was open
    expect(page.get_by_text("Image AUROC of version 2 minus that of version 1")).to_be_visible()
    expect(page.get_by_text("What differs")).to_be_visible()
    _picture(page, "compare-models", scroll_to="What differs")
    reason = page.get_by_label("Reason, for the record").last
    reason.fill("finds the scratches")
    page.get_by_role("button", name="Promote version 2").click()
    expect(page.get_by_role("heading", name="Champion: version 2")).to_be_visible()
    page.get_by_role("button", name="Roll back to version 1").click()
    expect(page.get_by_role("heading", name="Champion: version 1")).to_be_visible()
    with installation.session() as session:
        told = [(one.who, one.why) for one in models.list_promotions(session, "plates")]
    assert told[:2] == [("dashboard", "rollback from version 2"), ("dashboard", "finds the scratches")]


def test_export_is_certified_and_downloaded(page: Page, tmp_path: Path) -> None:
    page.goto("/models?dataset=plates")
    forms = ["safetensors + JSON"]
    try:
        import onnx  # noqa: F401

        forms.insert(0, "ONNX")
    except ImportError:
        pass
    for form in forms:
        page.get_by_role("button", name=f"Export to {form}").click()
        link = page.get_by_role("link", name=f"Download plates-model-1-{form.split()[0].lower()}")
        expect(link).to_be_visible(timeout=180_000)
        with page.expect_download() as download:
            link.click()
        saved = tmp_path / download.value.suggested_filename
        download.value.save_as(saved)
        assert saved.stat().st_size > 100_000
    expect(page.get_by_text("Flipped decisions").first).to_be_visible()
    page.reload()
    expect(page.get_by_text("Certified").first).to_be_visible()
    _picture(page, "models", height=1500)


def test_dropped_zip_is_scored_and_the_batch_survives_a_reload(
    page: Page, installation: Workspace, tmp_path: Path
) -> None:
    pictures = sorted((installation.settings.home / "pictures" / "test").rglob("*.png"))[::4]
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number, file in enumerate(pictures):
            archive.write(file, f"{number:02d}-{file.parent.name}.png")
        archive.writestr("broken.png", b"no picture")
    zipped = tmp_path / "monday.zip"
    zipped.write_bytes(data.getvalue())
    page.goto("/score?dataset=plates")
    page.locator("input[type=file]").first.set_input_files(zipped)
    expect(page.get_by_role("heading", name="monday.zip")).to_be_visible()
    expect(page.get_by_text(f"{len(pictures)} pictures scored")).to_be_visible(timeout=120_000)
    expect(page.get_by_role("option")).to_have_count(min(24, len(pictures)))
    expect(page.get_by_text("1 picture could not be scored")).to_be_visible()
    page.reload()
    expect(page.get_by_text(f"{len(pictures)} pictures scored")).to_be_visible()
    _browse_it(page, installation, len(pictures))
    with page.expect_download() as download:
        page.get_by_role("button", name="Scores as CSV").click()
    rows = Path(download.value.path()).read_text().splitlines()
    assert len(rows) == 1 + len(pictures) + 1
    page.get_by_role("button", name="Pack overlays and maps").click()
    link = page.get_by_role("link", name="Download plates-batch")
    expect(link).to_be_visible()
    _picture(page, "score")
    with page.expect_download() as download:
        link.click()
    with zipfile.ZipFile(download.value.path()) as packed:
        assert len(packed.namelist()) == 1 + 2 * len(pictures)
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete the batch").click()
    expect(page.get_by_text("Drop pictures of plates")).to_be_visible()
    expect(page.get_by_text("monday.zip")).to_have_count(0)


def _browse_it(page: Page, installation: Workspace, count: int) -> None:
    """A click on a small overlay opens the viewer among all pictures of the batch; nothing is scored for it."""
    (folder,) = installation.settings.batches_folder.iterdir()
    maps = {file: file.stat().st_mtime_ns for file in folder.rglob("*.npz")}
    assert len(maps) == count
    second = page.get_by_role("option").nth(1)
    name = str(second.get_attribute("title")).split(",")[0]
    second.click()
    place, viewer = page.locator(".place"), page.locator(".viewer")
    expect(place).to_have_text(f"2 of {count}")
    expect(page.locator(".viewer .name")).to_have_text(name)
    drawn = "viewer => viewer.dataset.drawn && viewer.dataset.drawn === viewer.dataset.shown"
    page.wait_for_function(drawn, arg=viewer.element_handle())
    _picture(page, "heatmaps-batch")
    page.keyboard.press("ArrowRight")
    expect(place).to_have_text(f"3 of {count}")
    expect(page).to_have_url(
        re.compile(f"image={viewer.get_attribute('data-shown')}")
    )  # the page is told a little later
    page.reload()
    expect(place).to_have_text(f"3 of {count}")
    page.wait_for_function(drawn, arg=viewer.element_handle())
    with page.expect_download() as download:
        page.get_by_role("link", name="Map NPY").click()
    assert download.value.suggested_filename.endswith(".npy")
    page.get_by_role("radio", name="rejects", exact=True).click()
    expect(page).to_have_url(re.compile("show=rejects"))
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.npz")} == maps
    page.get_by_role("link", name="Back to the batch").click()
    expect(page.get_by_text(f"{count} pictures scored")).to_be_visible()


def test_another_trial_becomes_a_candidate_by_a_click(page: Page, installation: Workspace) -> None:
    with installation.session() as session:
        study = studies.list_studies(session, dataset="plates")[0]
    left = _others(installation, study)[1:]
    if not left:
        pytest.skip("the third trial was pruned")
    page.goto("/models?dataset=plates")
    page.get_by_text("Make another trial a candidate").click()
    expect(page.get_by_text("were read twice so far").last).to_be_visible()
    page.get_by_label("Completed trial").click()
    page.keyboard.type(f"trial {left[0] + 1} ")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Judge it and make it a candidate").click()
    expect(page.get_by_text("Version 3", exact=True)).to_be_visible(timeout=180_000)


def _picture(page: Page, name: str, *, scroll_to: str | None = None, height: int = 1000) -> None:
    """Keep what the page shows, for the guide."""
    if PICTURES is None:
        return
    page.set_viewport_size({"width": 1400, "height": height})
    page.mouse.move(1399, 500)  # no words under the pointer
    page.wait_for_timeout(2500)
    if scroll_to:
        page.get_by_text(scroll_to).first.scroll_into_view_if_needed()
        page.wait_for_timeout(500)
    page.screenshot(path=Path(PICTURES) / f"{name}.png")
