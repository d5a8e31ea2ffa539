"""A browser that has read one page has the charts' scripts for the next."""

from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from benchmarks.serving import FLAGS, ROOT, chromium, free_port, served
from dashboard.server import command
from storage.settings import Settings

pytestmark = pytest.mark.browser
LOADED = "() => performance.getEntriesByType('resource').some((one) => one.name.includes('/PlotlyChart.'))"


def test_page_without_charts_loads_their_scripts_when_idle(tmp_path: Path) -> None:
    file = chromium()
    if file is None:
        pytest.skip("no Chromium is installed")
    settings = Settings(home=tmp_path, dashboard_port=free_port())
    address = f"http://127.0.0.1:{settings.dashboard_port}"
    with (
        served(command(settings), address, {"SIMPLENET_HOME": str(tmp_path)}, ROOT),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=file, args=FLAGS)
        page = browser.new_page()
        page.goto(f"{address}/system")
        page.get_by_role("heading", name="Versions").wait_for()
        for _ in range(30):  # of somebody at work nothing is held up
            page.keyboard.press("Shift")
            page.wait_for_timeout(100)
        assert not page.evaluate(LOADED)
        page.wait_for_function(LOADED, timeout=30_000)
        browser.close()
