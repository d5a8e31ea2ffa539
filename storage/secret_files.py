"""Secrets of an installation: random bytes in a file of its home that only its owner may read."""

import os
from contextlib import suppress
from pathlib import Path

from storage.atomic_files import temporary_beside
from storage.errors import DamagedSecret

SECRET_BYTES = 32


def secret(file: Path) -> bytes:
    """The secret in a file, made by whoever asks first and readable by its owner alone.

    Raises:
        DamagedSecret: the file has another length than it was written with.
    """
    if not file.exists():
        temporary = temporary_beside(file)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(os.urandom(SECRET_BYTES))
                out.flush()
                os.fsync(out.fileno())
            with suppress(
                FileExistsError
            ):  # unlike a rename, a link never replaces what another process made
                os.link(temporary, file)
        finally:
            temporary.unlink()
    found = file.read_bytes()
    if len(found) != SECRET_BYTES:
        raise DamagedSecret(
            f"The file {file} has {len(found)} bytes instead of {SECRET_BYTES}. Delete it: whoever needs it next "
            "makes it anew."
        )
    return found
