"""Files of images and masks, stored once each under the SHA-256 of their bytes."""

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from storage.atomic_files import sync_file, sync_folder, write_file
from storage.errors import BlobMissing

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20


class BlobStore:
    """A folder of immutable files; may be shared by threads, processes and machines.

    `ab12….` lies in the subfolder `ab`, so that no folder holds more than a few hundred of 100,000 files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, data: bytes, *, settled: bool = True) -> str:
        """Store bytes; those stored already are left alone.

        Args:
            settled: whether they must survive a power cut at once; if not, call `settle` before anything points
                to them. Thousands of files are written several times as fast so.
        Returns:
            Their SHA-256 in hex, the key to get them back.
        """
        digest = sha256(data).hexdigest()
        path = self.path(digest)
        # A disk may lose what it had promised and keep the length, as zeros: what differs is written again.
        if not _holds(path, data):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, data, settled=settled)
        return digest

    def settle(self, digests: Iterable[str]) -> None:
        """Make stored bytes survive a power cut.

        Raises:
            OSError: the disk could not keep what it had taken.
        """
        paths = [self.path(digest) for digest in digests]
        for path in paths:
            sync_file(path)
        for folder in {path.parent for path in paths}:
            sync_folder(folder)

    def get(self, digest: str) -> bytes:
        """The bytes stored under a digest.

        Raises:
            BlobMissing: there are none, or they are not those that were stored.
        """
        return b"".join(self.chunks(digest))

    def chunks(self, digest: str, size: int = _CHUNK_BYTES) -> Iterator[bytes]:
        """The bytes stored under a digest, a part at a time, for files that are only passed on.

        Raises:
            BlobMissing: there are none; or, at the end, what was read is not what was stored.
        """
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
            raise BlobMissing(
                f"File {digest} in {self.folder} is damaged ({length} bytes with another digest). "
                "Ingest the same pictures again, which mends it, or restore it from a backup."
            )

    def size(self, digest: str) -> int:
        """Bytes of the file that is stored under a digest.

        Raises:
            BlobMissing: there is none.
        """
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise self._missing(digest) from None

    def path(self, digest: str) -> Path:
        """Where the file of a digest lies or would lie; for readers that want a path.

        Raises:
            BlobMissing: this is no SHA-256 in hex, so nothing can lie under it.
        """
        # Digests come from addresses of pages too: none may lead out of the folder.
        if not _DIGEST.fullmatch(digest):
            raise BlobMissing(f"{digest!r} is no digest; it must be 64 lowercase hexadecimal digits.")
        return self.folder / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Whether a file is stored under a digest."""
        return self.path(digest).is_file()

    def _missing(self, digest: str) -> BlobMissing:
        return BlobMissing(
            f"File {digest} is not in {self.folder}. "
            "Ingest the pictures again, or restore the folder from a backup."
        )


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
