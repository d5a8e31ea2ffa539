"""What the model server adds to the engine: throughput, moves of the champion under load, memory, and a page's map.

    python -m benchmarks.model_server --data ../shared/data/magnetic_tile

Trains two quick models of the pictures in an empty home, starts the real `simplenet serve` on it, and measures:

- throughput of 4 clients, each with one connection and one picture at a time, against the engine's own in this process
  (decode and score, one picture at a time, as `simplenet score` does), in turns, so that a busy machine slows both;
- requests that failed while the alias moved between the two models under the same load;
- the server's resident memory over many requests;
- the time of a score and a map through the server, as a page asks for them, of a picture of 1024 by 1024 pixels.
"""

import argparse
import http.client
import io
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.measuring import RESULTS, machine, write_json
from benchmarks.serving import free_port, served
from engine.images import decode
from storage import models, studies
from storage.records import Model, StudyState
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tuning import serving_client
from tuning.commands import launch_study, promote
from tuning.ingest import ingest_folder
from tuning.predictor import detector
from tuning.spec import StudySpec
from tuning.worker import run_worker

CLIENTS = 4
DATASET = "parts"
PAGE_SIDE = 1024  # pixels


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder that `simplenet ingest` reads")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each; default: 6")
    parser.add_argument("--pictures", type=int, default=100, help="pictures per turn; default: 100")
    parser.add_argument("--moves", type=int, default=20, help="of the alias; default: 20")
    parser.add_argument("--requests", type=int, default=10_000, help="while memory is read; default: 10000")
    parser.add_argument("--size", type=int, default=256, help="side of the network's input; default: 256")
    parser.add_argument("--json", type=Path, default=RESULTS / "model_server.json", metavar="FILE")
    options = parser.parse_args(arguments)
    for name in ("rounds", "pictures", "moves", "requests"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options)
    write_json(options.json, {"machine": machine(), **found})
    print(table(found))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All of it, on one server."""
    settings = Settings(home=folder / "home", device="cpu", serve_port=free_port())
    workspace = open_workspace(settings)
    first, second = _train(workspace, options.data, options.size)
    pictures = sorted((options.data / "test").rglob("*.*")) or sorted(options.data.rglob("*.*"))
    bodies = [path.read_bytes() for path in pictures[: options.pictures]]
    bodies = [bodies[index % len(bodies)] for index in range(options.pictures)]
    environment = {
        "SIMPLENET_HOME": str(settings.home),
        "SIMPLENET_DEVICE": "cpu",
        "SIMPLENET_SERVE_PORT": str(settings.serve_port),
        "OMP_WAIT_POLICY": "PASSIVE",  # as `simplenet up` starts it
    }
    command = [sys.executable, "-m", "dashboard.cli", "serve"]
    with served(command, settings.model_server_url, environment, folder, "/health") as server:
        process = psutil.Process(server.pid)
        return {
            "throughput": _throughput(workspace, first, bodies, options.rounds),
            "moves": _moves(workspace, (first, second), bodies, options.moves),
            "page": _page(settings, second if options.moves % 2 else first),
            "memory": _memory(settings, bodies, options.requests, process),
        }


def _train(workspace: Workspace, data: Path, side: int) -> tuple[Model, Model]:
    ingest_folder(workspace, data, DATASET)
    for _ in range(2):
        spec = StudySpec(trials=1, epochs=1, height=side, width=side)
        study = launch_study(workspace, DATASET, spec)
        run_worker(workspace, worker_id="benchmark", stop=threading.Event(), study_id=study.id)
        with workspace.session() as session:
            ended = studies.get_study(session, study.id)
        if ended.state is not StudyState.COMPLETED:
            raise SystemExit(f"the study {ended.state}: {ended.error}")
    with workspace.session() as session:
        second, first = models.list_models(session, DATASET)
    promote(workspace, DATASET, first.version, who="benchmark", why="to begin with")
    return first, second


class _Caller:
    """A client with one connection that stays open."""

    def __init__(self, settings: Settings) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", settings.serve_port, timeout=300)

    def __call__(self, body: bytes) -> int:
        self._connection.request("POST", f"/{DATASET}/predict", body, {"Content-Type": "image/png"})
        response = self._connection.getresponse()
        response.read()
        return response.status


def _ask_all(settings: Settings, bodies: Sequence[bytes], count: int) -> list[int]:
    """Send `count` requests from all clients together; answers the statuses."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        shares = [range(number, count, CLIENTS) for number in range(CLIENTS)]

        def ask(share: range) -> list[int]:
            call = _Caller(settings)
            return [call(bodies[index % len(bodies)]) for index in share]

        return [status for statuses in pool.map(ask, shares) for status in statuses]


def _throughput(workspace: Workspace, model: Model, bodies: Sequence[bytes], rounds: int) -> dict[str, Any]:
    scorer = detector(workspace, model)
    pixels = [decode(body, "picture") for body in bodies]

    def engine() -> None:
        for body in bodies:
            scorer.score([decode(body, "picture")])

    def engine_decoded() -> None:
        for one in pixels:
            scorer.score([one])

    def server() -> None:
        statuses = _ask_all(workspace.settings, bodies, len(bodies))
        if set(statuses) != {200}:
            raise SystemExit(f"the server answered {sorted(set(statuses))}")

    calls: dict[str, Callable[[], None]] = {
        "engine": engine,
        "engine, decoded before": engine_decoded,
        "server": server,
    }
    speeds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):  # the first is not counted: it loads, and chooses kernels
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn:
                speeds[name].append(len(bodies) / (time.perf_counter() - began))
    ratios = [served / own for served, own in zip(speeds["server"], speeds["engine"], strict=True)]
    return {
        "pictures_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "server_over_engine": statistics.median(ratios),
        "server_over_engine_by_turn": ratios,
    }


def _moves(
    workspace: Workspace, both: tuple[Model, Model], bodies: Sequence[bytes], moves: int
) -> dict[str, Any]:
    stop = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        call = _Caller(workspace.settings)
        while not stop.is_set():
            statuses.append(call(bodies[len(statuses) % len(bodies)]))

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    waits = []
    for move in range(moves):
        model = both[(move + 1) % 2]
        promote(workspace, DATASET, model.version, who="benchmark", why="to see it followed")
        began = time.perf_counter()
        while _serving(workspace.settings) != model.version:
            time.sleep(0.05)
        waits.append(time.perf_counter() - began)
    stop.set()
    for thread in threads:
        thread.join()
    return {
        "moves": moves,
        "requests": len(statuses),
        "failed": sum(status != 200 for status in statuses),
        "seconds_until_followed": statistics.median(waits),
        "longest_seconds_until_followed": max(waits),
    }


def _serving(settings: Settings) -> int | None:
    stats = serving_client.stats(settings, DATASET)
    return None if stats is None else stats["model_version"]


def _page(settings: Settings, model: Model) -> dict[str, float]:
    draw = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(draw.integers(0, 255, (PAGE_SIDE, PAGE_SIDE, 3), np.uint8)).save(file, "PNG")
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        if serving_client.score(settings, model, file.getvalue()) is None:
            raise SystemExit("the server gave no map")
        seconds.append(time.perf_counter() - began)
    return {"median_seconds": statistics.median(seconds[1:]), "longest_seconds": max(seconds[1:])}


def _memory(
    settings: Settings, bodies: Sequence[bytes], requests: int, process: psutil.Process
) -> dict[str, Any]:
    step = max(1, requests // 10)
    held = [process.memory_info().rss / 2**20]
    failed = 0
    for _ in range(requests // step):
        statuses = _ask_all(settings, bodies, step)
        failed += sum(status != 200 for status in statuses)
        held.append(process.memory_info().rss / 2**20)
    return {
        "requests": requests // step * step,
        "failed": failed,
        "mib_by_tenth": held,
        "growth_after_first_tenth_mib": held[-1] - held[1],
    }


def table(found: dict[str, Any]) -> str:
    """Markdown, one row per figure."""
    throughput, moves, page, memory = (found[name] for name in ("throughput", "moves", "page", "memory"))
    speeds = throughput["pictures_per_second"]
    turns = throughput["server_over_engine_by_turn"]
    rows = [
        ("engine alone, decode and score, one at a time", f"{speeds['engine']:.1f} pictures/s"),
        ("engine alone, decoded before", f"{speeds['engine, decoded before']:.1f} pictures/s"),
        (f"server, {CLIENTS} clients", f"{speeds['server']:.1f} pictures/s"),
        (
            "server over engine, median of turns (lowest, highest)",
            f"{throughput['server_over_engine']:.2f} ({min(turns):.2f}, {max(turns):.2f})",
        ),
        (
            f"failed of {moves['requests']:,} requests while the alias moved {moves['moves']} times",
            f"{moves['failed']}",
        ),
        (
            "from the promotion to the first answer of the new champion",
            f"{moves['seconds_until_followed']:.1f} s, at most {moves['longest_seconds_until_followed']:.1f} s",
        ),
        (
            f"score and map of {PAGE_SIDE}×{PAGE_SIDE} px for a page",
            f"{1000 * page['median_seconds']:.0f} ms, at most {1000 * page['longest_seconds']:.0f} ms",
        ),
        (f"failed of {memory['requests']:,} requests while memory was read", f"{memory['failed']}"),
        (
            "memory of the server: at first, after each tenth",
            ", ".join(f"{held:.0f}" for held in memory["mib_by_tenth"]) + " MiB",
        ),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


if __name__ == "__main__":
    main()
