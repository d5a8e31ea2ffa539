"""Batches of pictures that were scored from a page: kept with their pictures until somebody deletes them.

`$SIMPLENET_HOME/batches/ID` holds `request.json`, the pictures under `files/`, and what `tuning.batch_scoring` writes.
The job that scores is the dashboard's (`dashboard.batching`), which knows how overlays are drawn; a viewer takes
`results` and `anomaly_map`.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.scoring import Detector
from storage import models, staging
from storage.archives import is_archive, unpack
from storage.atomic_files import temporary_beside, write_file
from storage.errors import DiskFull
from storage.listing import SourceFile
from storage.records import Model, Skipped, now
from storage.room import RESERVE_BYTES, free_bytes, size_text, told_when_full
from storage.settings import Settings
from storage.tree import is_picture
from storage.workspace import Workspace
from tuning import jobs
from tuning.batch_scoring import BatchResult, Draw, read_results, score_batch, table
from tuning.errors import BatchBusy, BatchNotFound, NoPictures
from tuning.jobs import Progress
from tuning.operating_points import threshold_of
from tuning.predictor import champion, scorer

logger = logging.getLogger(__name__)

PREFIX = "batch-"  # of the keys of the jobs
_ID = re.compile(r"[0-9a-f]{16}")
_REQUEST, _FILES, _UNPACKED = "request.json", "files", "unpacked"
_LIST, _LEFT_OUT = "list.json", "left-out.json"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures that were given to a model, and where what came of them lies."""

    id: str
    folder: Path
    dataset: str
    model_id: int
    model_version: int
    threshold: float
    origin: str  # for people: 'parts.zip', '12 files'
    created_at: datetime
    who: str


@dataclass(frozen=True, kw_only=True)
class BatchPicture:
    """One picture of a batch as a page shows it."""

    id: str  # unique in the batch
    name: str
    file: Path | None  # its bytes; None for what could not be scored
    page: int | None  # of the file, from 1, where it has several
    score: float | None
    decision: str | None  # accept or reject
    map: Path | None
    overlay: Path | None
    error: str | None


def from_upload(workspace: Workspace, dataset_name: str, upload_id: str, *, who: str) -> Batch:
    """Make a batch of a completed upload, for the dataset's present champion; the upload is gone then.

    Raises:
        NoChampion, DatasetNotFound: nobody could score it.
        UploadNotFound: there is no such upload.
        DiskFull: no room.
    """
    model = champion(workspace, dataset_name)
    settings = workspace.settings
    upload = staging.find(settings.staging_folder, upload_id)
    files = upload.source_files()
    skipped = [{"name": one.name, "reason": one.reason} for one in upload.refused]
    batch_id = token_hex(8)
    final = settings.batches_folder / batch_id
    draft = temporary_beside(final)
    try:
        with told_when_full(settings.home):
            (draft / _FILES).mkdir(parents=True)
            for place, file in enumerate(files):
                _link(file.path, draft / _FILES / f"{place:06d}")
            request = {
                "dataset": dataset_name,
                "model_id": model.id,
                "model_version": model.version,
                "threshold": threshold_of(workspace, model),
                "origin": files[0].name if len(files) == 1 else f"{len(files):,} files",
                "created_at": now().isoformat(),
                "who": who,
                "files": [file.name for file in files],
                "skipped": skipped,
            }
            write_file(draft / _REQUEST, json.dumps(request).encode())
            draft.rename(final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    staging.discard(settings.staging_folder, upload_id)
    return find(settings, batch_id)


def find(settings: Settings, batch_id: str) -> Batch:
    """The batch of this id.

    Raises:
        BatchNotFound: there is none.
    """
    # Ids come from addresses: none may lead out of the folder.
    if not _ID.fullmatch(batch_id):
        raise BatchNotFound(f"{batch_id!r} is no batch; choose one on the page Score.")
    folder = settings.batches_folder / batch_id
    try:
        told = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BatchNotFound(f"There is no batch {batch_id} any more. Choose one on the page Score.") from None
    return Batch(
        id=batch_id,
        folder=folder,
        dataset=told["dataset"],
        model_id=told["model_id"],
        model_version=told["model_version"],
        threshold=told["threshold"],
        origin=told["origin"],
        created_at=datetime.fromisoformat(told["created_at"]),
        who=told["who"],
    )


def list_batches(settings: Settings, dataset_name: str) -> list[Batch]:
    """The batches of a dataset, the newest first."""
    found = []
    for folder in settings.batches_folder.iterdir() if settings.batches_folder.is_dir() else ():
        try:
            batch = find(settings, folder.name)
        except BatchNotFound:  # half made, or deleted meanwhile
            continue
        if batch.dataset == dataset_name:
            found.append(batch)
    return sorted(found, key=lambda batch: batch.created_at, reverse=True)


def job_key(batch_id: str) -> str:
    """Key of the job that scores a batch."""
    return f"{PREFIX}{batch_id}"


def score(workspace: Workspace, batch: Batch, draw_for: Callable[[Model], Draw], progress: Progress) -> Any:
    """Score the pictures of a batch, or those that are left.

    Args:
        draw_for: answers what draws the overlays of a model.
    Raises:
        BadArchive, DiskFull, NoPictures: it can't be unpacked, there is no room, or no picture in it.
        JobCancelled: from `progress`.
    """
    with workspace.session() as session:
        model = models.get_model(session, batch.model_id)
    files = _pictures(batch, progress)
    progress(0, 0, "loading the model")
    detector: Detector = scorer(workspace, model)
    found = score_batch(
        detector, model, batch.threshold, files, batch.folder, draw=draw_for(model), progress=progress
    )
    return {
        "pictures": len(found),
        "rejected": sum(one.decision == "reject" for one in found),
        "failed": sum(one.error is not None for one in found),
    }


def results(batch: Batch) -> list[BatchPicture]:
    """What is known of the pictures by now, in the order in which they came."""
    try:
        listed = [Path(path) for _, path in json.loads((batch.folder / _LIST).read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    return [_picture(batch, one, batch.folder / listed[one.place]) for one in read_results(batch.folder)]


def left_out(batch: Batch) -> list[Skipped]:
    """Files of the batch that are no pictures, with the reason."""
    told = json.loads((batch.folder / _REQUEST).read_text(encoding="utf-8"))["skipped"]
    with contextlib.suppress(FileNotFoundError):
        told = [*told, *json.loads((batch.folder / _LEFT_OUT).read_text(encoding="utf-8"))]
    return [Skipped(**one) for one in told]


def scores_table(batch: Batch) -> str:
    """The results by now as CSV."""
    return table(read_results(batch.folder))


def anomaly_map(picture: BatchPicture) -> NDArray[np.float32]:
    """The map of a scored picture, (H, W) float32 in its own pixels.

    Raises:
        BatchNotFound: the file is gone.
    """
    if picture.map is None:
        raise ValueError(f"picture {picture.name!r} was not scored")
    try:
        values: NDArray[np.float32] = np.load(picture.map, allow_pickle=False)
    except FileNotFoundError:
        raise BatchNotFound(f"The map of '{picture.name}' is gone. Score the batch again.") from None
    return values


def archive(settings: Settings, batch: Batch) -> Path:
    """Where everything of a batch lies as one zip, once it is packed."""
    return settings.exports_folder / f"{batch.dataset}-batch-{batch.id}.zip"


def pack(settings: Settings, batch: Batch, progress: Progress) -> Any:
    """Pack table, maps and overlays into a zip that can be downloaded for a day.

    Raises:
        DiskFull: no room.
        JobCancelled: from `progress`.
    """
    target = archive(settings, batch)
    pictures = [one for one in read_results(batch.folder) if one.error is None]
    parts = [name for one in pictures for name in (one.map, one.overlay) if name]
    needed = sum((batch.folder / name).stat().st_size for name in parts)
    if free_bytes(settings.exports_folder) < needed + RESERVE_BYTES:
        raise DiskFull(
            f"The zip needs {size_text(needed)} beside {size_text(RESERVE_BYTES)} that stay free, and the disk of "
            f"{settings.exports_folder} has {size_text(free_bytes(settings.exports_folder))}. Free some space there."
        )
    draft = temporary_beside(target)
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as out:
            out.writestr("scores.csv", scores_table(batch))
            for place, name in enumerate(parts):
                progress(place, len(parts), f"packing {name}")
                out.write(batch.folder / name, name)
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)
    return {"file": target.name, "bytes": target.stat().st_size}


def delete(settings: Settings, batch_id: str) -> None:
    """Delete a batch with its pictures and results.

    Raises:
        BatchNotFound: there is none.
        BatchBusy: it is being scored.
    """
    batch = find(settings, batch_id)
    if jobs.is_running(settings, job_key(batch_id)):
        raise BatchBusy(f"Batch '{batch.origin}' is being scored. Cancel that, then delete it.")
    staging.remove(batch.folder)
    jobs.forget(settings, job_key(batch_id))
    archive(settings, batch).unlink(missing_ok=True)


def _pictures(batch: Batch, progress: Progress) -> list[SourceFile]:
    """The pictures to score; archives are unpacked once, and the list stays as it was first made."""
    folder = batch.folder
    if not (folder / _LIST).exists():
        names = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))["files"]
        given = [
            SourceFile(name=name, path=folder / _FILES / f"{place:06d}") for place, name in enumerate(names)
        ]
        shutil.rmtree(folder / _UNPACKED, ignore_errors=True)  # what a process that died left
        pictures, skipped = sort_out(given, folder / _UNPACKED, progress)
        write_file(
            folder / _LEFT_OUT,
            json.dumps([{"name": one.name, "reason": one.reason} for one in skipped]).encode(),
        )
        listed = [(file.name, str(file.path.relative_to(folder))) for file in pictures]
        write_file(folder / _LIST, json.dumps(listed).encode())
    listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
    if not listed:
        raise NoPictures(
            f"There is no picture in '{batch.origin}'. Give PNG, JPEG, BMP, TIFF or WebP files, or an archive of them."
        )
    return [SourceFile(name=name, path=folder / path) for name, path in listed]


def sort_out(
    given: Sequence[SourceFile], unpacked: Path, progress: Progress
) -> tuple[list[SourceFile], list[Skipped]]:
    """The pictures among files, those inside archives included, and what is none.

    Args:
        unpacked: where archives are unpacked to, one folder each; made when there are any.
    Raises:
        BadArchive, DiskFull: an archive can't be unpacked.
    """
    pictures: list[SourceFile] = []
    skipped: list[Skipped] = []
    for place, file in enumerate(given):
        inside = [file]
        if is_archive(file.name):
            found = unpack(file.path, unpacked / f"{place:06d}", name=file.name, progress=progress)
            skipped += [Skipped(name=one.name, reason=one.reason) for one in found.refused]
            prefix = "" if len(given) == 1 else f"{file.name}/"
            inside = [SourceFile(name=prefix + one.name, path=one.path) for one in found.files]
        for one in inside:
            if is_picture(one.name):
                pictures.append(one)
            else:
                skipped.append(Skipped(name=one.name, reason="It is no picture of a kind that is read here."))
    return pictures, skipped


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _picture(batch: Batch, one: BatchResult, file: Path) -> BatchPicture:
    _, several, number = one.name.rpartition("#")
    return BatchPicture(
        id=f"{one.place}-{number if several and number.isdecimal() else 0}",
        name=one.name,
        file=file if one.error is None else None,
        page=int(number) if several and number.isdecimal() else None,
        score=one.score,
        decision=one.decision,
        map=batch.folder / one.map if one.map else None,
        overlay=batch.folder / one.overlay if one.overlay else None,
        error=one.error,
    )
