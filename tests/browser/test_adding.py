"""Pictures on their way in through a real Chromium: a folder of the server, and a folder with a few bad names."""

import csv
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from benchmarks.serving import free_port
from dashboard.server import command
from dashboard.wording import JOINER
from storage.settings import Settings
from tests.browser.running import running, window

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@dataclass(frozen=True)
class Served:
    """A dashboard on an empty installation."""

    address: str
    pictures: Path  # the folder that its pages may read pictures from


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home, pictures = tmp_path_factory.mktemp("installation"), tmp_path_factory.mktemp("pictures")
    port = free_port()
    settings = Settings(home=home, dashboard_port=port, device="cpu", precision="fp32")
    environment = {
        "SIMPLENET_HOME": str(home),
        "SIMPLENET_PICTURE_ROOTS": json.dumps([str(pictures)]),
    }
    url = f"http://127.0.0.1:{port}"
    with running(command(settings), environment, home / "dashboard.log", f"{url}/_stcore/health"):
        yield Served(url, pictures)


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    with window(browser, served.address) as opened:
        yield opened


def test_folder_of_the_server_is_taken_in_and_one_outside_is_refused(
    page: Page, served: Served, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(
        shutil.copytree(make_folder(train=20, test_normal=6, defects={"dent": 4}), served.pictures / "Lids")
    )
    large = folder / "test/dent/large.png"
    Image.fromarray(np.arange(2200 * 3000, dtype=np.uint32).astype(np.uint8).reshape(2200, 3000)).save(large)
    page.goto("/datasets?new=1")
    page.get_by_text("From a folder of the server").click()
    expect(page.get_by_text(f"Folders in {served.pictures} may be read from here.")).to_be_visible()
    for outside in ("/etc", str(served.pictures / ".." / "elsewhere"), str(tmp_path)):
        _look_at(page, outside)
        expect(page.get_by_role("alert")).to_contain_text(
            f"Folder '{outside}' doesn't lie in '{served.pictures}'. Give a folder there, or set "
            "SIMPLENET_PICTURE_ROOTS."
        )
    _look_at(page, str(served.pictures / "Nothing"))
    expect(page.get_by_role("alert")).to_contain_text(
        "doesn't exist, or is a file. Give a folder of pictures."
    )
    assert "arrival" not in page.url
    _look_at(page, str(folder))
    expect(page.get_by_text(f"What was understood of {folder}")).to_be_visible()
    expect(page.get_by_text("31 pictures, recognised as the tree of MVTec AD.")).to_be_visible()
    expect(page.get_by_label("Dataset", exact=True)).to_have_value("lids")
    _take_in(page)
    expect(page.get_by_text("Dataset lids, version 1: 31 pictures.")).to_be_visible()
    assert large.exists()  # a folder of the server itself is left as it is
    _see_large(page, large)
    _export(page)


def test_bad_names_in_a_folder_are_left_out_and_listed_and_the_others_go_in(
    page: Page, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder("caps", train=14, flat=True)
    shutil.copy(folder / "000.png", folder / "aux.png")
    shutil.copy(folder / "000.png", folder / "two\nlines.png")
    page.goto("/datasets?new=1")
    page.locator("input.folder").set_input_files(folder)
    expect(page.get_by_text("What was understood of caps")).to_be_visible()
    expect(page.get_by_text("14 pictures, recognised as a folder of normal parts.")).to_be_visible()
    expect(page.get_by_text("2 files left out already")).to_be_visible()
    expect(page.get_by_test_id("stDataFrame").last).to_be_visible()
    _take_in(page)
    expect(page.get_by_text("Dataset caps, version 1: 14 pictures.")).to_be_visible()
    expect(page.get_by_text("2 files left out, the others are in.")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the report").click()
    with Path(download.value.path()).open(newline="") as file:
        rows = {row["name"]: row["reason"] for row in csv.DictReader(file)}
    assert sorted(rows) == ["caps/aux.png", "caps/two\\nlines.png"]
    assert "Windows keeps that name for a device. Rename it." in rows["caps/aux.png"]
    assert "control character U+000A" in rows["caps/two\\nlines.png"]


def test_names_given_by_others_are_shown_as_they_are(page: Page, served: Served) -> None:
    name = (
        "/a $1$ and $2$ *b* _c_ `d` ~~e~~ [f](g) <b>h</b> &amp; :red[i] :material/edit: :smile: :streamlit: www.j.de "
        "https://k.de l@m.de -> -- >= 1. | # n \\\\ \\o"
    )
    page.goto("/datasets?new=1")
    page.get_by_text("From a folder of the server").click()
    _look_at(page, name)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Give a folder there")
    text = str(alert.inner_text()).replace(JOINER, "")
    assert f"Folder '{name}' doesn't lie in '{served.pictures}'." in text
    marks = alert.locator("p").first.locator(
        "a, em, strong, code, del, b, img, .katex, [data-testid=stIconMaterial]"
    )
    assert marks.count() == 0


def test_masks_of_a_review_follow_the_value_that_divides_them(
    page: Page, served: Served, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(train=12, test_normal=2, defects={"dent": 1})
    (mask,) = (folder / "ground_truth/dent").iterdir()
    with Image.open(mask) as opened:
        grey = opened.point(lambda value: value and 90)
    grey.save(mask)
    shutil.copytree(folder, served.pictures / "Grey")
    page.goto("/datasets?new=1")
    page.get_by_text("From a folder of the server").click()
    _look_at(page, str(served.pictures / "Grey"))
    expect(page.get_by_text("they hold the values 0, 90.")).to_be_visible()
    tile = page.get_by_role("option", name="dent/000.png").locator("img")
    before = tile.get_attribute("src")
    assert before is not None
    value = page.get_by_test_id("stNumberInputField")
    value.fill("100")
    value.press("Enter")
    expect(tile).not_to_have_attribute("src", before)  # nothing is marked any more


def test_only_bad_names_are_refused_at_once(page: Page, tmp_path: Path) -> None:
    (tmp_path / "con.png").write_bytes(b"x")
    page.goto("/datasets?new=1")
    page.locator("input.files").set_input_files(tmp_path / "con.png")
    expect(page.get_by_role("alert")).to_contain_text("Windows keeps that name for a device. Rename it.")
    expect(page.get_by_role("button", name="Choose files")).to_be_visible()


def _look_at(page: Page, folder: str) -> None:
    page.get_by_label("Folder on the server").fill(folder)
    page.get_by_role("button", name="Look at it").click()


def _take_in(page: Page) -> None:
    button = page.get_by_role("button", name="Take them in")
    expect(button).to_be_enabled()
    page.wait_for_timeout(1000)  # the page has come to rest
    button.click()


def _see_large(page: Page, file: Path) -> None:
    """A picture of 3000 px is sent small, with a link to what was given."""
    page.get_by_role("button", name="See the pictures").click()
    page.get_by_role("option", name="large").click()
    expect(page.get_by_text("Shown at 1502 × 2048 px.")).to_be_visible()
    link = page.get_by_role("link", name="The original")
    answer = page.request.get(str(link.get_attribute("href")))
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert answer.body() == file.read_bytes()
    width = page.get_by_alt_text("large.png").evaluate("image => image.naturalWidth")
    assert 0 < width <= 2048


def _export(page: Page) -> None:
    """The archive comes by a link, whole, and is there again after a reload."""
    page.goto("/datasets?dataset=lids&section=Versions")
    page.get_by_role("button", name="Prepare the export").click()
    link = page.get_by_role("link", name="Download lids-version-1.zip")
    expect(link).to_be_visible()
    page.reload()
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "lids-version-1.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.testzip() is None
        assert sum(name.startswith("train/good/") for name in archive.namelist()) == 20
        assert "test/dent/large.png" in archive.namelist()
