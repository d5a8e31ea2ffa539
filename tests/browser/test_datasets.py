"""A dataset's life in a real Chromium: uploaded, reviewed, checked, corrected, compared, deleted, restored."""

import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.serving import free_port
from dashboard.server import command
from storage.settings import Settings
from tests.browser.running import running, window

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard on an empty installation, alone."""
    home = tmp_path_factory.mktemp("installation")
    port = free_port()
    settings = Settings(home=home, dashboard_port=port, device="cpu", precision="fp32")
    environment = {"SIMPLENET_HOME": str(home)}
    url = f"http://127.0.0.1:{port}"
    with running(command(settings), environment, home / "dashboard.log", f"{url}/_stcore/health"):
        yield url


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with window(browser, address) as opened:
        yield opened


def test_from_a_zip_to_a_corrected_version_and_back_from_the_bin(
    page: Page, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder(train=24, test_normal=12, defects={"dent": 6, "scratch": 6}, size=96)
    (folder / "train/good/broken.png").write_text("no picture")
    file = _zipped(folder, tmp_path / "Brackets.zip")
    _upload_and_review(page, file)
    _take_in(page)
    _see_the_check(page)
    _correct_and_compare(page)
    _export(page)
    _delete_and_restore(page)


def test_refused_archive_says_why_and_can_be_discarded(page: Page, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../evil.png", b"x")
    page.goto("/datasets?new=1")
    page.locator("input.files").set_input_files(tmp_path / "evil.zip")
    expect(page.get_by_text("leads out of its folder")).to_be_visible()
    page.get_by_role("button", name="Discard").click()
    expect(page.get_by_role("button", name="Choose files")).to_be_visible()


def _upload_and_review(page: Page, file: Path) -> None:
    page.goto("/datasets")
    expect(page.get_by_text("No dataset yet")).to_be_visible()
    page.locator("input.files").set_input_files(file)
    expect(page.get_by_text("What was understood of Brackets.zip")).to_be_visible()
    expect(page.get_by_text("49 pictures, recognised as the tree of MVTec AD.")).to_be_visible()
    expect(page.get_by_label("Dataset", exact=True)).to_have_value("parts")
    page.reload()  # the address holds the arrival
    name = page.get_by_label("Dataset", exact=True)
    name.fill("Brackets!")
    name.press("Enter")
    expect(page.get_by_text("must be 1 to 63 lowercase letters")).to_be_visible()
    name.fill("brackets")
    name.press("Enter")
    expect(page.get_by_text("must be 1 to 63 lowercase letters")).to_have_count(0)


def _take_in(page: Page) -> None:
    button = page.get_by_role("button", name="Take them in")
    expect(button).to_be_enabled()
    page.wait_for_timeout(1000)  # the page has come to rest
    button.click()
    expect(page.get_by_text("Dataset brackets, version 1: 48 pictures.")).to_be_visible()
    expect(page.get_by_text("1 file left out, the others are in.")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the report").click()
    assert "broken.png" in Path(download.value.path()).read_text()


def _see_the_check(page: Page) -> None:
    page.get_by_role("button", name="Check them").click()
    expect(
        page.get_by_text(re.compile("too few calibration pictures for a false-reject rate of 1 %", re.I))
    ).to_be_visible()
    expect(page.get_by_text("files that could not be used")).to_be_visible()


def _correct_and_compare(page: Page) -> None:
    page.get_by_role("radio", name="Pictures", exact=True).click()
    expect(page.get_by_role("option")).to_have_count(48)
    page.wait_for_timeout(1500)  # the page has come to rest
    _choose(page, "Defect type", "scratch")
    expect(page.get_by_role("option")).to_have_count(6)
    page.get_by_text("Choose several").click()
    expect(page.get_by_role("button", name="Choose none")).to_be_visible()
    page.get_by_role("option").nth(0).click()
    page.get_by_role("option").nth(1).click()
    expect(page.get_by_role("button", name="Relabel 2")).to_be_visible()
    page.wait_for_timeout(1500)
    _choose(page, "Label", "anomalous")
    page.wait_for_timeout(1500)
    page.get_by_label("Defect type").last.fill("deep scratch")
    page.get_by_label("Defect type").last.press("Tab")
    page.get_by_role("button", name="Relabel 2").click()
    expect(page.get_by_text("2 corrections not saved yet.")).to_be_visible()
    page.get_by_text("What they change").click()
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()
    page.reload()  # they wait in the database
    page.get_by_role("button", name="Save as version 2").click()
    expect(page.get_by_text("version 2", exact=True)).to_be_visible()
    page.goto("/datasets?dataset=brackets&section=Versions")
    expect(page.get_by_text("2 pictures relabelled")).to_be_visible()


def _choose(page: Page, label: str, option: str) -> None:
    page.get_by_test_id("stSelectbox").filter(has_text=label).last.locator("input").click()
    page.get_by_role("option", name=option, exact=True).last.click()


def _export(page: Page) -> None:
    page.get_by_role("button", name="Prepare the export").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download brackets-version-2.zip").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert sum(name.startswith("test/deep scratch/") for name in archive.namelist()) == 2


def _delete_and_restore(page: Page) -> None:
    page.wait_for_timeout(1500)
    page.get_by_text("Delete the dataset").first.click()
    page.get_by_label("Type brackets to be sure").fill("bracket")
    page.get_by_role("button", name="Delete the dataset").click()
    expect(page.get_by_text("'bracket' is not the dataset's name.")).to_be_visible()
    page.get_by_label("Type brackets to be sure").fill("brackets")
    page.get_by_role("button", name="Delete the dataset").click()
    expect(page.get_by_text("Dataset brackets was deleted.")).to_be_visible()
    page.goto("/datasets?new=1")
    page.get_by_role("button", name="Restore").click()
    expect(page.get_by_text("version 2", exact=True)).to_be_visible()


def _zipped(folder: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{folder.name}/{path.relative_to(folder)}")
    return file
