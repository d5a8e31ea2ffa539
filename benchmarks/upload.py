"""What an upload costs the dashboard's server: growth of its memory, seconds, and megabytes per second.

    python -m benchmarks.upload --gigabytes 1

Starts the real dashboard in an empty home with one page that holds the upload component, chooses a zip of stored noise
in a real Chromium, and waits until the page has the completed upload. Memory is the resident set of the server's whole
process tree, read every 50 ms: its growth is the peak while the upload runs less what was held before. Server, browser
and disk share one machine, and nothing lies between them: over a network the network decides. Linux only.
"""

import argparse
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import sync_playwright

from benchmarks.measuring import RESULTS, machine, write_json
from dashboard.server import command
from storage import staging
from storage.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
MEMBER_BYTES = 5_000_000  # of a picture in the zip
START_SECONDS = 120
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PAGE = """
import streamlit as st
from dashboard.components.uploader import uploader
from storage.settings import Settings

if uploader(Settings(), key="new"):
    st.write("completed")
"""
STARTER = """
import sys
from pathlib import Path
from dashboard.server import serve
serve(sys.argv[2:], Path(sys.argv[1]))
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the zip; default: 1")
    parser.add_argument("--folder", type=Path, help="where zip and home lie meanwhile; default: the system's")
    parser.add_argument("--json", type=Path, default=RESULTS / "upload.json", metavar="FILE")
    options = parser.parse_args(arguments)
    if not options.gigabytes > 0:
        parser.error(f"--gigabytes is {options.gigabytes:g}; it must be above 0")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), options.gigabytes)
    write_json(options.json, {"machine": machine(), **found})
    print(table(found))


def measure(folder: Path, gigabytes: float) -> dict[str, Any]:
    """Upload a zip of so many gigabytes."""
    archive = folder / "pictures.zip"
    write_zip(archive, int(gigabytes * 1e9))
    settings = Settings(home=folder / "home", dashboard_port=_free_port(), upload_max_gb=2 * gigabytes + 1)
    page_file = folder / "page.py"
    page_file.write_text(PAGE)
    with _server(settings, page_file) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(base_url=settings.dashboard_url)
        page.goto("/")
        page.get_by_text("Drop pictures").wait_for()
        time.sleep(2)  # imports of the first visit end
        with Watched(server.pid) as memory:
            began = time.perf_counter()
            page.locator("input.files").set_input_files(archive)
            page.get_by_text("completed").wait_for(timeout=3_600_000)
            seconds = time.perf_counter() - began
        browser.close()
    (upload,) = staging.list_uploads(settings.staging_folder)
    size = archive.stat().st_size
    if upload.size != size:
        raise SystemExit(f"{upload.size} bytes arrived of {size}")
    return {
        "megabytes": size / 1e6,
        "seconds": seconds,
        "megabytes_per_second": size / 1e6 / seconds,
        "held_before_mib": memory.before,
        "peak_mib": memory.peak,
        "growth_mib": memory.peak - memory.before,
    }


def write_zip(path: Path, size: int) -> None:
    """Write a zip of about `size` bytes, of members that can't be compressed."""
    noise = random.Random(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
        for number, start in enumerate(range(0, size, MEMBER_BYTES)):
            out.writestr(f"good/{number:06d}.png", noise.randbytes(min(MEMBER_BYTES, size - start)))


class Watched:
    """The resident memory of a process and all that it started, in mebibytes, while the context lasts."""

    def __init__(self, process_id: int) -> None:
        self._process = psutil.Process(process_id)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Watched":
        self.before = self.peak = self._resident()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, self._resident())

    def _resident(self) -> float:
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total / 2**20


def table(found: dict[str, Any]) -> str:
    """Markdown, one row."""
    cells = [
        f"{found['megabytes']:.0f}",
        f"{found['seconds']:.1f}",
        f"{found['megabytes_per_second']:.0f}",
        f"{found['held_before_mib']:.0f}",
        f"{found['growth_mib']:.1f}",
    ]
    head = "| MB sent | seconds | MB/s | server before, MiB | its growth, MiB |"
    return f"{head}\n|{'---|' * len(cells)}\n| {' | '.join(cells)} |"


@contextmanager
def _server(settings: Settings, page_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SIMPLENET_HOME": str(settings.home),
        "SIMPLENET_UPLOAD_MAX_GB": str(settings.upload_max_gb),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(page_file), *command(settings)[3:]],
        cwd=page_file.parent,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"{settings.dashboard_url}/_stcore/health", process)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit("the server ended while it started")
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 (our own address)
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"{url} does not answer")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
