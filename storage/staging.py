"""Uploads on their way in: files grow under numbers in a folder of the upload, whose list tells their names.

`<id>/upload.json` is written whole, when the upload begins and when it is complete. `<id>/data/000000` and so on hold
what has arrived; how much that is, their sizes tell, so nothing has to be kept in step when a process dies. Names that
somebody gave are never used as paths.
"""

import errno
import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from typing import Any

from storage.atomic_files import TEMPORARY_PREFIX, sync_folder, temporary_beside, write_file
from storage.errors import (
    BadUpload,
    DiskFull,
    OffsetMismatch,
    UploadIncomplete,
    UploadNotFound,
    UploadTooLarge,
)
from storage.listing import SourceFile
from storage.names import check_name
from storage.records import Skipped
from storage.room import NO_ROOM, RESERVE_BYTES, free_bytes, size_text

logger = logging.getLogger(__name__)

TO_SCORE = "to score: "  # before a dataset's name, as what an upload is meant for that becomes no dataset

_ID = re.compile(r"[0-9a-f]{32}")
_LIST, _DATA = "upload.json", "data"
_SYNCED_ONE_BY_ONE = 64  # more files than these are faster written out with all that the machine holds back


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one upload may take."""

    max_bytes: float
    max_files: int = 200_000
    reserve_bytes: float = RESERVE_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedFile:
    """One file as it was announced."""

    name: str
    size: int  # bytes


@dataclass(frozen=True)
class Position:
    """Where the next byte belongs."""

    index: int  # of the file; one past the last once all are whole
    offset: int  # bytes into it


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What was announced, and whether all of it has arrived."""

    id: str
    folder: Path
    dataset: str  # what it is meant for; any text
    fingerprint: str  # equal for the same files chosen again; empty: not to be resumed
    files: tuple[StagedFile, ...]
    size: int  # bytes of all files
    created: datetime
    completed: datetime | None
    refused: tuple[Skipped, ...] = ()  # files that were chosen too and never sent

    def path(self, index: int) -> Path:
        """Where the bytes of a file lie; there is nothing before the first of them came."""
        return self.folder / _DATA / f"{index:06d}"

    def source_files(self) -> tuple[SourceFile, ...]:
        """The files of a completed upload, in the order in which they were announced."""
        return tuple(
            SourceFile(name=file.name, path=self.path(index)) for index, file in enumerate(self.files)
        )


def create(
    folder: Path,
    *,
    files: Sequence[tuple[str, int]],
    dataset: str,
    limits: Limits,
    now: datetime,
    fingerprint: str = "",
    refused: Sequence[Skipped] = (),
) -> Upload:
    """Begin an upload of files of these names and sizes in bytes.

    Args:
        refused: files that were chosen too and can't be taken, kept to be told with the others.
    Raises:
        BadUpload: there are no files, a name is given twice, or a size is below 0.
        BadName: see `storage.names.check_name`.
        UploadTooLarge: more bytes or files than the limits allow.
        DiskFull: the disk has no room for all of it beside the reserve.
    """
    total = _check_announced(files, limits)
    folder.mkdir(parents=True, exist_ok=True)
    check_room(folder, total, limits)
    upload = Upload(
        id=token_hex(16),
        folder=folder,
        dataset=dataset,
        fingerprint=fingerprint,
        files=tuple(StagedFile(name=name, size=size) for name, size in files),
        size=total,
        created=now,
        completed=None,
        refused=tuple(refused),
    )
    final = folder / upload.id
    temporary = temporary_beside(final)
    try:
        (temporary / _DATA).mkdir(parents=True)
        _write_list(temporary, upload)
        temporary.rename(final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _explained(error, upload) from error
    sync_folder(folder)
    return replace(upload, folder=final)


def find(folder: Path, upload_id: str) -> Upload:
    """The upload of this id.

    Raises:
        UploadNotFound: there is none.
    """
    # Ids come from addresses: none may lead out of the folder.
    if not _ID.fullmatch(upload_id):
        raise UploadNotFound(
            f"{upload_id!r} is no upload; an upload's id is 32 lowercase hexadecimal digits."
        )
    file = folder / upload_id / _LIST
    try:
        status = file.stat()
        return _read(file, status.st_mtime_ns, status.st_ino)
    except FileNotFoundError:
        raise _not_found(upload_id) from None


def find_unfinished(folder: Path, *, dataset: str, fingerprint: str) -> Upload | None:
    """The youngest upload of the same files for the same dataset that is not complete."""
    for upload in list_uploads(folder):
        same = (upload.dataset, upload.fingerprint) == (dataset, fingerprint)
        if same and fingerprint and upload.completed is None:
            return upload
    return None


def list_uploads(folder: Path) -> list[Upload]:
    """All uploads, the youngest first; what is no upload is left out."""
    found = []
    for entry in os.scandir(folder) if folder.is_dir() else ():
        try:
            found.append(find(folder, entry.name))
        except UploadNotFound:  # half made, or discarded meanwhile
            continue
    return sorted(found, key=lambda upload: upload.created, reverse=True)


def received(upload: Upload) -> list[int]:
    """Bytes that have arrived of each file.

    Raises:
        UploadNotFound: the upload was discarded meanwhile.
    """
    sizes = [0] * len(upload.files)
    try:
        with os.scandir(upload.folder / _DATA) as entries:
            for entry in entries:
                sizes[int(entry.name)] = entry.stat().st_size
    except FileNotFoundError:
        raise _not_found(upload.id) from None
    return sizes


def position(upload: Upload, first: int, last: int) -> Position:
    """Where the files from `first` to `last` go on: at the first of them that is not whole.

    Raises:
        BadUpload: the upload has no such files.
        UploadNotFound: it was discarded meanwhile.
    """
    if not 0 <= first <= last < len(upload.files):
        raise BadUpload(
            f"Files {first} to {last} are asked for, but the upload has files 0 to {len(upload.files) - 1}. "
            "Reload the page and choose the files again."
        )
    if not upload.folder.is_dir():
        raise _not_found(upload.id)
    for index in range(first, last + 1):
        try:
            size = upload.path(index).stat().st_size
        except FileNotFoundError:
            size = 0
        if size < upload.files[index].size:
            return Position(index, size)
    return Position(last + 1, 0)


def append(upload: Upload, at: Position, last: int, data: bytes | bytearray | memoryview) -> Position:
    """Write bytes at a position, going on into the next files up to `last`.

    Each file is locked while it is written, and nothing is written where its size is not what the caller believes:
    the same bytes may be sent again, or by two at once, and arrive once.

    Returns:
        Where the next byte belongs.
    Raises:
        OffsetMismatch: the upload goes on elsewhere.
        UploadTooLarge: there are more bytes than were announced; those announced are written.
        DiskFull: no room; a part may be written, so ask for the position before going on.
        UploadNotFound: the upload was discarded meanwhile.
    """
    index, offset = at.index, at.offset
    rest = memoryview(data)
    while rest:
        if index > last:
            raise UploadTooLarge(
                f"The body is {len(rest)} bytes longer than what was announced for files up to "
                f"{last}. Reload the page and choose the files again."
            )
        part = rest[: max(0, upload.files[index].size - offset)]
        if part:
            offset = _append_to_file(upload, index, offset, last, part)
            rest = rest[len(part) :]
        if offset >= upload.files[index].size:
            index, offset = index + 1, 0
    while index <= last and not upload.files[index].size:  # nothing is to come of an empty one
        index += 1
    return Position(index, offset)


def complete(upload: Upload, now: datetime) -> Upload:
    """Mark an upload as complete, once all files are whole and safe from a power cut.

    Raises:
        UploadIncomplete: files are missing bytes; the message names some.
        DiskFull, UploadNotFound: as in `append`.
    """
    if upload.completed:
        return upload
    missing = [
        file.name
        for file, size in zip(upload.files, received(upload), strict=True)
        if size != file.size  # never above: `append` stops there
    ]
    if missing:
        named = ", ".join(repr(name) for name in missing[:5]) + (" and others" if len(missing) > 5 else "")
        raise UploadIncomplete(
            f"{len(missing)} of {len(upload.files)} files have not arrived whole: {named}. "
            "Choose the same files again: the upload goes on where it stopped."
        )
    done = replace(upload, completed=now)
    try:
        for index, file in enumerate(upload.files):
            if not file.size:
                upload.path(index).touch()
        _write_out(upload)
        _write_list(upload.folder, done)
    except OSError as error:
        raise _explained(error, upload) from error
    return done


def discard(folder: Path, upload_id: str) -> None:
    """Delete an upload; one that is being sent stops.

    Raises:
        UploadNotFound: there is none.
    """
    if not remove(find(folder, upload_id).folder):
        raise _not_found(upload_id)


def remove(folder: Path) -> bool:
    """Delete the folder of one upload; answers whether there was one.

    Under its name it is gone at once, however long its files take; if this process dies meanwhile, `sweep` ends it.
    """
    doomed = temporary_beside(folder)
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return False
    shutil.rmtree(doomed, ignore_errors=True)
    return True


def last_change(upload: Upload) -> datetime:
    """When the last bytes came, the upload was begun or completed, or something was decided about it."""
    try:
        return _last_written(upload.folder)
    except FileNotFoundError:
        raise _not_found(upload.id) from None


def sweep(
    folder: Path, now: datetime, older_than: timedelta, *, keep: Collection[str] = frozenset()
) -> list[str]:
    """Delete uploads that nothing was added to for so long, and what a dead process left half made or half deleted.

    Whatever else lies in the folder is left alone. What can't be deleted is logged, and hinders nothing else.

    Args:
        keep: ids of uploads that are being worked on.
    Returns:
        Ids of the uploads that were deleted.
    """
    swept = []
    for entry in list(os.scandir(folder)) if folder.is_dir() else ():
        left = entry.name.startswith(TEMPORARY_PREFIX)
        if entry.name in keep or not (left or _ID.fullmatch(entry.name)):
            continue
        try:
            if _last_written(Path(entry.path)) >= now - older_than:
                continue
            if left:
                shutil.rmtree(entry.path, ignore_errors=True)
            elif remove(Path(entry.path)):
                swept.append(entry.name)
        except FileNotFoundError:  # deleted by another process
            continue
        except OSError:  # perhaps another user's
            logger.warning("upload can not be removed", extra={"path": entry.path}, exc_info=True)
    return swept


def _last_written(folder: Path) -> datetime:
    """When a file was last written in the folder of an upload, or it was made where it has none.

    What was unpacked of it does not count: that may be many files, and something is written beside them at the end.
    """
    times = []
    for part in (folder, folder / _DATA):
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(part) as entries:
            times += [entry.stat().st_mtime for entry in entries if entry.is_file()]
    return datetime.fromtimestamp(max(times, default=folder.stat().st_mtime), UTC)


def check_room(folder: Path, wanted: int, limits: Limits) -> None:
    """Refuse to write so many bytes where the disk would fall below its reserve.

    Raises:
        DiskFull: it would.
    """
    free = free_bytes(folder)
    if wanted + limits.reserve_bytes > free:
        raise DiskFull(
            f"The upload needs {size_text(wanted)}, but the server's disk of {folder} has {size_text(free)} free, "
            f"{size_text(limits.reserve_bytes)} of which stay in reserve. "
            "Free some space on the server, then try again."
        )


def _check_announced(files: Sequence[tuple[str, int]], limits: Limits) -> int:
    """The sum of the sizes, if the list of files breaks no rule."""
    if not files:
        raise BadUpload("The upload has no files. Choose at least one.")
    if len(files) > limits.max_files:
        raise UploadTooLarge(
            f"The upload has {len(files)} files; at most {limits.max_files} can come at once. "
            "Pack them into a zip, or upload them in parts."
        )
    seen = set()
    for name, size in files:
        check_name(name)
        if name in seen:
            raise BadUpload(f"File {name!r} is given twice. Choose each file once.")
        if size < 0:
            raise BadUpload(f"File {name!r} is announced with {size} bytes; a size is at least 0.")
        seen.add(name)
    total = sum(size for _, size in files)
    if total > limits.max_bytes:
        raise UploadTooLarge(
            f"The upload has {size_text(total)}; at most {size_text(limits.max_bytes)} can come at once. "
            "Upload it in parts, or raise the setting upload_max_gb."
        )
    return total


def _append_to_file(upload: Upload, index: int, offset: int, last: int, data: memoryview) -> int:
    """Write bytes that fit into one file; answers its new size."""
    try:
        descriptor = os.open(upload.path(index), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_size != offset:
                true = position(upload, index, last)
                raise OffsetMismatch(
                    f"File {upload.files[index].name!r} does not go on at byte {offset}: perhaps another page "
                    "uploads it too. Go on where the server is.",
                    index=true.index,
                    offset=true.offset,
                )
            while data:
                written = os.pwrite(descriptor, data, offset)
                data, offset = data[written:], offset + written
        finally:
            os.close(descriptor)  # and unlock
    except OSError as error:
        raise _explained(error, upload) from error
    return offset


def _explained(error: OSError, upload: Upload) -> Exception:
    """What an error of the system means for the upload; the error itself if nobody foresaw it."""
    if error.errno in NO_ROOM:
        return DiskFull(
            f"The server's disk of {upload.folder.parent} is full: {size_text(free_bytes(upload.folder.parent))} free. "
            f"The upload needs {size_text(upload.size)} in all. What has arrived is kept: free some space on the "
            "server, then go on with the upload."
        )
    if error.errno == errno.ENOENT:
        return _not_found(upload.id)
    return error


def _not_found(upload_id: str) -> UploadNotFound:
    return UploadNotFound(
        f"Upload {upload_id} is not on the server, or not any more: it was discarded, or nothing came for days. "
        "Choose the files again."
    )


def _write_out(upload: Upload) -> None:
    """Make all files survive a power cut."""
    if len(upload.files) > _SYNCED_ONE_BY_ONE:
        os.sync()
        return
    for index in range(len(upload.files)):
        with upload.path(index).open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(upload.folder / _DATA)


def _write_list(folder: Path, upload: Upload) -> None:
    values = {
        "id": upload.id,
        "dataset": upload.dataset,
        "fingerprint": upload.fingerprint,
        "created": upload.created.isoformat(),
        "completed": upload.completed.isoformat() if upload.completed else None,
        "files": [[file.name, file.size] for file in upload.files],
        "refused": [[one.name, one.reason] for one in upload.refused],
    }
    write_file(folder / _LIST, json.dumps(values, ensure_ascii=False).encode())


@lru_cache(maxsize=16)
def _read(file: Path, mtime_ns: int, inode: int) -> Upload:  # noqa: ARG001 (another file is read anew)
    """The list of an upload; that of 20,000 files has 1 MB, and every slice asks for it."""
    values: dict[str, Any] = json.loads(file.read_bytes())
    files = tuple(StagedFile(name=name, size=size) for name, size in values["files"])
    return Upload(
        id=values["id"],
        folder=file.parent,
        dataset=values["dataset"],
        fingerprint=values["fingerprint"],
        files=files,
        size=sum(each.size for each in files),
        created=datetime.fromisoformat(values["created"]),
        completed=datetime.fromisoformat(values["completed"]) if values["completed"] else None,
        refused=tuple(Skipped(name=name, reason=reason) for name, reason in values.get("refused", ())),
    )
