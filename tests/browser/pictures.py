"""Take the documentation's pictures of a running dashboard: `python pictures.py ADDRESS DATASET STUDY FOLDER`."""

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

WIDTH, HEIGHT = 1400, 900  # of the window, pixels
SAVED_WIDTH = 960
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]


def take(address: str, dataset: str, study: str, folder: Path) -> None:
    """Write home.png, study.png, heatmaps.png, threshold.png and models.png."""
    pages = {
        "home": ("/", ".sn-strip"),
        "study": (f"/studies?dataset={dataset}&study={study}", ".js-plotly-plot"),
        "heatmaps": (f"/heatmaps?dataset={dataset}", ".viewer"),
        "threshold": (f"/heatmaps?dataset={dataset}", ".viewer"),
        "models": (f"/models?dataset={dataset}", ".sn-facts"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, (path, waits_for) in pages.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, base_url=address)
            page.goto(path)
            page.locator(waits_for).first.wait_for(timeout=60_000)
            page.wait_for_timeout(3000)  # charts and fonts settle
            if name == "threshold":
                _threshold(page, folder / "threshold.png")
            else:
                _fit(page)
                page.screenshot(path=folder / f"{name}.png")
            _shrink(folder / f"{name}.png")
            page.close()
        browser.close()


def _threshold(page: Page, file: Path) -> None:
    """The threshold panel alone, as it stands for costs."""
    page.set_viewport_size({"width": WIDTH, "height": 2600})
    page.get_by_text("Threshold: what it does").click()
    page.get_by_role("radio", name="costs", exact=True).click()
    page.get_by_text("least cost").wait_for()
    page.wait_for_timeout(3000)
    page.get_by_test_id("stExpander").last.screenshot(path=file)


def _fit(page: Page) -> None:
    """Make the window as high as the page, within reason."""
    content = int(page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight"))
    page.set_viewport_size({"width": WIDTH, "height": max(HEIGHT, min(content, 1040))})
    page.wait_for_timeout(1000)


def _shrink(file: Path) -> None:
    """Make it as wide as a page of text: fewer bytes in every clone. All colours stay, for here they mean something."""
    with Image.open(file) as picture:
        size = (SAVED_WIDTH, round(picture.height * SAVED_WIDTH / picture.width))
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small.save(file, optimize=True)


if __name__ == "__main__":
    take(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
