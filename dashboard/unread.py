"""Why a file that was chosen in a browser is never sent, and what to do about it."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from storage.names import shown
from storage.records import Skipped
from storage.unread_formats import REASONS

LISTED = 1000  # of an upload's files that were not sent; the rest is counted
OTHER = "It is no picture, table or archive. Leave it out, or save it as PNG if it is a picture."


def skipped(names: Sequence[str]) -> list[Skipped]:
    """Name and reason of files that were not sent, as a review tells them; of very many the first, and how many more.

    Args:
        names: as a browser tells them; they may hold anything.
    """
    told = [
        Skipped(name=shown(name)[1:-1], reason=REASONS.get(PurePosixPath(name).suffix.lower(), OTHER))
        for name in names[:LISTED]
    ]
    if len(names) > LISTED:
        more = len(names) - LISTED
        told.append(Skipped(name=f"{more:,} more", reason="They are no pictures, tables or archives either."))
    return told
