"""Batches of pictures that were scored from a page: kept with their pictures until somebody deletes them.

`$SIMPLENET_HOME/batches/ID` holds `request.json`, what was given under `files/`, what `tuning.batch_scoring` writes,
and like an installation of its own the scored pictures (`pictures/`), their maps and what is drawn of them (`maps/`,
`thumbnails/`): seen from `within` a batch, everything that browses pictures of a dataset browses these. They belong to
no dataset, so no label is known of them, and deleting the folder leaves nothing behind.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from engine.images import decode
from engine.scoring import Detector
from storage import datasets, models, reviews, staging
from storage.archives import is_archive, unpack
from storage.atomic_files import temporary_beside, write_file
from storage.blobs import FolderBlobs
from storage.errors import DiskFull
from storage.listing import SourceFile
from storage.records import Label, Model, Review, Role, Skipped, now
from storage.room import RESERVE_BYTES, free_bytes, size_text, told_when_full
from storage.settings import Settings
from storage.thumbnails import Thumbnails
from storage.tree import is_picture
from storage.workspace import Workspace
from tuning import jobs
from tuning.batch_scoring import RESULTS, BatchResult, Draw, Keep, npy, read_results, score_batch, table
from tuning.errors import BatchBusy, BatchNotFound, NoPictures
from tuning.jobs import Progress
from tuning.map_cache import map_cache
from tuning.operating_points import threshold_of
from tuning.predictor import ScoredFile, champion, map_of, scorer

logger = logging.getLogger(__name__)

PREFIX = "batch-"  # of the keys of the jobs
_ID = re.compile(r"[0-9a-f]{16}")
_REQUEST, _FILES, _UNPACKED = "request.json", "files", "unpacked"
_LIST, _LEFT_OUT = "list.json", "left-out.json"
_PACKED_BYTES = 7  # per pixel, at most: float32 of the map, and three colours of the overlay


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
    """A scored picture of a batch; all is known of it that is known of a dataset's, but for a label."""

    id: str  # unique in the batch
    digest: str  # key of its bytes in the batch's store
    pixel_digest: str
    name: str
    height: int  # pixels
    width: int
    score: float
    decision: str  # accept or reject, by the batch's threshold
    role: Role | None = None
    label: Label | None = None
    defect_type: str | None = None
    mask_digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """What came of the pictures of a batch by now, in the order in which they came."""

    pictures: tuple[BatchPicture, ...]
    failed: tuple[BatchResult, ...]


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


def within(workspace: Workspace, batch: Batch) -> Workspace:
    """The installation with the pictures, maps and small copies of a batch in the place of those of the datasets."""
    return replace(
        workspace,
        blobs=pictures(batch),
        thumbnails=Thumbnails(batch.folder / "thumbnails"),
        maps_folder=batch.folder / "maps",
    )


def pictures(batch: Batch) -> FolderBlobs:
    """The bytes of a batch's scored pictures."""
    return FolderBlobs(batch.folder / "pictures")


def score(workspace: Workspace, batch: Batch, progress: Progress) -> Any:
    """Score the pictures of a batch, or those that are left.

    Raises:
        BadArchive, DiskFull, NoPictures: it can't be unpacked, there is no room, or no picture in it.
        JobCancelled: from `progress`.
    """
    with workspace.session() as session:
        model = models.get_model(session, batch.model_id)
    files = _pictures(batch, progress)
    progress(0, 0, "loading the model")
    detector: Detector = scorer(workspace, model)
    keep = _keeper(within(workspace, batch), model, files)
    found = score_batch(detector, model, batch.threshold, files, batch.folder, keep=keep, progress=progress)
    return {
        "pictures": len(found),
        "rejected": sum(one.decision == "reject" for one in found),
        "failed": sum(one.error is not None for one in found),
    }


def results(batch: Batch) -> Results:
    """What is known of the pictures by now; a batch of thousands is read in a fraction of a second."""
    found = read_results(batch.folder)
    return Results(
        pictures=tuple(picture for one in found if (picture := _picture(one)) is not None),
        failed=tuple(one for one in found if one.error is not None),
    )


def stamp(batch: Batch) -> tuple[int, int]:
    """What differs once `results` would."""
    try:
        about = (batch.folder / RESULTS).stat()
    except FileNotFoundError:
        return 0, 0
    return about.st_mtime_ns, about.st_size


def left_out(batch: Batch) -> list[Skipped]:
    """Files of the batch that are no pictures, with the reason."""
    told = json.loads((batch.folder / _REQUEST).read_text(encoding="utf-8"))["skipped"]
    with contextlib.suppress(FileNotFoundError):
        told = [*told, *json.loads((batch.folder / _LEFT_OUT).read_text(encoding="utf-8"))]
    return [Skipped(**one) for one in told]


def scores_table(batch: Batch) -> str:
    """The results by now as CSV."""
    return table(read_results(batch.folder))


def archive(settings: Settings, batch: Batch) -> Path:
    """Where everything of a batch lies as one zip, once it is packed."""
    return settings.exports_folder / f"{batch.dataset}-batch-{batch.id}.zip"


def pack(workspace: Workspace, batch: Batch, draw_for: Callable[[Model], Draw], progress: Progress) -> Any:
    """Pack table, maps and overlays into a zip that can be downloaded for a day.

    Args:
        draw_for: answers what draws the overlays of a model.
    Raises:
        DiskFull: no room.
        JobCancelled: from `progress`.
    """
    settings = workspace.settings
    target = archive(settings, batch)
    done = [(one, picture) for one in read_results(batch.folder) if (picture := _picture(one)) is not None]
    needed = sum(_PACKED_BYTES * picture.height * picture.width for _, picture in done)
    if free_bytes(settings.exports_folder) < needed + RESERVE_BYTES:
        raise DiskFull(
            f"The zip may need {size_text(needed)} beside {size_text(RESERVE_BYTES)} that stay free, and the disk of "
            f"{settings.exports_folder} has {size_text(free_bytes(settings.exports_folder))}. Free some space there."
        )
    with workspace.session() as session:
        model = models.get_model(session, batch.model_id)
    inside, draw = within(workspace, batch), draw_for(model)
    draft = temporary_beside(target)
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as out:
            out.writestr("scores.csv", scores_table(batch))
            for place, (one, picture) in enumerate(done):
                progress(place, len(done), f"packing {one.name}")
                anomaly_map = map_of(inside, model, picture)[1]
                out.writestr(str(one.map), npy(anomaly_map))
                pixels = decode(inside.blobs.get(picture.digest), one.name)
                out.writestr(str(one.overlay), draw(pixels, anomaly_map))
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)
    return {"file": target.name, "bytes": target.stat().st_size}


def delete(workspace: Workspace, batch_id: str) -> None:
    """Delete a batch with its pictures, what came of them, and the marks on them that went into no version.

    Raises:
        BatchNotFound: there is none.
        BatchBusy: it is being scored.
    """
    settings = workspace.settings
    batch = find(settings, batch_id)
    working = [job_key(batch_id), *_keys_of_others(settings, batch_id)]
    if any(jobs.is_running(settings, key) for key in working):
        raise BatchBusy(f"Batch '{batch.origin}' is being scored. Cancel that, then delete it.")
    with workspace.session() as session:
        for review in open_marks(workspace, batch):
            reviews.forget_review(session, review.id)
    staging.remove(batch.folder)
    for key in working:
        jobs.forget(settings, key)
    archive(settings, batch).unlink(missing_ok=True)


def open_marks(workspace: Workspace, batch: Batch) -> list[Review]:
    """What people said of pictures of a batch that are in no version of the dataset yet."""
    with workspace.session() as session:
        said = reviews.list_reviews(session, batch.dataset)
        digests = {one.pixel_digest for one in results(batch).pictures} & said.keys()
        latest = datasets.latest_version(session, batch.dataset)
        digests -= datasets.find_images(session, latest.id, digests).keys()
    return [said[digest] for digest in sorted(digests) if said[digest].version_id is None]


def _keys_of_others(settings: Settings, batch_id: str) -> list[str]:
    """Keys of the jobs of `tuning.scoring` that score a batch under other models."""
    return [key for key in jobs.keys(settings, "scores-") if key.endswith(f"-{PREFIX}{batch_id}")]


def _keeper(inside: Workspace, model: Model, files: Sequence[SourceFile]) -> Keep:
    """Keeps scored pictures and their maps where everything that browses pictures looks for them."""
    cache = map_cache(inside, model)

    def keep(result: BatchResult, item: ScoredFile) -> None:
        if item.page is None:  # it lies in the batch's folder already, and needs no room but for a name
            path = inside.blobs.path(str(result.digest))
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # there is one, or the file system has no links
                os.link(files[result.place].path, path)
        inside.blobs.put(item.data, settled=False)
        cache.put(str(result.pixel_digest), item.score, item.anomaly_map)

    return keep


def _pictures(batch: Batch, progress: Progress) -> list[SourceFile]:
    """The pictures to score; archives are unpacked once, and the list stays as it was first made."""
    folder = batch.folder
    if not (folder / _LIST).exists():
        names = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))["files"]
        given = [
            SourceFile(name=name, path=folder / _FILES / f"{place:06d}") for place, name in enumerate(names)
        ]
        shutil.rmtree(folder / _UNPACKED, ignore_errors=True)  # what a process that died left
        pictures, skipped = sort_out(
            given,
            folder / _UNPACKED,
            lambda done, total, name: progress(done, total, f"{jobs.UNPACKING} {name}"),
        )
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


def _picture(one: BatchResult) -> BatchPicture | None:
    """None where it could not be scored."""
    if (
        one.score is None
        or one.decision is None
        or one.digest is None
        or one.pixel_digest is None
        or one.height is None
        or one.width is None
    ):
        return None
    return BatchPicture(
        id=f"{one.place}-{one.page or 0}",
        digest=one.digest,
        pixel_digest=one.pixel_digest,
        name=one.name,
        height=one.height,
        width=one.width,
        score=one.score,
        decision=one.decision,
    )
