"""What an upload costs the dashboard's server: growth of its memory, seconds, and megabytes per second.

    python -m benchmarks.upload --gigabytes 1

Starts the real dashboard in an empty home with one page that holds the upload component, chooses a zip of stored noise
in a real Chromium, and waits until the page has the completed upload. Memory is the resident set of the server's whole
process tree, read every 50 ms: its growth is the peak while the upload runs less what was held before. Server, browser
and disk share one machine, and nothing lies between them: over a network the network decides. Linux only.
"""

import argparse
import random
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.measuring import RESULTS, machine, write_json
from benchmarks.serving import FLAGS, chromium, free_port, served
from benchmarks.watching import Watched
from dashboard.server import command
from storage import staging
from storage.settings import Settings

MEMBER_BYTES = 5_000_000  # of a picture in the zip
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
    settings = Settings(home=folder / "home", dashboard_port=free_port(), upload_max_gb=2 * gigabytes + 1)
    page_file = folder / "page.py"
    page_file.write_text(PAGE)
    arguments = [sys.executable, "-c", STARTER, str(page_file), *command(settings)[3:]]
    environment = {
        "SIMPLENET_HOME": str(settings.home),
        "SIMPLENET_UPLOAD_MAX_GB": str(settings.upload_max_gb),
    }
    with (
        served(arguments, settings.dashboard_url, environment, folder) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
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


if __name__ == "__main__":
    main()
