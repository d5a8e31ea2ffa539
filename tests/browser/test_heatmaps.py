"""The page Heatmaps in a real Chromium: keys, zoom, hover, masks, thresholds and marks; a real server behind it."""

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.serving import free_port
from dashboard.server import command
from engine.masks import decode_mask
from storage import datasets, edits, operating_points, reviews, studies
from storage.models import champion
from storage.records import Label, Model, StudyState
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tests.browser.running import running, window

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SIDE = 96  # pixels of the pictures


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """An installation with the dataset `parts` and two models, by two real studies."""
    from engine.demo import draw_demo
    from tuning.commands import ingest_folder, launch_study
    from tuning.spec import StudySpec
    from tuning.worker import run_worker

    home = tmp_path_factory.mktemp("installation")
    opened = open_workspace(Settings(home=home, device="cpu", precision="fp32"))
    draw_demo(home / "pictures", size=SIDE)
    ingest_folder(opened, home / "pictures", "parts")
    for seed in (0, 1):
        spec = StudySpec(trials=1, epochs=2, height=SIDE, width=SIDE, layers=((2, 3),), seed=seed)
        study = launch_study(opened, "parts", spec)
        run_worker(opened, worker_id="test", stop=threading.Event(), study_id=study.id)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def address(workspace: Workspace) -> Iterator[str]:
    """A dashboard on it, alone."""
    home = workspace.settings.home
    port = free_port()
    settings = Settings(home=home, dashboard_port=port, device="cpu", precision="fp32")
    environment = {
        "SIMPLENET_HOME": str(home),
        "SIMPLENET_DEVICE": "cpu",
    }
    url = f"http://127.0.0.1:{port}"
    with running(command(settings), environment, home / "dashboard.log", f"{url}/_stcore/health"):
        yield url


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with window(browser, address, height=1100) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(workspace: Workspace) -> Model:
    with workspace.session() as session:
        found = champion(session, "parts")
    assert found is not None
    return found


def _open(page: Page, **parameters: Any) -> None:
    query = "&".join(f"{key}={value}" for key, value in {"dataset": "parts", **parameters}.items())
    page.goto(f"/heatmaps?{query}")
    _drawn(page)


def _drawn(page: Page) -> str:
    """Wait until the picture that is shown is drawn; answers its id."""
    viewer = page.locator(".viewer")
    page.wait_for_function(
        "viewer => viewer.dataset.drawn && viewer.dataset.drawn === viewer.dataset.shown",
        arg=viewer.element_handle(),
    )
    return str(viewer.get_attribute("data-drawn"))


def _pixels(page: Page, panel: str) -> list[int]:
    """What is drawn on a panel."""
    canvas = page.get_by_role("img", name=panel)
    data = "canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data"
    return list(canvas.evaluate(f"canvas => Array.from({data}.filter((_, i) => i % 97 == 0))"))


def test_keys_step_through_the_list_and_the_page_follows(page: Page) -> None:
    _open(page)
    first = _drawn(page)
    for place in (2, 3, 4):
        page.keyboard.press("ArrowRight")
        expect(page.locator(".place")).to_have_text(f"{place} of 30")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".place")).to_have_text("3 of 30")
    shown = _drawn(page)
    assert shown != first
    expect(page).to_have_url(re.compile(f"image={shown}"))
    expect(page.locator(".tile.selected")).to_have_attribute("title", re.compile("score"))
    page.reload()
    expect(page.locator(".place")).to_have_text("3 of 30")
    tile = page.get_by_role("option").nth(7)
    tile.click()
    expect(page.locator(".place")).to_have_text("8 of 30")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".place")).to_have_text("9 of 30")


def test_click_on_a_tile_is_not_overtaken_by_the_step_before_it(page: Page) -> None:
    _open(page)
    for place in (2, 3):
        page.keyboard.press("ArrowRight")
        expect(page.locator(".place")).to_have_text(f"{place} of 30")
    tile = page.get_by_role("option").nth(7)
    tile.hover()
    page.keyboard.press("ArrowRight")
    tile.click()
    expect(page.locator(".place")).to_have_text("8 of 30")
    page.wait_for_timeout(3000)  # longer than a step waits for a click elsewhere
    expect(page.locator(".place")).to_have_text("8 of 30")
    page.reload()
    expect(page.locator(".place")).to_have_text("8 of 30")


def test_panels_zoom_together_and_a_double_click_shows_all_again(page: Page) -> None:
    _open(page)
    panels = ["original", "with its heatmap", "its anomaly map", "with its ground truth"]
    before = {panel: _pixels(page, panel) for panel in panels}
    heat = page.get_by_role("img", name="with its heatmap")
    heat.hover()
    page.mouse.wheel(0, -600)
    page.wait_for_timeout(200)
    zoomed = {panel: _pixels(page, panel) for panel in panels}
    assert all(zoomed[panel] != before[panel] for panel in panels)
    box = heat.bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 40, middle[1] + 25, steps=4)
    page.mouse.up()
    page.wait_for_timeout(200)
    moved = {panel: _pixels(page, panel) for panel in panels}
    assert all(moved[panel] != zoomed[panel] for panel in panels)
    heat.dblclick()
    page.mouse.move(2, 2)
    page.wait_for_timeout(200)
    assert {panel: _pixels(page, panel) for panel in panels} == before


def test_pointer_reads_the_level_and_opacity_changes_only_the_heatmap(page: Page) -> None:
    _open(page)
    page.get_by_role("img", name="its anomaly map").hover()
    expect(page.locator(".readout")).to_have_text(
        re.compile(r"x \d+, y \d+ · level −?\d+\.\d{3} \((normal|beyond normal)\)")
    )
    page.mouse.move(2, 2)
    page.wait_for_timeout(200)
    heat, original = _pixels(page, "with its heatmap"), _pixels(page, "original")
    slider = page.get_by_label("Heatmap opacity")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator(".tools output")).to_have_text("0 %")
    assert _pixels(page, "with its heatmap") != heat
    assert _pixels(page, "original") == original
    chosen = page.locator(".palette")
    map_before = _pixels(page, "its anomaly map")
    chosen.select_option("greys")
    assert _pixels(page, "its anomaly map") != map_before
    page.reload()
    _drawn(page)
    expect(page.locator(".palette")).to_have_value("greys")


def test_downloads_carry_what_is_shown(page: Page) -> None:
    _open(page)
    for title, suffix in (
        ("JSON", ".json"),
        ("Map NPY", ".npy"),
        ("Map TIFF", ".tiff"),
        ("Overlay", ".overlay.png"),
    ):
        with page.expect_download() as coming:
            page.locator(".files").get_by_role("link", name=title).click()
        assert coming.value.suggested_filename.endswith(suffix)
        if title == "JSON":
            told = json.loads(Path(coming.value.path()).read_text())
            assert told["decision"] in ("accept", "reject")
            assert told["picture"] == page.locator(".name").text_content()


def test_two_models_stand_side_by_side(page: Page, model: Model) -> None:
    _open(page, beside=f"version+{3 - model.version}", sort="models+disagree+most")
    expect(page.get_by_text("Heatmap · version 1")).to_be_visible()
    expect(page.get_by_text("Heatmap · version 2")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".place")).to_have_text("2 of 30")
    _drawn(page)


def test_mark_with_a_drawn_mask_and_undo(page: Page, workspace: Workspace) -> None:
    _open(page, show="passed")
    shown = int(_drawn(page))
    with workspace.session() as session:
        latest = datasets.latest_version(session, "parts")
        image = next(one for one in datasets.list_images(session, latest.id) if one.id == shown)
    page.locator(".type").fill("burr")
    page.get_by_role("button", name="Box").click()
    box = page.get_by_role("img", name="original").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
    page.mouse.up()
    page.locator(".name").click()  # out of the text box: now keys are keys
    page.keyboard.press("r")
    expect(page.get_by_text("1 correction not saved yet")).to_be_visible()
    with workspace.session() as session:
        (edit,) = edits.list_edits(session, "parts")
    assert (edit.pixel_digest, edit.label, edit.defect_type) == (image.pixel_digest, Label.ANOMALOUS, "burr")
    mask = decode_mask(workspace.blobs.get(edit.mask_digest or ""), "mask")
    assert mask.mean() == pytest.approx(0.5 * 0.25, abs=0.02)
    rows, columns = mask.nonzero()
    assert abs(columns.min() - 0.25 * SIDE) <= 2
    assert abs(rows.max() - 0.5 * SIDE) <= 2
    page.keyboard.press("u")
    expect(page.get_by_text("1 correction not saved yet")).to_have_count(0)
    with workspace.session() as session:
        assert edits.list_edits(session, "parts") == []
    expect(page).to_have_url(re.compile(f"image={shown}"))  # back at the picture that was undone


def test_quick_marks_in_a_row_are_all_taken_down(page: Page, workspace: Workspace) -> None:
    _open(page, of="validation")
    with workspace.session() as session:
        before = len(reviews.list_reviews(session, "parts"))
    for _ in range(5):
        page.keyboard.press("a")
    expect(page.locator(".place")).to_have_text(re.compile("^6 of"))
    deadline = time.monotonic() + 30
    while True:
        with workspace.session() as session:
            said = reviews.list_reviews(session, "parts")
        if len(said) == before + 5 or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert len(said) == before + 5
    for left in range(4, -1, -1):
        page.keyboard.press("u")
        expect(page.locator(".place")).to_have_text(re.compile(f"^{left + 1} of"))
    with workspace.session() as session:
        assert edits.list_edits(session, "parts") == []


def test_threshold_is_tried_saved_and_taken_back(page: Page, workspace: Workspace, model: Model) -> None:
    _open(page)
    page.get_by_text("Threshold: what it does").click()
    expect(page.get_by_text("On validation", exact=True)).to_be_visible()
    slider = page.get_by_test_id("stSlider").locator("input")
    slider.focus()
    page.keyboard.press("Home")  # the lowest: everything is rejected
    expect(page.get_by_role("button", name="✓ 0 escapes").first).to_be_disabled()
    cell = page.get_by_role("button", name=re.compile("false rejects")).first
    count = int(re.sub(r"\D", "", str(cell.text_content())))
    cell.click()
    expect(page.get_by_text("Trying out the threshold")).to_be_visible()
    expect(page.locator(".place")).to_have_text(f"1 of {count}")
    page.get_by_label("Reason, for the record").fill("to see what happens")
    page.get_by_role("button", name=re.compile("^Decide with")).click()
    expect(page.get_by_text("Trying out the threshold")).to_have_count(0)
    with workspace.session() as session:
        point = operating_points.current(session, model)
    assert (point.why, point.source.value) == ("to see what happens", "value")
    promised = page.get_by_text(re.compile("^Saved is the threshold .*false rejects, by"))
    expect(promised).to_have_count(0)  # the panel is drawn after what lies above it
    page.get_by_role("button", name=re.compile("^Back to")).first.click()
    expect(promised).to_be_visible()
    with workspace.session() as session:
        restored = operating_points.current(session, model)
    assert restored.threshold == operating_points.own(model).threshold


def test_marks_are_saved_and_studied_with_one_click(page: Page, workspace: Workspace) -> None:
    _open(page, show="caught")
    page.get_by_role("button", name="Regions as mask").click()
    page.locator(".defect").click()
    page.get_by_role("button", name=re.compile("Save as version 2 and study it")).click()
    expect(page).to_have_url(re.compile(r"/studies\?.*study=3"))
    with workspace.session() as session:
        study = studies.get_study(session, 3)
        latest = datasets.latest_version(session, "parts")
    assert (study.state, latest.number) == (StudyState.QUEUED, 2)
    assert latest.change == "1 mask changed"
