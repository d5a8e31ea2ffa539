"""How long a person waits for the next heatmap, in a real browser.

    python -m benchmarks.heatmaps
    python -m benchmarks.heatmaps --size 1024 --home /tmp/heatmaps   # built there, and used again by the next run

The product builds the installation itself: the demo's plates, enlarged to 1024 × 1024, and a real study of one trial on
the shipped backbone at the default size of 256. Then the real dashboard is started and a real Chromium opens the page
Heatmaps. A time goes from the key being pressed until the picture and its heatmap are drawn. Told are:

  ahead   one step, after the neighbours were fetched ahead: what a person sees who looks at a picture before going on
  disk    three steps at once, as when the key is held down: the map lies on the server's disk, the browser has nothing
  none    three steps at once where no cache holds anything: the server scores the picture first

Server and browser share the machine; the server has scored one picture before, so the model is in memory.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.measuring import RESULTS, machine, write_json
from benchmarks.serving import FLAGS, ROOT, chromium, free_port, served
from dashboard.server import command
from engine.demo import draw_demo
from storage import datasets, models, studies
from storage.records import StudyState
from storage.settings import Settings
from storage.workspace import open_workspace

NAME = "plates"
SIZE = 1024  # of a picture, pixels
DRAWN = 256  # larger ones are enlarged: drawing them takes seconds each
PAGE_MS = 120_000
GOALS_MS = {"ahead": 150, "disk": 150, "none": 1000}
STEPS = {"ahead": 1, "disk": 3, "none": 3}  # of the list; two neighbours on either side are fetched ahead
PRESS = """async (steps) => {
  const within = (root) => [...root.querySelectorAll('*')].flatMap((element) =>
    (element.classList.contains('viewer') ? [element] : []).concat(
      element.shadowRoot ? within(element.shadowRoot) : []));
  const [viewer] = within(document);
  const before = viewer.dataset.shown;
  const began = performance.now();
  for (let step = 0; step < steps; step += 1)
    document.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true }));
  if (viewer.dataset.shown === before) throw new Error('the list has ended');
  while (viewer.dataset.drawn !== viewer.dataset.shown) await new Promise(requestAnimationFrame);
  return performance.now() - began;
}"""
IDLE = """() => {
  const within = (root) => [...root.querySelectorAll('*')].flatMap((element) =>
    (element.classList.contains('viewer') ? [element] : []).concat(
      element.shadowRoot ? within(element.shadowRoot) : []));
  const app = document.querySelector('[data-testid=stApp]');
  const [viewer] = within(document);
  return viewer && app.dataset.testScriptState === 'notRunning' && viewer.dataset.ahead === viewer.dataset.shown
    && viewer.dataset.drawn === viewer.dataset.shown;
}"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, serve, step, tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=SIZE, help=f"of a picture, pixels; default: {SIZE}")
    parser.add_argument("--rounds", type=int, default=3, help="windows per kind; default: 3")
    parser.add_argument(
        "--home", type=Path, help="where to build the installation; one that is there is used"
    )
    parser.add_argument("--chromium", default=chromium(), metavar="FILE", help="default: the system's")
    parser.add_argument("--json", type=Path, default=RESULTS / "heatmaps.json", metavar="FILE")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; it must be 1 or more")
    if options.chromium is None:
        parser.error("no Chromium is installed (Debian: apt-get install chromium); or name one: --chromium")
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        build(home, options.size)
        times = measure(home, options.chromium, options.rounds)
    write_json(options.json, {"machine": machine(), "size": options.size, "milliseconds": times})
    print(table(times))


def build(home: Path, size: int) -> None:
    """Draw the plates, ingest them and run a study, where that was not done before."""
    from tuning.commands import ingest_folder, launch_study
    from tuning.spec import StudySpec
    from tuning.worker import run_worker

    workspace = open_workspace(Settings(home=home, device="cpu"))
    try:
        with workspace.session() as session:
            known = any(dataset.name == NAME for dataset in datasets.list_datasets(session))
            if known and models.champion(session, NAME) is not None:
                return
        if known:
            raise SystemExit(
                f"The installation {home} was left half built. Delete it, or name another folder."
            )
        with tempfile.TemporaryDirectory() as source:
            draw(Path(source), size)
            ingest_folder(workspace, Path(source), NAME)
        study = launch_study(workspace, NAME, StudySpec(trials=1, epochs=2))
        run_worker(workspace, worker_id="benchmark", stop=threading.Event(), study_id=study.id)
        with workspace.session() as session:
            ended = studies.get_study(session, study.id)
        if ended.state is not StudyState.COMPLETED:
            raise SystemExit(f"The study is {ended.state}: {ended.error}")
    finally:
        workspace.close()


def draw(folder: Path, size: int) -> None:
    """Draw the demo's plates and enlarge them; grain is added, for a photograph's file is as large as its grain."""
    draw_demo(folder, size=min(size, DRAWN))
    grain = np.random.default_rng(0)
    for file in folder.rglob("*.png") if size > DRAWN else ():
        with Image.open(file) as drawn:
            mask = "ground_truth" in file.parts
            how = Image.Resampling.NEAREST if mask else Image.Resampling.LANCZOS
            enlarged = drawn.resize((size, size), how)
        if not mask:
            pixels = np.asarray(enlarged) + grain.normal(0, 3, np.asarray(enlarged).shape)
            enlarged = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        enlarged.save(file, compress_level=1)


def measure(home: Path, browser_file: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each step, by kind."""
    settings = Settings(home=home, dashboard_port=free_port(), device="cpu")
    environment = {"SIMPLENET_HOME": str(home), "SIMPLENET_DEVICE": "cpu"}
    times: dict[str, list[float]] = {kind: [] for kind in GOALS_MS}
    with (
        served(command(settings), settings.dashboard_url, environment, ROOT),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=browser_file, args=FLAGS)
        with _window(browser, settings.dashboard_url) as page:
            page.wait_for_function(IDLE)  # the first visit draws all small overlays
        for number in range(rounds):
            for kind, steps in STEPS.items():
                with _window(browser, settings.dashboard_url) as page:
                    page.wait_for_function(IDLE)
                    if kind == "none":
                        _forget_maps(home)
                        page.evaluate(PRESS, steps)  # loads the model
                        page.wait_for_function(IDLE)
                    for _ in range(10 if steps == 1 else 6):
                        times[kind].append(float(page.evaluate(PRESS, steps)))
                        page.wait_for_function(IDLE)
                told = f"{statistics.median(times[kind]):.0f} ms in the median so far"
                print(f"round {number + 1}, {kind}: {told}", file=sys.stderr, flush=True)
        browser.close()
    return times


def _forget_maps(home: Path) -> None:
    """Delete maps and what was drawn of them; the index of scores stays, for the page sorts by it."""
    for folder in (home / "maps" / NAME).iterdir():
        for file in folder.glob("*.npz"):
            file.unlink()
        for drawn in ("tiles", "regions", "levels"):
            shutil.rmtree(folder / drawn, ignore_errors=True)
    shutil.rmtree(home / "thumbnails" / "screens", ignore_errors=True)


@contextmanager
def _window(browser: Browser, address: str) -> Iterator[Page]:
    """A window with an empty cache on the page."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, base_url=address)
    page = context.new_page()
    page.set_default_timeout(PAGE_MS)
    page.goto(f"/heatmaps?dataset={NAME}")
    page.locator(".viewer").wait_for()
    try:
        yield page
    finally:
        context.close()


def table(times: dict[str, list[float]]) -> str:
    """Markdown: a row per kind."""
    lines = ["| next heatmap | median, ms | worst, ms | goal, ms | steps |", "|---|---|---|---|---|"]
    for kind, found in times.items():
        row: list[Any] = [
            kind,
            f"{statistics.median(found):.0f}",
            f"{max(found):.0f}",
            GOALS_MS[kind],
            len(found),
        ]
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
