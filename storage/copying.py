"""Pictures and masks from one place to another, as when an installation grows from one machine to several."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from storage.blobs import BlobStore
from storage.errors import BlobMissing

AT_ONCE = 8  # files that are read and written, for a bucket answers slowly but many at a time


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What came of copying."""

    copied: int
    there: int  # before
    left_out: tuple[str, ...]  # sentences about files that are damaged at their source


def copy_blobs(source: BlobStore, target: BlobStore, progress: Callable[[int, int, str], None]) -> Copied:
    """Copy what a place lacks; what is there stays, and the source is left as it is. Can be repeated after any end.

    Args:
        progress: given the number done, of how many, and nothing.
    Raises:
        BlobsUnavailable, DiskFull: one of the two is away, or the target has no room.
    """
    digests = sorted(source)
    sizes, there = source.sizes(digests), target.sizes(digests)
    wanted = [digest for digest in digests if there.get(digest) != sizes.get(digest)]
    left_out: list[str] = []

    def copy(digest: str) -> str | None:
        try:
            return target.put(source.get(digest), settled=False)
        except BlobMissing as damaged:
            left_out.append(str(damaged))
            return None

    copied = []
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="copying") as pool:
        for done, digest in enumerate(pool.map(copy, wanted)):
            progress(done, len(wanted), "")
            copied.append(digest)
    kept = [digest for digest in copied if digest is not None]
    target.settle(kept)
    return Copied(copied=len(kept), there=len(digests) - len(wanted), left_out=tuple(left_out))
