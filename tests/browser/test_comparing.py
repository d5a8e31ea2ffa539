"""A tiny study watched live in a real Chromium, two of its trials chosen and set side by side, here and in MLflow."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.serving import free_port, served
from tests.browser.running import window
from tests.conftest import FolderFactory

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PAGE_MS = 60_000
STUDY_MS = 400_000
TRIALS = 4
ROW = 35  # pixels of a row of the table, its head included


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`simplenet up` with a dataset and a study of four trials in the queue, of which one keeps its weights."""
    home = tmp_path_factory.mktemp("installation")
    dashboard, mlflow = free_port(), free_port()
    environment = {
        "SIMPLENET_HOME": str(home),
        "SIMPLENET_DEVICE": "cpu",
        "SIMPLENET_PRECISION": "fp32",
        "SIMPLENET_KEPT_HEADS": "1",
        "SIMPLENET_DASHBOARD_PORT": str(dashboard),
        "SIMPLENET_MLFLOW_PORT": str(mlflow),
        "PYTHONPATH": str(ROOT),
    }
    pictures = FolderFactory(home)(defects={"dent": 8, "scratch": 6})
    options = ["--trials", str(TRIALS), "--epochs", "3", "--size", "64", "--detach"]
    for arguments in (["ingest", str(pictures), "--name", "parts"], ["study", "parts", *options]):
        subprocess.run(_simplenet(*arguments), env={**os.environ, **environment}, check=True, timeout=300)
    url = f"http://127.0.0.1:{dashboard}"
    with served(_simplenet("up"), url, environment, ROOT):
        yield url


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with window(browser, address) as opened:
        yield opened


def test_study_is_watched_its_trials_compared_here_and_in_mlflow(page: Page) -> None:
    page.goto("/studies?study=1")
    _watch(page)
    _unfold(page)
    _choose_two(page)
    _compare(page)
    _make_heatmaps(page)
    _in_mlflow(page)


def _watch(page: Page) -> None:
    bar = page.get_by_text(re.compile(r"trial \d: (epoch \d of 3|preparing) · worker .* on cpu"))
    expect(bar).to_be_visible(timeout=STUDY_MS)
    expect(page.get_by_text("became model version 1 (champion)")).to_be_visible(timeout=STUDY_MS)
    expect(page.get_by_text("● completed").first).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(2)


def _unfold(page: Page) -> None:
    for count, title in enumerate(("Each setting", "Timeline"), start=3):
        page.get_by_test_id("stExpander").filter(has_text=title).locator("summary").click()
        expect(page.locator(".js-plotly-plot")).to_have_count(count)
    expect(page).to_have_url(re.compile("timeline="))
    page.reload()
    expect(page.locator(".js-plotly-plot")).to_have_count(4)


def _choose_two(page: Page) -> None:
    table = page.get_by_test_id("stDataFrame").first
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    assert box is not None
    for row in (0, 2):  # drawn on a canvas: there is no element to click
        page.mouse.click(box["x"] + 16, box["y"] + ROW * (row + 1) + ROW // 2)
    expect(page.get_by_role("link", name="Compare 2 trials")).to_be_visible()
    expect(page).to_have_url(re.compile(r"trials=2(,|%2C)4"))
    page.reload()  # the same are chosen
    page.get_by_role("link", name="Compare 2 trials").click()


def _compare(page: Page) -> None:
    expect(page.get_by_role("heading", name="Compare", exact=True)).to_be_visible()
    expect(page).to_have_url(re.compile(r"of=1\.2(,|%2C)1\.4"))
    expect(page.get_by_role("heading", name="What differs")).to_be_visible()
    expect(page.get_by_text("decided differently").first).to_be_visible()
    expect(page.get_by_alt_text(re.compile("original")).first).to_be_visible()


def _make_heatmaps(page: Page) -> None:
    """At most one of the two keeps its weights; the other's are made again, and its heatmaps appear."""
    missing = page.get_by_text("no weights, no heatmap")
    expect(missing.first).to_be_visible()
    page.get_by_role("button", name="Reproduce").first.click()
    buttons = page.get_by_role("button", name="Reproduce")
    before = buttons.count()
    if before > 1:
        expect(buttons).to_have_count(before - 1, timeout=STUDY_MS)
        buttons.first.click()
    expect(missing).to_have_count(0, timeout=STUDY_MS)


def _in_mlflow(page: Page) -> None:
    target = str(page.get_by_role("link", name="The same in MLflow").get_attribute("href"))
    with page.context.browser.new_context() as context:  # type: ignore[union-attr]
        mlflow = context.new_page()
        mlflow.goto(target)
        expect(mlflow.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible(timeout=PAGE_MS)
        expect(mlflow.get_by_text(re.compile("trial 02 · σ")).first).to_be_visible()


def _simplenet(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dashboard.cli", *arguments]
