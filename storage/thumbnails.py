"""Small copies of pictures, made once and kept beside the pictures; may be deleted at any time."""

from pathlib import Path

from storage.atomic_files import temporary_beside
from storage.blobs import FolderBlobs

_END_OF_JPEG = b"\xff\xd9"


class Thumbnails:
    """A folder of JPEG files by the digest of the picture that each is a copy of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = FolderBlobs(folder)  # the same rule: no digest leads out of the folder

    def path(self, digest: str) -> Path:
        """Where the copy of a picture lies or would lie.

        Raises:
            BlobMissing: this is no digest.
        """
        return self._files.path(digest).with_suffix(".jpg")

    def get(self, digest: str) -> bytes | None:
        """The copy of a picture; None where there is none yet, or a power cut left it empty or cut off."""
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            return None
        return data if data.endswith(_END_OF_JPEG) else None

    def put(self, digest: str, data: bytes) -> None:
        """Keep a copy. It appears whole; a power cut may lose it, for it can be made again."""
        file = self.path(digest)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(file)
        try:
            temporary.write_bytes(data)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
