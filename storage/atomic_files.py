"""Writing files and folders so that others see them whole or not at all, whenever this process dies."""

import os
from pathlib import Path
from secrets import token_hex

TEMPORARY_PREFIX = ".tmp-"


def temporary_beside(path: Path) -> Path:
    """A path in the same folder (so that a rename is atomic) that no other writer uses; nothing is made."""
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{token_hex(8)}")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    sync_file(folder)


def sync_file(path: Path) -> None:
    """Make what was written into a file survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes, *, settled: bool = True) -> None:
    """Write a file that appears whole under its name, replacing what is there, and survives a power cut if settled."""
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            if settled:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if settled:
        sync_folder(path.parent)
