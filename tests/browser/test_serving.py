"""The model server as a person sees it in a real Chromium: the endpoint's card, and a key made, shown once, revoked."""

import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.serving import free_port
from storage.settings import Settings
from storage.workspace import open_workspace
from tests.browser.running import running, window

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGE_MS = 30_000


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation with the dataset `parts` and its champion; ports of its own."""
    from engine.demo import draw_demo
    from tuning.commands import ingest_folder, launch_study
    from tuning.spec import StudySpec
    from tuning.worker import run_worker

    home = tmp_path_factory.mktemp("installation")
    settings = Settings(
        home=home, device="cpu", precision="fp32", dashboard_port=free_port(), serve_port=free_port()
    )
    workspace = open_workspace(settings)
    draw_demo(home / "pictures", size=64)
    ingest_folder(workspace, home / "pictures", "parts")
    spec = StudySpec(trials=1, epochs=1, height=64, width=64, layers=((1, 2),))
    study = launch_study(workspace, "parts", spec)
    run_worker(workspace, worker_id="test", stop=threading.Event(), study_id=study.id)
    workspace.close()
    return settings


@pytest.fixture(scope="module")
def processes(settings: Settings) -> Iterator[None]:
    """Its dashboard and its model server."""
    environment = {
        "SIMPLENET_HOME": str(settings.home),
        "SIMPLENET_DEVICE": "cpu",
        "SIMPLENET_PRECISION": "fp32",
        "SIMPLENET_DASHBOARD_PORT": str(settings.dashboard_port),
        "SIMPLENET_SERVE_PORT": str(settings.serve_port),
    }
    simplenet, home = [sys.executable, "-m", "dashboard.cli"], settings.home
    with (
        running(
            [*simplenet, "dashboard"],
            environment,
            home / "dashboard.log",
            f"{settings.dashboard_url}/_stcore/health",
        ),
        running(
            [*simplenet, "serve"], environment, home / "serve.log", f"{settings.model_server_url}/health"
        ),
    ):
        yield


@pytest.fixture
def page(browser: Browser, settings: Settings, processes: None) -> Iterator[Page]:
    with window(
        browser,
        settings.dashboard_url,
        patience_ms=PAGE_MS,
        permissions=["clipboard-read", "clipboard-write"],
    ) as opened:
        yield opened


def test_request_of_the_card_is_copied_run_and_counted(page: Page, settings: Settings) -> None:
    page.goto("/models?dataset=parts")
    card = page.locator(".st-key-endpoint")
    expect(card.get_by_text("none yet since the server started")).to_be_visible()
    expect(card.get_by_text("version 1, loaded by the first request")).to_be_visible()
    first = card.get_by_test_id("stCode").first
    first.hover()
    first.get_by_role("button").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    picture = next((settings.home / "pictures" / "test").rglob("*.png"))
    shutil.copy(picture, settings.home / "part.png")
    done = subprocess.run(
        ["bash", "-c", copied.replace("curl ", "curl -s ")],
        cwd=settings.home,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"model_version":1' in done.stdout
    expect(card.get_by_text("1 in 15 minutes, 1 since the server started")).to_be_visible()  # by itself
    expect(card.get_by_text("version 1, in memory")).to_be_visible()
    expect(card.get_by_text("p50, p95 of the last 15 minutes")).to_be_visible()
    card.scroll_into_view_if_needed()
    if folder := os.environ.get("SCREENSHOTS"):
        card.screenshot(path=Path(folder) / "endpoint.png")


def test_key_is_shown_once_and_revoked(page: Page, settings: Settings) -> None:
    page.goto("/system")
    page.get_by_role("button", name="Make a key").click()
    page.get_by_label("What will use it").fill("line 3")
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_text("Copy it now; it can't be shown again.")).to_be_visible()
    key = page.locator("code", has_text="sn_").first.inner_text().strip()
    assert _status(settings, key) == 200
    page.reload()
    expect(page.get_by_role("heading", name="API keys")).to_be_visible()
    expect(page.locator("code", has_text="sn_")).to_have_count(0)
    page.get_by_role("button", name="Revoke").click()
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_role("button", name="Revoke")).to_have_count(0)
    deadline = time.monotonic() + 30
    while _status(settings, key) != 401:
        assert time.monotonic() < deadline, "the revoked key still opens"
        time.sleep(0.2)


def _status(settings: Settings, key: str) -> int:
    request = urllib.request.Request(
        f"{settings.model_server_url}/", headers={"Authorization": f"Bearer {key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
