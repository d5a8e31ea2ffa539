"""Scoring many pictures into a folder: a table, the maps, the overlays; what is done survives whatever happens next.

  batch.json      with which model and threshold, and which pictures
  results.jsonl   a line per picture, in the order in which they were done; what `scores.csv` is made of
  scores.csv      once all are done: name, decision, score, threshold, files, error; in the order of the pictures
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


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """One picture of a batch: scored, or why not."""

    place: int  # of its file in the list, from 0
    name: str  # with '#2' for the second page of a file
    score: float | None = None
    threshold: float | None = None
    decision: str | None = None  # accept or reject
    map: str | None = None  # path below the batch's folder
    overlay: str | None = None
    error: str | None = None
    last: bool = True  # no page of the file comes after it


def score_batch(
    scorer: Detector,
    model: Model,
    threshold: float,
    files: Sequence[SourceFile],
    out: Path,
    *,
    draw: Draw,
    runtime: str = "torch",
    progress: Progress,
) -> list[BatchResult]:
    """Score files into a folder; pictures that are done there already are left alone, failed ones tried again.

    Args:
        threshold: a score above it is rejected.
        out: made when it is new.
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
                        result = _write(out, stem, item, result, draw)
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


def table(results: Sequence[BatchResult]) -> str:
    """The results as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(
        {key: "" if value is None else value for key, value in asdict(result).items()} for result in results
    )
    return text.getvalue()


def _write(out: Path, stem: str, item: ScoredFile, result: BatchResult, draw: Draw) -> BatchResult:
    """Keep map and overlay of a picture; the journal names them once both are whole."""
    values = io.BytesIO()
    np.save(values, item.anomaly_map)
    names = (f"{MAPS}/{stem}.npy", f"{OVERLAYS}/{stem}.png")
    contents = (values.getvalue(), draw(item.pixels, item.anomaly_map))
    for name, content in zip(names, contents, strict=True):
        (out / name).parent.mkdir(exist_ok=True)
        write_file(out / name, content, settled=False)
    return replace(
        result,
        score=item.score,
        threshold=item.threshold,
        decision=item.decision,
        map=names[0],
        overlay=names[1],
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
