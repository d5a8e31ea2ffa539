"""Disks without room: which errors of the system mean that, and the sentence that tells people what to do."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import DiskFull

# Disk full, quota used up, and file larger than the file system or `ulimit -f` allows.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

RESERVE_BYTES = 1e9  # that stay free on the disk of the home folder, for databases and logs


@contextmanager
def told_when_full(folder: Path) -> Iterator[None]:
    """Turn the system's errors about a full disk into ours; all others go on as they are.

    Args:
        folder: what is written lies somewhere below it.
    Raises:
        DiskFull: something could not be written for want of room.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise DiskFull(
            f"The disk of {folder} has no room left: {error.strerror}, {size_text(free_bytes(folder))} free. "
            "Free some space there, then try again; what was there before is unchanged."
        ) from error


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written on the disk of a folder that exists."""
    return shutil.disk_usage(folder).free


def size_text(count: float) -> str:
    """Bytes for people, in GB from a tenth of one, else in MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
