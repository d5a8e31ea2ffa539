"""How long a person waits for the page of a study with 200 trials, while it runs and after.

    python -m benchmarks.study_page
    python -m benchmarks.study_page --trials 500 --rounds 1

The trials are told to the real Optuna database without training: parameters that its sampler proposes, ten epochs each,
a tenth pruned, some failed, a latency. Then the real dashboard is started and a real Chromium opens the page as
`benchmarks.pages` does: a time goes from sending the address, or from the click, until the wanted content stands, no
script runs and nothing shown is left from the run before. Server and browser share the machine.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

from playwright.sync_api import Locator, Page

from benchmarks import pages
from benchmarks.measuring import RESULTS, machine, write_json
from benchmarks.pages import Step
from benchmarks.serving import chromium
from storage import studies, workers
from storage.records import StudyState, now
from storage.settings import Settings
from storage.workspace import open_workspace

DATASET = "parts"
EPOCHS = 10
PICTURES = 200


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200, help="of the study; default: 200")
    parser.add_argument("--rounds", type=int, default=3, help="starts of the server; default: 3")
    parser.add_argument("--chromium", default=chromium(), metavar="FILE", help="default: the system's")
    parser.add_argument("--json", type=Path, default=RESULTS / "study_page.json", metavar="FILE")
    options = parser.parse_args(arguments)
    if options.trials < 20:
        parser.error(f"--trials is {options.trials}; it takes 20 or more to fill all sections")
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; it must be 1 or more")
    if options.chromium is None:
        parser.error("no Chromium is installed (Debian: apt-get install chromium); or name one: --chromium")
    visits: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        running, ended = build(home, options.trials)
        for number in range(options.rounds):
            for visit, name, seconds in pages.visit_twice(home, options.chromium, steps(running, ended)):
                visits.setdefault(name, {one: [] for one in pages.VISITS})[visit].append(seconds)
                told = f"round {number + 1}, {visit} visit, {name}: {seconds:.2f} s"
                print(told, file=sys.stderr, flush=True)
    found = {"machine": machine(), "trials": options.trials, "pages": visits}
    write_json(options.json, found)
    print(table(visits))


def build(home: Path, trials: int) -> tuple[int, int]:
    """Make the installation; answers the numbers of a study that runs and of one that has ended."""
    from tuning.commands import launch_study
    from tuning.ingest import ingest_folder
    from tuning.spec import StudySpec

    logging.getLogger("optuna").setLevel(logging.WARNING)
    workspace = open_workspace(Settings(home=home, device="cpu"))
    try:
        with tempfile.TemporaryDirectory() as source:
            pages.draw(Path(source), PICTURES)
            ingest_folder(workspace, Path(source), DATASET)
        running, ended = (launch_study(workspace, DATASET, StudySpec(trials=trials)) for _ in range(2))
        for study in (running, ended):
            with workspace.session() as session:
                workers.register_worker(
                    session,
                    worker_id=f"w{study.id}",
                    hostname="here",
                    pid=1,
                    device="cpu",
                    threads=2,
                    now=now(),
                )
                claimed = studies.claim(
                    session,
                    worker_id=f"w{study.id}",
                    now=now(),
                    lease_seconds=timedelta(days=1).total_seconds(),
                )
            if claimed is None or claimed.id != study.id:
                raise SystemExit(f"Study {study.id} could not be claimed.")
            tell_trials(home, study.id, trials - (study.id == running.id))
            with workspace.session() as session:
                hold = {"study_id": study.id, "worker_id": f"w{study.id}", "attempt": claimed.attempt}
                progress = {"phase": "training", "trial": trials, "epoch": 3, "epochs": EPOCHS, "best": 0.97}
                studies.set_progress(session, **hold, progress=progress)
                if study.id == ended.id:
                    studies.finish(session, **hold, state=StudyState.COMPLETED, error=None, now=now())
        return running.id, ended.id
    finally:
        workspace.close()


def tell_trials(home: Path, study_id: int, count: int) -> None:
    """Tell Optuna of trials as a study's worker would."""
    from engine.config import SimpleNetConfig
    from tuning import search as searching
    from tuning.spec import StudySpec

    spec = StudySpec(trials=count)
    search = searching.open_search(Settings(home=home).optuna_url, study_id, spec)
    for number in range(count):
        trial = searching.ask(search, spec)
        value = 0.97 - abs(trial.params["noise_std"] - 0.03) ** 0.5
        pruned, failed = number % 10 == 3, number % 50 == 7
        for epoch in range(1, 1 + (3 if pruned else EPOCHS)):
            trial.report(value * (1 - 0.5 / (1 + epoch)), epoch)
        trial.set_user_attr("run_id", f"{number:032x}")
        trial.set_user_attr("worker", f"here-{number % 2}")
        trial.set_user_attr("device", "cpu")
        trial.set_user_attr("latency_ms", 4 + 5 * trial.params["adaptor_depth"] + number % 3)
        trial.set_user_attr("config", SimpleNetConfig().to_json())
        if failed:
            trial.set_user_attr(searching.ERROR, "TrainingDiverged: the loss is nan. Lower σ.")
        state = searching.TrialState.FAIL if failed else searching.TrialState.PRUNED if pruned else None
        search.tell(trial, None if state else value, state=state)


def steps(running: int, ended: int) -> tuple[Step, ...]:
    """What a person does on the two studies' pages."""
    return (
        Step(
            name="an empty browser opens System", act=pages._to("/system"), seen=pages._text("Anomaly maps")
        ),
        Step(name="Studies, clicked", act=pages._link("Studies"), seen=pages._studies),
        Step(name="a running study, clicked", act=_open_listed(1), seen=_charts(2)),
        Step(name="an ended study, clicked", before=_listed, act=_open_listed(0), seen=_charts(2)),
        Step(name="a running study, by its address", act=_open(running), seen=_charts(2)),
        Step(name="an ended study, by its address", act=_open(ended), seen=_charts(2)),
        _unfolding("What mattered", charts=3),
        _unfolding("Each setting", charts=4),
        _unfolding("All settings", charts=5),
        _unfolding("Timeline", charts=6),
        Step(
            name="the same with all of it open, by its address",
            act=lambda page: page.reload(),
            seen=_charts(6),
        ),
    )


def _listed(page: Page) -> None:
    page.get_by_role("link", name="All studies").click()
    page.get_by_text("Open").nth(1).wait_for()


def _open_listed(place: int) -> partial[object]:
    """Click a study in the list, the newest of which is at place 0."""
    return partial(_click_listed, place=place)


def _click_listed(page: Page, place: int) -> None:
    page.get_by_test_id("stMain").get_by_role("link", name="Open").nth(place).click()


def _open(study: int) -> partial[object]:
    return partial(_go, path=f"/studies?study={study}")


def _go(page: Page, path: str) -> object:
    return page.goto(path)


def _unfolding(title: str, *, charts: int) -> Step:
    def summary(page: Page) -> Locator:
        return page.get_by_test_id("stExpander").filter(has_text=title).locator("summary")

    return Step(
        name=f"unfolding {title}",
        at=summary,
        act=lambda page: summary(page).click(force=True),
        seen=_charts(charts),
    )


def _charts(count: int) -> partial[object]:
    return partial(_drawn, count=count)


def _drawn(page: Page, count: int) -> None:
    page.wait_for_function(f"() => document.querySelectorAll('.js-plotly-plot .main-svg').length >= {count}")
    page.wait_for_function(f"() => document.querySelectorAll('.js-plotly-plot').length >= {count}")


def table(visits: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: a row per step, best of the rounds and the worst in brackets."""
    lines = ["| what is opened | first visit, s | second visit, s |", "|---|---|---|"]
    for name, by_visit in visits.items():
        cells = [f"{min(by_visit[visit]):.2f} ({max(by_visit[visit]):.2f})" for visit in pages.VISITS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
