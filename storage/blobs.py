"""Files of images and masks, stored once each under the SHA-256 of their bytes."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from storage.atomic_files import sync_file, sync_folder, write_file
from storage.errors import BlobMissing, BlobsUnavailable, StorageError
from storage.room import told_when_full

DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20


class BlobStore(ABC):
    """Immutable files by digest; may be shared by threads, processes and machines.

    `ab12….` lies in the subfolder `ab`, so that no folder holds more than a few hundred of 100,000 files. Every place
    is arranged so: files may be copied from one to another by any means.

    Raises:
        BlobsUnavailable: the place is out of reach; every method that looks there.
    """

    where: str  # the place, for people
    folder: Path  # of the files on this machine: all there are, or copies of some

    @abstractmethod
    def put(self, data: bytes, *, settled: bool = True) -> str:
        """Store bytes; those stored already are left alone. They appear whole or not at all.

        Args:
            settled: whether they must survive a power cut at once; if not, call `settle` before anything points
                to them. Thousands of files are written several times as fast so.
        Returns:
            Their SHA-256 in hex, the key to get them back.
        Raises:
            DiskFull: there is no room for them.
        """

    @abstractmethod
    def settle(self, digests: Iterable[str]) -> None:
        """Make sure of stored bytes: afterwards they survive a power cut.

        Raises:
            BlobMissing: one of them is not there any more.
            OSError: the disk could not keep what it had taken.
        """

    def get(self, digest: str) -> bytes:
        """The bytes stored under a digest.

        Raises:
            BlobMissing: there are none, or they are not those that were stored.
        """
        return b"".join(self.chunks(digest))

    @abstractmethod
    def chunks(self, digest: str, size: int = _CHUNK_BYTES) -> Iterator[bytes]:
        """The bytes stored under a digest, a part at a time, for files that are only passed on.

        Raises:
            BlobMissing: there are none; or, at the end, what was read is not what was stored.
        """

    @abstractmethod
    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """Digest → bytes of the file stored under it; those without one are left out."""

    def size(self, digest: str) -> int:
        """Bytes of the file that is stored under a digest.

        Raises:
            BlobMissing: there is none.
        """
        sizes = self.sizes([digest])
        if digest not in sizes:
            raise self._missing(digest)
        return sizes[digest]

    def has(self, digest: str) -> bool:
        """Whether a file is stored under a digest."""
        return digest in self.sizes([digest])

    @abstractmethod
    def path(self, digest: str) -> Path:
        """A file of the bytes on this machine, for readers that want a path; to be opened at once.

        Raises:
            BlobMissing: this is no SHA-256 in hex, so nothing can lie under it.
        """

    @abstractmethod
    def __iter__(self) -> Iterator[str]:
        """The digests of all that is stored, in no order."""

    def _missing(self, digest: str) -> StorageError:
        return BlobMissing(
            f"File {digest} is not in {self.where}. Ingest the pictures again, or restore it from a backup."
        )

    def _damaged(self, digest: str, length: int, remedy: str) -> BlobMissing:
        return BlobMissing(
            f"File {digest} in {self.where} is damaged ({length} bytes with another digest). {remedy}"
        )


class FolderBlobs(BlobStore):
    """A folder that exists, on this machine's disk or on one that several machines have mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = str(folder)

    def put(self, data: bytes, *, settled: bool = True) -> str:
        """Store bytes; see `BlobStore.put`."""
        digest = sha256(data).hexdigest()
        path = self.path(digest)
        # A disk may lose what it had promised and keep the length, as zeros: what differs is written again.
        if not _holds(path, data):
            with told_when_full(self.folder):
                try:
                    # Not its parents: a shared folder that is not mounted now must not be made anew beneath.
                    path.parent.mkdir(exist_ok=True)
                except FileNotFoundError:
                    raise self._away() from None
                write_file(path, data, settled=settled)
        return digest

    def settle(self, digests: Iterable[str]) -> None:
        """Have the disk keep what it took; see `BlobStore.settle`."""
        paths = [self.path(digest) for digest in digests]
        with told_when_full(self.folder):
            for path in paths:
                try:
                    sync_file(path)
                except FileNotFoundError:
                    raise self._missing(path.name) from None
            for folder in {path.parent for path in paths}:
                sync_folder(folder)

    def chunks(self, digest: str, size: int = _CHUNK_BYTES) -> Iterator[bytes]:
        """Read the file; see `BlobStore.chunks`."""
        found, length = sha256(), 0
        try:
            with self.path(digest).open("rb") as file:
                while part := file.read(size):
                    found.update(part)
                    length += len(part)
                    yield part
        except FileNotFoundError:
            raise self._missing(digest) from None
        if found.hexdigest() != digest:
            remedy = "Ingest the same pictures again, which mends it, or restore it from a backup."
            raise self._damaged(digest, length, remedy)

    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """Sizes of files; see `BlobStore.sizes`."""
        found = {}
        for digest in digests:
            try:
                found[digest] = self.path(digest).stat().st_size
            except FileNotFoundError:
                continue
        if not found and not self.folder.is_dir():
            raise self._away()
        return found

    def path(self, digest: str) -> Path:
        """Where the file of a digest lies or would lie."""
        # Digests come from addresses of pages too: none may lead out of the folder.
        return self.folder / key_of(digest)

    def __iter__(self) -> Iterator[str]:
        """Look through all subfolders."""
        if not self.folder.is_dir():
            raise self._away()
        return (file.name for file in self.folder.glob("??/*") if DIGEST.fullmatch(file.name))

    def _missing(self, digest: str) -> StorageError:
        return super()._missing(digest) if self.folder.is_dir() else self._away()

    def _away(self) -> BlobsUnavailable:
        return BlobsUnavailable(
            f"The folder of pictures {self.folder} is not there. Mount the disk that it lies on, or set "
            "SIMPLENET_BLOBS_URL to where the pictures are, then try again."
        )


def key_of(digest: str) -> str:
    """Where the file of a digest lies below its store.

    Raises:
        BlobMissing: this is no SHA-256 in hex, so nothing can lie under it.
    """
    if not DIGEST.fullmatch(digest):
        raise BlobMissing(f"{digest!r} is no digest; it must be 64 lowercase hexadecimal digits.")
    return f"{digest[:2]}/{digest}"


def _holds(path: Path, data: bytes) -> bool:
    """Whether a file holds these bytes; read a part at a time, for there may be much of them."""
    rest = memoryview(data)
    try:
        with path.open("rb") as file:
            while part := file.read(_CHUNK_BYTES):
                if part != rest[: len(part)]:
                    return False
                rest = rest[len(part) :]
    except FileNotFoundError:
        return False
    return not rest
