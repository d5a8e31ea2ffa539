"""How long a person waits for each page where a dataset holds 20,000 pictures.

    python -m benchmarks.pages
    python -m benchmarks.pages --pictures 2000 --home /tmp/pages   # built there, and used again by the next run

The installation is built by the product itself: small distinct PNG files in the layout of MVTec AD (a tenth anomalous,
of five defect types, with masks; some near copies, dark ones and files that are no pictures) go through the real
intake and the real checkup, some corrections are saved as version 2 and others wait, the checkup runs again, and a real
study of one trial ends with a champion. Only the study is smaller than usual: pictures of 64 pixels, one epoch.

Then the real dashboard is started and a real Chromium goes through it, twice: the first visit finds a server that has
just come up, the second is another window. A time goes from the click, or from sending the address, until the wanted
content stands, no script runs, and every picture in the page is drawn. Whoever opens a window looks at its first page
for some seconds: meanwhile the browser loads the charts' scripts, which costs it 0.6 s of its processor once, and would
be added to a click at once. Each round starts the server anew; best and worst of the rounds are told. Server and
browser share the machine.
"""

import argparse
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from benchmarks.measuring import RESULTS, machine, write_json
from benchmarks.serving import FLAGS, ROOT, chromium, free_port, served
from dashboard.server import command
from storage import datasets, edits
from storage.records import Edit, Label, Role
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace

NAME = "many"  # of the dataset
VERSIONS = 2  # of it, once all is built
SIDE = 64  # of a picture, pixels
LEAST = 1000  # pictures; fewer hold no near copies
DEFECTS = ("chip", "crack", "dent", "scratch", "stain")
ANOMALOUS_SHARE, TEST_SHARE = 0.1, 0.1  # of all pictures; the test's are normal
RELABELLED, REMOVED, WAITING = 50, 20, 30  # pictures
PAGE_MS = 120_000
LOOK_SECONDS = 3.0  # at the first page of a window
VISITS = ("first", "second")
# All elements, in shadow roots too. What is waited for is looked at with every frame: Playwright's own waiting for an
# element looks every 500 ms after a while, and would be what is measured.
DEEP = """const within = (root) => [...root.querySelectorAll('*')].flatMap((element) =>
    [element].concat(element.shadowRoot ? within(element.shadowRoot) : []));"""
SHOWN = f"""(selector) => {{ {DEEP}
  return within(document).some((one) => one.matches(selector) && one.checkVisibility());
}}"""
TEXT = f"""(text) => {{ {DEEP}
  const own = (one) => [...one.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join(' ');
  return within(document.querySelector('[data-testid=stMain]') ?? document.body).some((one) =>
    own(one).toLowerCase().includes(text.toLowerCase()) && one.checkVisibility());
}}"""
STUDIES = """() => [...document.querySelectorAll('h1')].some((one) => one.textContent.trim() === 'Studies')
  && [...document.querySelectorAll('[data-testid=stMain] a')].some((one) => one.textContent.trim() === 'Open')"""
# The script has ended, nothing shown is left from the run before, and all pictures are there, in shadow roots too.
SETTLED = """() => {
  const app = document.querySelector('[data-testid=stApp]');
  if (!app || app.dataset.testScriptState !== 'notRunning') return false;
  if (document.querySelector('[data-testid=stSkeleton], [data-stale=true]')) return false;
  const within = (root) => [...root.querySelectorAll('*')].flatMap((element) =>
    (element.tagName === 'IMG' ? [element] : []).concat(element.shadowRoot ? within(element.shadowRoot) : []));
  return within(document).every((image) => image.complete && image.naturalWidth);
}"""
TILES = """() => {
  const within = (root) => [...root.querySelectorAll('*')].flatMap((element) =>
    (element.classList.contains('tile') ? [element.title] : []).concat(
      element.shadowRoot ? within(element.shadowRoot) : []));
  return within(document).join();
}"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that a person does, and by what it is seen to be done."""

    name: str
    act: Callable[[Page], object]
    seen: Callable[[Page], object]
    before: Callable[[Page], object] | None = None  # what leads there, not timed
    at: Callable[[Page], Locator] | None = None  # where the pointer is before it acts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=20_000, help="of the dataset; default: 20,000")
    parser.add_argument("--rounds", type=int, default=3, help="starts of the server; default: 3")
    parser.add_argument(
        "--home", type=Path, help="where to build the installation; one that is there is used"
    )
    parser.add_argument("--chromium", default=chromium(), metavar="FILE", help="default: the system's")
    parser.add_argument("--json", type=Path, default=RESULTS / "pages.json", metavar="FILE")
    options = parser.parse_args(arguments)
    if options.pictures < LEAST:
        parser.error(f"--pictures is {options.pictures}; it takes {LEAST} or more to fill all filters")
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; it must be 1 or more")
    if options.chromium is None:
        parser.error("no Chromium is installed (Debian: apt-get install chromium); or name one: --chromium")
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        work = work_seconds(home, options.pictures)
        visits: dict[str, dict[str, list[float]]] = {}
        for number in range(options.rounds):
            for visit, name, seconds in visit_twice(home, options.chromium):
                visits.setdefault(name, {one: [] for one in VISITS})[visit].append(seconds)
                told = f"round {number + 1}, {visit} visit, {name}: {seconds:.2f} s"
                print(told, file=sys.stderr, flush=True)
        pictures = pictures_held(home)
    found = {"machine": machine(), "pictures": pictures, "work_seconds": work, "pages": visits}
    write_json(options.json, found)
    print(table(found))


def work_seconds(home: Path, pictures: int) -> dict[str, float]:
    """Build the installation; answers the seconds of the work in the background, none where it was there.

    Raises:
        SystemExit: it was left half built.
    """
    workspace = open_workspace(Settings(home=home, device="cpu"))
    try:
        with workspace.session() as session:
            known = {dataset.name: dataset.latest for dataset in datasets.list_datasets(session)}
            waiting = edits.list_edits(session, NAME) if NAME in known else []
        if NAME not in known:
            return build(workspace, pictures)
        version = known[NAME]
        if version is None or version.number < VERSIONS or not waiting:  # corrections that wait are put last
            raise SystemExit(
                f"The installation in '{home}' was left half built. Delete the folder, or name another."
            )
        return {}
    finally:
        workspace.close()


def pictures_held(home: Path) -> int:
    """How many pictures the version has that the pages show."""
    workspace = open_workspace(Settings(home=home, device="cpu"))
    try:
        with workspace.session() as session:
            return datasets.latest_version(session, NAME).count()
    finally:
        workspace.close()


def build(workspace: Workspace, pictures: int) -> dict[str, float]:
    """Make the dataset, its two versions, checkups, waiting corrections and study."""
    from tuning.ingest import ingest_folder
    from tuning.versions import save_edits

    told = {}
    with tempfile.TemporaryDirectory() as source:
        draw(Path(source), pictures)
        told["intake"] = _seconds(partial(ingest_folder, workspace, Path(source), NAME))
    told["checkup of version 1"] = _seconds(partial(_examine, workspace))
    _correct(workspace)
    told["saving version 2"] = _seconds(partial(save_edits, workspace, NAME, who="benchmark"))
    told["checkup of version 2"] = _seconds(partial(_examine, workspace))
    told["study of one trial"] = _seconds(partial(_study, workspace))
    _correct_more(workspace)
    for name, seconds in told.items():
        print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return told


def _examine(workspace: Workspace) -> None:
    from tuning.doctor import examine

    with workspace.session() as session:
        version = datasets.latest_version(session, NAME)
    examine(workspace, version)


def _correct(workspace: Workspace) -> None:
    """Relabel some normal pictures and take some out."""
    from tuning import corrections

    with workspace.session() as session:
        images = datasets.list_images(session, datasets.latest_version(session, NAME).id, role=Role.TRAIN)
    wanted = corrections.relabelled(images[:RELABELLED], Label.ANOMALOUS, "dent")
    removed = images[RELABELLED : RELABELLED + REMOVED]
    wanted += [Edit(pixel_digest=image.pixel_digest, remove=True) for image in removed]
    corrections.put(workspace, NAME, wanted, who="benchmark")


def _correct_more(workspace: Workspace) -> None:
    """Corrections that stay waiting."""
    from tuning import corrections

    with workspace.session() as session:
        images = datasets.list_images(session, datasets.latest_version(session, NAME).id, role=Role.TRAIN)
    wanted = corrections.relabelled(images[:WAITING], Label.ANOMALOUS, "crack")
    corrections.put(workspace, NAME, wanted, who="benchmark")


def _study(workspace: Workspace) -> None:
    from storage import studies
    from storage.records import StudyState
    from tuning.commands import launch_study
    from tuning.spec import StudySpec
    from tuning.worker import run_worker

    study = launch_study(workspace, NAME, StudySpec(trials=1, epochs=1, height=SIDE, width=SIDE))
    run_worker(workspace, worker_id="benchmark", stop=threading.Event(), study_id=study.id)
    with workspace.session() as session:
        ended = studies.get_study(session, study.id)
    if ended.state is not StudyState.COMPLETED:
        raise SystemExit(f"The study is {ended.state}: {ended.error}")


def draw(folder: Path, pictures: int) -> None:
    """Write the dataset's files in the layout of MVTec AD."""
    anomalous = int(ANOMALOUS_SHARE * pictures)
    test = int(TEST_SHARE * pictures)
    draws = np.random.default_rng(0)
    for number in range(pictures):
        pixels = draws.normal(128, 12, (SIDE, SIDE)) + np.linspace(-20, 20, SIDE)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if number < anomalous:
            kind = DEFECTS[number % len(DEFECTS)]
            top, left = draws.integers(0, SIDE - 12, 2)
            mask[top : top + 10, left : left + 10] = 255
            pixels[mask > 0] = 250
            _save(mask, folder / "ground_truth" / kind / f"{number:06d}_mask.png")
            _save(pixels, folder / "test" / kind / f"{number:06d}.png")
            continue
        good = folder / ("test" if number < anomalous + test else "train") / "good"
        if number % 500 == 0:
            pixels -= 90  # another exposure
        if number % 200 == 1:  # copies, a little brighter
            _save(pixels + 3, folder / "train" / "good" / f"{number:06d}-copy.png")
        _save(pixels, good / f"{number:06d}.png")
    for number in range(5):
        (folder / "train" / "good" / f"broken-{number}.png").write_text("no picture")


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, compress_level=1)


def visit_twice(
    home: Path, browser_file: str, steps: Sequence[Step] | None = None
) -> Iterator[tuple[str, str, float]]:
    """Start the dashboard and go through it in two windows; yields visit, step and seconds.

    Args:
        steps: what is done in each; None: all pages of an installation that `build` made.
    """
    settings = Settings(home=home, dashboard_port=free_port(), device="cpu")
    environment = {"SIMPLENET_HOME": str(home), "SIMPLENET_DEVICE": "cpu"}
    with (
        served(command(settings), settings.dashboard_url, environment, ROOT),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=browser_file, args=FLAGS)
        for visit in VISITS:
            with _window(browser, settings.dashboard_url) as page:
                for number, step in enumerate(steps or STEPS):
                    if number == 1:
                        time.sleep(LOOK_SECONDS)
                    if step.before is not None:
                        step.before(page)
                        page.wait_for_function(SETTLED)
                    if step.at is not None:
                        step.at(page).hover()  # which waits until it stands still, as the hand would
                    began = time.perf_counter()
                    step.act(page)
                    step.seen(page)
                    page.wait_for_function(SETTLED)
                    yield visit, step.name, time.perf_counter() - began
        browser.close()


@contextmanager
def _window(browser: Browser, address: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, base_url=address)
    page.set_default_timeout(PAGE_MS)
    try:
        yield page
    finally:
        page.close()


def _to(path: str) -> Callable[[Page], object]:
    return lambda page: page.goto(path)


def _link(name: str) -> Callable[[Page], object]:
    """Click a page's name at the left."""
    return lambda page: page.get_by_test_id("stSidebar").get_by_role("link", name=name, exact=True).click()


def _radio(name: str) -> Callable[[Page], object]:
    return lambda page: page.get_by_role("radio", name=name, exact=True).click()


def _button(name: str) -> Callable[[Page], object]:
    return lambda page: page.get_by_role("button", name=name).click()


def _box_opened(label: str) -> Callable[[Page], object]:
    def open_box(page: Page) -> None:
        _datasets(page)
        page.get_by_test_id("stSelectbox").filter(has_text=label).locator("input").click()

    return open_box


def _option(name: str | re.Pattern[str]) -> Callable[[Page], object]:
    """Choose in an open select box."""
    return lambda page: page.get_by_role("option", name=name, exact=isinstance(name, str)).last.click()


def _changing(act: Callable[[Page], object]) -> Callable[[Page], object]:
    """An act that `_changed` looks for the outcome of."""

    def remember_and_act(page: Page) -> None:
        page.evaluate(f"window.tilesBefore = ({TILES})()")
        act(page)

    return remember_and_act


def _changed(page: Page) -> None:
    """Wait until other pictures are shown."""
    page.wait_for_function(f"() => {{ const now = ({TILES})(); return now && now !== window.tilesBefore; }}")


def _text(text: str) -> Callable[[Page], object]:
    return lambda page: page.wait_for_function(TEXT, arg=text)


def _shown(selector: str) -> Callable[[Page], object]:
    return lambda page: page.wait_for_function(SHOWN, arg=selector)


def _datasets(page: Page) -> None:
    page.goto(f"/datasets?dataset={NAME}")
    page.locator(".tile").first.wait_for()
    page.wait_for_function(SETTLED)


def _studies(page: Page) -> None:
    page.wait_for_function(STUDIES)


STEPS = (
    Step(name="an empty browser opens System", act=_to("/system"), seen=_text("Anomaly maps")),
    Step(name="Home, by its address", act=_to("/"), seen=_shown(".sn-strip img")),
    Step(name="Datasets, clicked", act=_link("Datasets"), seen=_shown(".tile")),
    Step(name="next page of pictures", act=_changing(_button("Next page")), seen=_changed),
    Step(name="pictures of one role", act=_changing(_radio("test")), seen=_changed),
    Step(
        name="pictures of one defect type",
        before=_box_opened("Defect type"),
        act=_changing(_option("dent")),
        seen=_changed,
    ),
    Step(
        name="pictures of one finding",
        before=_box_opened("Finding"),
        act=_changing(_option(re.compile("^near copies"))),
        seen=_changed,
    ),
    Step(
        name="one picture",
        before=_datasets,
        act=lambda page: page.locator(".tile").nth(5).click(),
        seen=_text("Correct it"),
    ),
    Step(name="section Check", before=_datasets, act=_changing(_radio("Check")), seen=_changed),
    Step(
        name="section Versions", before=_datasets, act=_radio("Versions"), seen=_text("pictures relabelled")
    ),
    Step(name="section Add", before=_datasets, act=_radio("Add"), seen=_text("Drop pictures")),
    Step(name="Studies, clicked", act=_link("Studies"), seen=_studies),
    Step(
        name="one study",
        act=lambda page: page.get_by_test_id("stMain").get_by_role("link", name="Open").first.click(),
        seen=_text("became model version 1"),
    ),
    Step(name="Heatmaps, clicked", act=_link("Heatmaps"), seen=_shown(".tile")),
    Step(name="Models, clicked", act=_link("Models"), seen=_text("Endpoint")),
    Step(name="System, clicked", act=_link("System"), seen=_text("Anomaly maps")),
    Step(name="Datasets, by its address", act=_to(f"/datasets?dataset={NAME}"), seen=_shown(".tile")),
    Step(
        name="section Check, by its address",
        act=_to(f"/datasets?dataset={NAME}&section=Check"),
        seen=_text("Examined"),
    ),
    Step(name="Heatmaps, by its address", act=_to(f"/heatmaps?dataset={NAME}"), seen=_shown(".tile")),
)


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def table(found: dict[str, Any]) -> str:
    """Markdown: a row per step, best of the rounds and the worst in brackets; below, the work in the background."""
    lines = ["| what is opened | first visit, s | second visit, s |", "|---|---|---|"]
    for name, visits in found["pages"].items():
        cells = [f"{min(visits[visit]):.2f} ({max(visits[visit]):.2f})" for visit in VISITS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| in the background, {found['pictures']:,} pictures | s |", "|---|---|"]
    lines += [f"| {name} | {seconds:.1f} |" for name, seconds in found["work_seconds"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
