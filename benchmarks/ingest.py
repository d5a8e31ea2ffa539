"""How fast pictures are taken in, beside the mere decoding of the same files, and what memory that takes.

    python -m benchmarks.ingest
    python -m benchmarks.ingest --pictures 200 --side 2048 --rounds 1 --modes RGB

Draws distinct PNG pictures: a smooth field of light with the noise of a camera, deflated as Pillow does unless told
otherwise. Then in turns, each in a process of its own:

- intake: `tuning.ingest` of the folder into an empty home, from listing the files to the committed version: read,
  decoded, digested twice (file and pixels), measured, shrunk, stored and synced to disk.
- decoding: Pillow opens and decodes the same files in as many threads, and throws the pixels away. It is the limit.

Seconds leave out starting Python and imports; memory is the peak of the process with all that it started, less what it
held after imports. The files have just been written, so the system's cache holds them. Best and worst of the rounds
are told, for a machine that does something else beside can only be slower. Linux only.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.measuring import RESULTS, machine, write_json
from benchmarks.watching import Watched

ROOT = Path(__file__).resolve().parent.parent
MODES = ("RGB", "L")
NOISE = 2.0  # standard deviation, grey levels; a PNG of such a picture takes half of its pixels' bytes
PATCHES = 8  # of light and shade along a side
JOBS = ("intake", "decoding")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=600, help="of each mode; default: 600")
    parser.add_argument("--side", type=int, default=1024, help="of a picture, pixels; default: 1024")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="RGB, L for grey")
    parser.add_argument("--rounds", type=int, default=3, help="of each, in turns; default: 3")
    parser.add_argument("--folder", type=Path, help="where it all lies meanwhile; default: the system's")
    parser.add_argument("--json", type=Path, default=RESULTS / "ingest.json", metavar="FILE")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)  # what a fresh process is to do …
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)  # … with which pictures
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)  # … into what
    options = parser.parse_args(arguments)
    if options.job is not None:
        do(options.job, options.source, options.home)
        return
    if options.pictures < 10:
        parser.error(f"--pictures is {options.pictures}; a dataset takes 10 or more")
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; it must be 1 or more")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = [
            measure(Path(folder), mode, options.pictures, options.side, options.rounds)
            for mode in options.modes
        ]
    write_json(options.json, {"machine": machine(), "modes": found})
    print(table(found))


def measure(folder: Path, mode: str, pictures: int, side: int, rounds: int) -> dict[str, Any]:
    """Take pictures of one mode in, and decode them, `rounds` times each."""
    source = folder / f"pictures-{mode}"
    draw(source, mode, pictures, side)
    size = sum(file.stat().st_size for file in source.iterdir())
    speeds: dict[str, list[float]] = {job: [] for job in JOBS}
    growth: dict[str, list[float]] = {job: [] for job in JOBS}
    for number in range(rounds):
        for job in JOBS:
            with tempfile.TemporaryDirectory(dir=folder) as home:
                seconds, grown = in_fresh_process(job, source, Path(home))
            speeds[job].append(pictures / seconds)
            growth[job].append(grown)
            told = f"{mode}, round {number + 1}, {job}: {pictures / seconds:.1f} pictures/s, {grown:.0f} MiB"
            print(told, file=sys.stderr, flush=True)
    return {
        "mode": mode,
        "pictures": pictures,
        "side": side,
        "megabytes_per_picture": size / pictures / 1e6,
        "pictures_per_second": speeds,
        "growth_mib": growth,
        "intake_over_decoding": [own / limit for own, limit in zip(*speeds.values(), strict=True)],
    }


def in_fresh_process(job: str, source: Path, home: Path) -> tuple[float, float]:
    """Do a job in a process of its own; answers its seconds and the growth of its memory in mebibytes."""
    command = [sys.executable, "-m", "benchmarks.ingest", "--job", job, "--source", str(source)]
    command += ["--home", str(home)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"the process that is to do the {job} did not come up")
        with Watched(process.pid) as memory:
            print("go", file=process.stdin, flush=True)
            answer = process.stdout.readline()  # it stays until the watch is over
        process.stdin.close()
    if process.returncode:
        raise SystemExit(f"the {job} failed")
    return float(answer), memory.peak - memory.before


def do(job: str, source: Path, home: Path) -> None:
    """The part of a fresh process: say that all is loaded, wait, do it, tell the seconds, wait again."""
    from storage.settings import Settings
    from storage.workspace import open_workspace
    from tuning.ingest import ingest_folder

    workspace = open_workspace(Settings(home=home))
    run = (
        partial(ingest_folder, workspace, source, "measured") if job == "intake" else partial(decode, source)
    )
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    run()
    print(time.perf_counter() - began, flush=True)
    sys.stdin.readline()
    workspace.close()


def decode(source: Path) -> None:
    """Decode all pictures of a folder in as many threads as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_decode, sorted(source.iterdir())))


def _decode(file: Path) -> None:
    with Image.open(file) as image:
        image.load()


def draw(folder: Path, mode: str, pictures: int, side: int) -> None:
    """Write pictures of `side` by `side` pixels, no two alike, as PNG files."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    channels = len(mode)
    noise = draws.normal(0, NOISE, (side, side, channels)).astype(np.float32)
    save = partial(_draw_one, folder=folder, noise=noise)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(save, range(pictures)))


def _draw_one(number: int, folder: Path, noise: npt.NDArray[np.float32]) -> None:
    draws = np.random.default_rng(number)
    side, _, channels = noise.shape
    light = [
        Image.fromarray(draws.normal(128, 30, (PATCHES, PATCHES)).astype(np.float32)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for _ in range(channels)
    ]
    # The same noise moved elsewhere and mirrored or not: drawing it anew would take most of the time.
    moved = np.roll(noise, draws.integers(0, side, 2), (0, 1))[:: draws.choice([1, -1])]
    values = np.stack([np.asarray(channel) for channel in light], axis=-1) + moved
    pixels = values.clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels if channels > 1 else pixels[..., 0]).save(folder / f"{number:06d}.png")


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row per mode, best of the rounds and the worst in brackets."""
    lines = [
        "| pictures | MB each | intake, pictures/s | decoding alone, pictures/s | intake over decoding | "
        "memory of the intake, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        cells = [
            f"{one['pictures']} of {one['side']}×{one['side']}, {one['mode']}",
            f"{one['megabytes_per_picture']:.2f}",
            *(_best(one["pictures_per_second"][job]) for job in JOBS),
            _best(one["intake_over_decoding"], 2),
            f"{max(one['growth_mib']['intake']):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _best(values: Sequence[float], digits: int = 0) -> str:
    return f"{max(values):.{digits}f} ({min(values):.{digits}f})"


if __name__ == "__main__":
    main()
