"""Files of images and masks, stored once each under the SHA-256 of their bytes."""

import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from storage.atomic_files import sync_file, sync_folder, write_file
from storage.errors import BlobMissing

_DIGEST = re.compile(r"[0-9a-f]{64}")


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
        # The size differs where a disk lost what it had promised: then it is written again.
        if not path.is_file() or path.stat().st_size != len(data):
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
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise BlobMissing(
                f"File {digest} is not in {self.folder}. "
                "Ingest the pictures again, or restore the folder from a backup."
            ) from None
        if sha256(data).hexdigest() != digest:
            raise BlobMissing(
                f"File {digest} in {self.folder} is damaged ({len(data)} bytes with another digest). "
                "Delete it and ingest the pictures again, or restore it from a backup."
            )
        return data

    def path(self, digest: str) -> Path:
        """Where the file of a digest lies or would lie; for readers that want a path.

        Raises:
            BlobMissing: this is no SHA-256 in hex, so nothing can lie under it.
        """
        # Digests come from addresses of pages too: none may lead out of the folder.
        if not _DIGEST.fullmatch(digest):
            raise BlobMissing(f"Digest {digest!r} is none; it must be 64 lowercase hexadecimal digits.")
        return self.folder / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Whether a file is stored under a digest."""
        return self.path(digest).is_file()
