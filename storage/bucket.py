"""Images and masks in an S3 bucket that several machines share, with copies on this machine of those used last.

fsspec's own caches (`filecache`, `simplecache`) know no limit, and don't check what they kept; files that never change
and are named by their digest need little more than a folder.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from storage.blobs import DIGEST, BlobStore, FolderBlobs, key_of
from storage.errors import BlobMissing, BlobsUnavailable, DiskFull, SettingsError, StorageError

logger = logging.getLogger(__name__)

REQUESTS = 16  # at once, where many files are asked for
MEASURED = 20  # times per filling of the copies' folder its size is looked at
KEPT_SHARE = 0.9  # of the limit, after copies were let go
# A bucket that is away should be an error within seconds. botocore tries again by itself; s3fs need not as well.
OPTIONS = {
    "use_listings_cache": False,  # others write, too
    "max_concurrency": 1,  # one request per file: pictures are small
    "config_kwargs": {
        "connect_timeout": 5,  # seconds
        "read_timeout": 8,
        "retries": {"total_max_attempts": 3, "mode": "standard"},
    },
}
# aiohttp begins to count towards `read_timeout` when a file was sent, and before that it waits for the bucket's word to
# go on, without end: so storing has a time of its own, with room for a slow line.
STORE_SECONDS = 60.0
STORE_BYTES_PER_SECOND = 50_000
_CHUNK_BYTES = 1 << 20


class BucketBlobs(BlobStore):
    """A bucket, or a part of one; endpoint and credentials are those that s3fs finds in the environment.

    What is read is kept in a folder of this machine until other copies need its room. A copy is checked whenever it is
    read, and fetched again where it is damaged.
    """

    def __init__(self, url: str, copies: Path, *, limit_bytes: float) -> None:
        """Nothing is asked yet.

        Args:
            url: `s3://bucket/prefix`; of another scheme that fsspec knows, for tests.
            copies: folder for the copies, made when it is needed.
            limit_bytes: that the copies may take; processes that fetch at the same time may overshoot by a twentieth
                each, and the file that was fetched last always stays.
        Raises:
            SettingsError: what speaks to S3 is not installed.
        """
        self.where = url
        self.folder = copies
        self._copies = FolderBlobs(copies)
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._until_measured = 0.0  # bytes to be fetched before the folder is looked at
        if url.startswith("s3://") and find_spec("s3fs") is None:
            raise SettingsError(
                f"Pictures lie in {url}, and the package that speaks to S3 is not installed. Install the extra 's3': "
                "pip install 'simplenet-automl[s3]', from a checkout pip install '.[s3]'."
            )

    def put(self, data: bytes, *, settled: bool = True) -> str:  # noqa: ARG002 (a bucket settles what it answers)
        """Store bytes; see `BlobStore.put`. A file of the same length counts as the same."""
        digest = sha256(data).hexdigest()
        if self._size(digest) != len(data):
            with self._asked(f"store file {digest[:12]}… in"):
                try:
                    self._pipe(self._path(digest), data)
                except FileNotFoundError:
                    raise BlobsUnavailable(
                        f"There is no bucket {self.where}. Make it, or correct SIMPLENET_BLOBS_URL, then try again."
                    ) from None
        self._keep(digest, data)
        return digest

    def settle(self, digests: Iterable[str]) -> None:
        """Look that all are there: what a bucket has answered for, only somebody's hand takes away again."""
        wanted = list(digests)
        found = self.sizes(wanted)
        for digest in wanted:
            if digest not in found:
                raise self._missing(digest)

    def get(self, digest: str) -> bytes:
        """The bytes: of the copy here, else fetched."""
        with contextlib.suppress(BlobMissing):  # no copy yet, or a damaged one
            return self._copied(digest)
        data = self._fetched(digest)
        self._keep(digest, data)
        return data

    def chunks(self, digest: str, size: int = _CHUNK_BYTES) -> Iterator[bytes]:
        """The bytes in parts; a file is fetched whole."""
        data = self.get(digest)
        return (data[start : start + size] for start in range(0, len(data), size))

    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """Sizes in the bucket, whatever copies there are here."""
        wanted = list(dict.fromkeys(digests))
        with ThreadPoolExecutor(REQUESTS, thread_name_prefix="bucket") as pool:
            sizes = zip(wanted, pool.map(self._size, wanted), strict=True)
            return {digest: size for digest, size in sizes if size is not None}

    def path(self, digest: str) -> Path:
        """The copy of a file, fetched where there is none.

        Raises:
            BlobMissing: there is no such file.
            DiskFull: there is no room for a copy.
        """
        try:
            self._copied(digest)
        except BlobMissing:
            self._copy(digest, self._fetched(digest))
        return self._copies.path(digest)

    def __iter__(self) -> Iterator[str]:
        """List the bucket."""
        with self._asked("list"):
            found = self._files.find(self._root)
        names = (str(path).rpartition("/")[2] for path in found)
        return (name for name in names if DIGEST.fullmatch(name))

    @cached_property
    def _files(self) -> Any:
        import fsspec

        with self._asked("open"):
            files, _ = fsspec.url_to_fs(self.where, skip_instance_cache=True, **OPTIONS)
        files.retries = 1
        return files

    @property
    def _root(self) -> str:
        return str(self._files._strip_protocol(self.where))

    def _path(self, digest: str) -> str:
        return f"{self._root}/{key_of(digest)}"

    def _pipe(self, path: str, data: bytes) -> None:
        if not self._files.async_impl:
            self._files.pipe_file(path, data)
            return
        from fsspec.asyn import sync
        from fsspec.exceptions import FSTimeoutError

        seconds = STORE_SECONDS + len(data) / STORE_BYTES_PER_SECOND
        try:
            sync(self._files.loop, self._files._pipe_file, path, data, timeout=seconds)
        except FSTimeoutError:
            raise TimeoutError(f"it did not take {len(data):,} bytes within {seconds:.0f} s") from None

    def _size(self, digest: str) -> int | None:
        path = self._path(digest)
        with self._asked(f"look for file {digest[:12]}… in"):
            try:
                return int(self._files.info(path)["size"])
            except FileNotFoundError:
                return None

    def _fetched(self, digest: str) -> bytes:
        path = self._path(digest)
        with self._asked(f"fetch file {digest[:12]}… from"):
            try:
                data = bytes(self._files.cat_file(path))
            except FileNotFoundError:
                raise self._missing(digest) from None
        if sha256(data).hexdigest() != digest:
            remedy = "Delete it there, then ingest the same pictures again, or restore it from a backup."
            raise self._damaged(digest, len(data), remedy)
        return data

    def _copied(self, digest: str) -> bytes:
        """The bytes of the copy, which counts as used now."""
        try:
            data = self._copies.get(digest)
        except BlobsUnavailable as error:  # somebody deleted the folder
            raise BlobMissing(str(error)) from None
        with contextlib.suppress(OSError):  # let go by another process, whose time that is
            os.utime(self._copies.path(digest))
        return data

    def _keep(self, digest: str, data: bytes) -> None:
        """Copy what was fetched or stored; a copy for which there is no room is done without."""
        try:
            self._copy(digest, data)
        except (DiskFull, OSError) as error:
            logger.warning("no copy of file %s is kept: %s", digest, error)

    def _copy(self, digest: str, data: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._copies.put(data, settled=False)
        with self._lock:
            self._until_measured -= len(data)
            if self._until_measured > 0:
                return
            self._until_measured = self._limit_bytes / MEASURED
        let_go(self.folder, self._limit_bytes, keep=self._copies.path(digest))

    @contextlib.contextmanager
    def _asked(self, to: str) -> Iterator[None]:
        """Turn whatever fsspec, s3fs, botocore and their transport raise into one error of ours."""
        try:
            yield
        except (StorageError, FileNotFoundError):
            raise
        except Exception as error:
            said = str(error).strip().rstrip(".") or type(error).__name__
            raise BlobsUnavailable(
                f"Can't {to} {self.where}: {said}. Check SIMPLENET_BLOBS_URL, that this machine reaches the bucket "
                "(AWS_ENDPOINT_URL where it is not Amazon's), and its credentials (AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or a profile); then try again."
            ) from error


def let_go(folder: Path, limit_bytes: float, *, keep: Path) -> None:
    """Delete those files of a folder that were used longest ago, if all together take more than a limit.

    Args:
        keep: stays in any case.
    """
    found: list[tuple[float, int, Path]] = []
    for file in folder.glob("??/*"):
        with contextlib.suppress(FileNotFoundError):  # another process lets go, too
            status = file.stat()
            found.append((status.st_mtime, status.st_size, file))
    total = sum(size for _, size, _ in found)
    if total <= limit_bytes:
        return
    for _, size, file in sorted(found):
        if total <= limit_bytes * KEPT_SHARE:
            break
        if file != keep:
            file.unlink(missing_ok=True)
            total -= size
