"""Scoring many pictures into a folder: a table, the maps, the overlays; what is done survives whatever happens next.

  batch.json      with which model and threshold, and which pictures
  results.jsonl   a line per picture, in the order in which they were done; what `scores.csv` is made of
  scores.csv      once all are done: name, decision, score, threshold, files, error; in the order of the pictures

Maps and overlays are kept by whoever asks. As files for people (`named_files`) they lie in

  maps/           000001_name.npy, float32, one value per pixel of the picture
  overlays/       000001_name.png

The same call on the same folder goes on where the last one ended, be it by kill -9.
"""

import csv
import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.images import pixel_digest
from engine.scoring import Detector
from storage.atomic_files import write_file
from storage.listing import SourceFile
from storage.records import Model
from storage.room import told_when_full
from tuning.errors import OtherBatch
from tuning.export_names import safe_stem
from tuning.jobs import Progress
from tuning.predictor import ScoredFile, score_file

logger = logging.getLogger(__name__)

ABOUT, RESULTS, TABLE, MAPS, OVERLAYS = "batch.json", "results.jsonl", "scores.csv", "maps", "overlays"
COLUMNS = ("name", "decision", "score", "threshold", "map", "overlay", "error")

Draw = Callable[[NDArray[np.uint8], NDArray[np.float32]], bytes]
"""Called with the pixels (H, W, 3) and the map (H, W) of a picture; answers the bytes of an overlay as PNG."""

Keep = Callable[["BatchResult", ScoredFile], None]
"""Called with what is told of a scored picture, and the picture with its map, before the journal names it."""


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """One picture of a batch: scored, or why not."""

    place: int  # of its file in the list, from 0
    name: str  # with '#2' for the second page of a file
    page: int | None = None  # of the file, from 1, where it has several
    score: float | None = None
    threshold: float | None = None
    decision: str | None = None  # accept or reject
    map: str | None = None  # path among the files for people
    overlay: str | None = None
    digest: str | None = None  # SHA-256 (hex) of the bytes, of a page those of it alone
    pixel_digest: str | None = None  # SHA-256 (hex) of shape and pixels
    height: int | None = None  # pixels
    width: int | None = None
    error: str | None = None
    last: bool = True  # no page of the file comes after it


def score_batch(
    scorer: Detector,
    model: Model,
    threshold: float,
    files: Sequence[SourceFile],
    out: Path,
    *,
    keep: Keep,
    runtime: str = "torch",
    progress: Progress,
) -> list[BatchResult]:
    """Score files into a folder; pictures that are done there already are left alone, failed ones tried again.

    Args:
        threshold: a score above it is rejected.
        out: made when it is new.
        keep: called with each picture; what it keeps must be whole when it returns.
    Returns:
        What came of every picture, in the order of the files.
    Raises:
        OtherBatch: the folder holds the results of another model, threshold or list.
        DiskFull: no room; what is done stays, and the same call goes on.
    """
    out.mkdir(parents=True, exist_ok=True)
    with told_when_full(out):
        _claim(out, model, threshold, files, runtime)
        done = {result.name: result for result in read_results(out) if result.error is None}
        finished = {result.place for result in done.values() if result.last}
        digits = max(6, len(str(len(files))))
        with (out / RESULTS).open("a", encoding="utf-8") as journal:
            for place, file in enumerate(files):
                progress(place, len(files), f"scoring {file.name}")
                if place in finished:
                    continue
                answered = list(score_file(scorer, file, threshold, known=done))
                for number, item in enumerate(answered, start=1):
                    result = BatchResult(place=place, name=item.name, last=number == len(answered))
                    if isinstance(item, ScoredFile):
                        stem = f"{place + 1:0{digits}d}_{safe_stem(item.name)}"
                        result = _told(result, stem, item)
                        keep(result, item)
                    else:
                        result = replace(result, error=item.error)
                    journal.write(json.dumps(asdict(result)) + "\n")
                    journal.flush()
        found = read_results(out)
        write_file(out / TABLE, table(found).encode())
    progress(len(files), len(files), "done")
    return found


def read_results(out: Path) -> list[BatchResult]:
    """What is known by now, in the order of the files; the last word on each picture, and none that was cut off."""
    results: dict[str, BatchResult] = {}
    try:
        lines = (out / RESULTS).read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            result = BatchResult(**json.loads(line))
        except (ValueError, TypeError):  # the process died while it wrote this line
            continue
        results[result.name] = result
    return sorted(results.values(), key=lambda result: result.place)


def named_files(out: Path, draw: Draw) -> Keep:
    """Keep map and overlay of each picture below a folder, named for people."""

    def keep(result: BatchResult, item: ScoredFile) -> None:
        overlay = draw(item.pixels, item.anomaly_map)
        for name, content in ((result.map, npy(item.anomaly_map)), (result.overlay, overlay)):
            file = out / str(name)
            file.parent.mkdir(exist_ok=True)
            write_file(file, content, settled=False)

    return keep


def npy(anomaly_map: NDArray[np.float32]) -> bytes:
    """A map as the bytes of a `.npy` file."""
    file = io.BytesIO()
    np.save(file, anomaly_map)
    return file.getvalue()


def table(results: Sequence[BatchResult]) -> str:
    """The results as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(
        {key: "" if value is None else value for key, value in asdict(result).items()} for result in results
    )
    return text.getvalue()


def _told(result: BatchResult, stem: str, item: ScoredFile) -> BatchResult:
    """What is known of a picture once it is scored."""
    return replace(
        result,
        page=item.page,
        score=item.score,
        threshold=item.threshold,
        decision=item.decision,
        map=f"{MAPS}/{stem}.npy",
        overlay=f"{OVERLAYS}/{stem}.png",
        digest=sha256(item.data).hexdigest(),
        pixel_digest=pixel_digest(item.pixels),
        height=item.pixels.shape[0],
        width=item.pixels.shape[1],
    )


def _claim(out: Path, model: Model, threshold: float, files: Sequence[SourceFile], runtime: str) -> None:
    """Say what the folder holds, or check that it holds the same.

    Raises:
        OtherBatch: it doesn't.
    """
    about: dict[str, Any] = {
        "dataset": model.dataset_name,
        "model_version": model.version,
        "threshold": threshold,
        "runtime": runtime,
        "pictures": len(files),
        "list": sha256(json.dumps([file.name for file in files]).encode()).hexdigest(),
    }
    try:
        before = json.loads((out / ABOUT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (out / RESULTS).exists() or (out / TABLE).exists():
            raise OtherBatch(
                f"Folder '{out}' holds results of nobody knows what: {ABOUT} is missing. Choose another folder."
            ) from None
        write_file(out / ABOUT, json.dumps(about, indent=2).encode())
        return
    except ValueError:
        before = {}
    differing = [key for key in about if before.get(key) != about[key]]
    if differing:
        key = differing[0]
        was, is_ = ("other pictures", "these") if key == "list" else (before.get(key, "none"), about[key])
        raise OtherBatch(
            f"Folder '{out}' holds the results of another batch: {key.replace('_', ' ')} was {was}, now it is {is_}. "
            "Choose another folder, or delete this one."
        )
