"""A dataset version as a zip in the layout of MVTec AD, for other tools and for keeping."""

import csv
import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage import datasets
from storage.atomic_files import sync_folder, temporary_beside
from storage.blobs import BlobStore
from storage.errors import DiskFull
from storage.records import DatasetVersion, ImageRecord, Label, Role
from storage.room import NO_ROOM, size_text
from storage.workspace import Workspace
from tuning.errors import ExportFailed
from tuning.export_names import Names, picture_suffix, safe_stem, safe_type

Progress = Callable[[int, int, str], None]
DATE = (1980, 1, 1, 0, 0, 0)  # the same version gives the same archive
ENTRY_BYTES = 512  # more than a zip keeps of a file beside its bytes


@dataclass(frozen=True, kw_only=True)
class _Member:
    """One picture and where it lies in the zip."""

    image: ImageRecord
    path: str
    mask_path: str | None


def export_version(
    workspace: Workspace,
    version: DatasetVersion,
    out: Path,
    *,
    reserve_bytes: float = 0,
    progress: Progress | None = None,
) -> int:
    """Write train/good, test/good, test/<type>, ground_truth/<type>/<name>_mask.png, and a table of all in roles.txt.

    Pictures and masks go in byte for byte, a part at a time. The file appears whole, or not at all; one that was there
    is replaced.

    Args:
        reserve_bytes: that stay free on the disk.
    Returns:
        Its size in bytes.
    Raises:
        DiskFull: there is no room for it.
        ExportFailed: it can't be written there for another reason.
        BlobMissing: a picture is gone or damaged.
    """
    with workspace.session() as session:
        images = datasets.list_images(session, version.id)
    if out.is_dir():
        raise ExportFailed(f"'{out}' is a folder; an export is one file. Add its name: {out / 'parts.zip'}.")
    temporary = temporary_beside(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _check_space(workspace.blobs, images, out, reserve_bytes)
        with temporary.open("xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                _write(archive, workspace.blobs, list(_members(workspace.blobs, images)), progress)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
        sync_folder(out.parent)
        return out.stat().st_size
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(
                f"Archive '{out}' can't be written: {error.strerror}. Free some space and try again."
            ) from error
        raise ExportFailed(
            f"Archive '{out}' can't be written: {error.strerror or error}. Choose a folder that you may write to."
        ) from error
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)


def _members(blobs: BlobStore, images: Sequence[ImageRecord]) -> Iterator[_Member]:
    names = Names()
    folders: dict[str | None, str] = {}
    for image in images:
        anomalous = image.label is Label.ANOMALOUS
        if anomalous and image.defect_type not in folders:
            folders[image.defect_type] = names.take("", safe_type(image.defect_type))
        folder = folders[image.defect_type] if anomalous else "good"
        top = "train" if image.role in (Role.TRAIN, Role.CALIBRATION) else "test"
        stem = names.take(f"{top}/{folder}", safe_stem(image.name))
        suffix = picture_suffix(image.name, next(blobs.chunks(image.digest, size=12), b""))
        mask = f"ground_truth/{folder}/{stem}_mask.png" if image.mask_digest else None
        yield _Member(image=image, path=f"{top}/{folder}/{stem}{suffix}", mask_path=mask)


def _write(
    archive: zipfile.ZipFile, blobs: BlobStore, members: Sequence[_Member], progress: Progress | None
) -> None:
    def add(path: str, digest: str) -> None:
        info = zipfile.ZipInfo(path, DATE)
        info.file_size = blobs.size(digest)  # decides whether the entry is of the kind for large files
        info.external_attr = 0o644 << 16  # else Unix unpacks files that nobody may read
        with archive.open(info, "w") as entry:
            for part in blobs.chunks(digest):
                entry.write(part)

    for done, member in enumerate(members):
        if progress is not None:
            progress(done, len(members), member.image.name)
        add(member.path, member.image.digest)
        if member.mask_path is not None and member.image.mask_digest is not None:
            add(member.mask_path, member.image.mask_digest)
    # Not .csv: a list of pictures would decide over the folders when the archive is read again.
    table = zipfile.ZipInfo("roles.txt", DATE)
    table.external_attr = 0o644 << 16
    archive.writestr(table, _table(members))
    if progress is not None:
        progress(len(members), len(members), "all pictures packed")


def _table(members: Iterable[_Member]) -> str:
    rows = io.StringIO()
    table = csv.writer(rows)
    table.writerow(["file", "name", "role", "label", "defect type", "mask", "sha256", "sha256 of pixels"])
    for member in members:
        image = member.image
        table.writerow(
            [
                member.path,
                image.name,
                image.role.value,
                image.label.value,
                image.defect_type or "",
                member.mask_path or "",
                image.digest,
                image.pixel_digest,
            ]
        )
    return rows.getvalue()


def _check_space(blobs: BlobStore, images: Sequence[ImageRecord], out: Path, reserve_bytes: float) -> None:
    """Say now, not after minutes, that the archive won't fit."""
    digests = [
        digest for image in images for digest in (image.digest, image.mask_digest) if digest is not None
    ]
    needed = sum(blobs.sizes(digests).values()) + ENTRY_BYTES * len(digests)
    free = shutil.disk_usage(out.parent).free
    if needed + reserve_bytes > free:
        reserve = f", {size_text(reserve_bytes)} of which stay in reserve" if reserve_bytes else ""
        raise DiskFull(
            f"Archive '{out}' needs {size_text(needed)}, and its disk has {size_text(free)} free{reserve}. Free some "
            "space, or write to another disk."
        )
