"""A person's way through the product in a real Chromium: demo, study, MLflow, heatmaps; real processes behind it."""

import re
import signal
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.serving import free_port
from tests.browser.running import running, window

pytestmark = [pytest.mark.browser, pytest.mark.slow]

STUDY_SECONDS = 300
PAGE_MS = 30_000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`simplenet up` on an empty installation; answers the dashboard's address."""
    home = tmp_path_factory.mktemp("installation")
    dashboard_port, mlflow_port = free_port(), free_port()
    environment = {
        "SIMPLENET_HOME": str(home),
        "SIMPLENET_DEVICE": "cpu",
        "SIMPLENET_PRECISION": "fp32",
        "SIMPLENET_DASHBOARD_PORT": str(dashboard_port),
        "SIMPLENET_MLFLOW_PORT": str(mlflow_port),
        "SIMPLENET_SERVE_PORT": str(free_port()),
    }
    url, mlflow = f"http://127.0.0.1:{dashboard_port}", f"http://127.0.0.1:{mlflow_port}"
    with running(
        [sys.executable, "-m", "dashboard.cli", "up"],
        environment,
        home / "up.log",
        f"{url}/_stcore/health",
        f"{mlflow}/health",
        stopped_by=signal.SIGINT,
    ):
        yield url


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with window(browser, address, height=900, patience_ms=PAGE_MS) as opened:
        yield opened


def test_from_an_empty_installation_to_heatmaps(page: Page) -> None:
    _start_demo(page)
    _start_small_study(page)
    _watch_to_the_end(page)
    _open_run_in_mlflow(page)
    _browse_heatmaps(page)
    _see_the_model(page)
    _home_knows_the_champion(page)


def _start_demo(page: Page) -> None:
    page.goto("/")
    page.get_by_role("button", name="Try the demo").click()
    expect(page.get_by_role("heading", name="first study")).to_be_visible(timeout=120_000)
    expect(page).to_have_url(re.compile(r"/studies\?.*study=1"))
    page.get_by_role(
        "button", name="Cancel"
    ).click()  # a smaller one follows: this test has minutes, not tens of them
    page.get_by_role("button", name="Cancel the study").click()
    expect(page.get_by_text("⊘ cancelled")).to_be_visible(timeout=120_000)


def _start_small_study(page: Page) -> None:
    page.goto("/datasets?dataset=demo-plates")
    expect(page.get_by_text("100 pictures", exact=True)).to_be_visible()
    page.get_by_role("button", name="New study").click()
    expect(page.get_by_text("Backbone: drawnet from the product itself")).to_be_visible()
    # Where no study of this size ran, this machine is measured first: the fields wait for it.
    expect(page.get_by_role("button", name="Start the study")).to_be_visible(timeout=60_000)
    page.get_by_text("How long", exact=True).click()
    page.get_by_text("More options").click()
    fields = {"Trials": "2", "Epochs of a trial": "2", "Height, pixels": "64", "Width, pixels": "64"}
    for label, value in fields.items():
        page.get_by_label(label, exact=True).fill(value)
        page.keyboard.press("Tab")
    page.get_by_role("button", name="Start the study").click()
    expect(page.get_by_role("heading", name="demo-plates 2")).to_be_visible()


def _watch_to_the_end(page: Page) -> None:
    expect(page.get_by_text("◐ running")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("became model version 1 (champion)")).to_be_visible(timeout=STUDY_SECONDS * 1000)
    expect(page.get_by_text("● completed").first).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(2)


def _open_run_in_mlflow(page: Page) -> None:
    # The first: a fragment that is drawn anew leaves the old one for a moment.
    link = page.get_by_role("link", name="MLflow").first
    address = str(link.get_attribute("href"))
    with page.context.browser.new_context() as context:  # type: ignore[union-attr]
        mlflow = context.new_page()
        mlflow.goto(address)
        expect(mlflow.get_by_text("demo-plates 2").first).to_be_visible(timeout=60_000)


def _browse_heatmaps(page: Page) -> None:
    page.get_by_test_id("stMain").get_by_role("link", name="Heatmaps").click()
    tiles = page.locator(".tile")
    expect(tiles).to_have_count(24)
    expect(page.get_by_text("1 of 30")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_text("2 of 30")).to_be_visible()
    tiles.nth(4).click()
    expect(page.get_by_text("5 of 30")).to_be_visible()
    expect(page.get_by_role("img", name="with its heatmap")).to_be_visible()
    slider = page.get_by_label("Heatmap opacity")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator(".tools output")).to_have_text("0 %")
    expect(page.get_by_text("5 of 30")).to_be_visible()  # the key moved the slider, not the picture
    page.reload()
    expect(page.get_by_text("5 of 30")).to_be_visible()
    expect(page.locator(".tools output")).to_have_text("0 %")
    page.get_by_role("radio", name="rejects", exact=True).click()
    expect(page).to_have_url(re.compile("show=rejects"))


def _see_the_model(page: Page) -> None:
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_role("heading", name="Champion: version 1")).to_be_visible()
    expect(page.get_by_text("on 30 sealed test pictures").first).to_be_visible()


def _home_knows_the_champion(page: Page) -> None:
    page.get_by_role("link", name="Home").click()
    expect(page.get_by_text("Champion: version 1")).to_be_visible()
