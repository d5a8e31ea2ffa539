"""What the readers of zip and tar have in common."""

from dataclasses import dataclass
from typing import Literal


class Refused(Exception):
    """The archive is in order but not to be unpacked; the message continues 'Archive a.zip …'."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One entry of an archive, as the archive describes it."""

    name: str  # nothing is checked; with forward slashes, and lone surrogates where it is not UTF-8
    kind: Literal["file", "folder", "link", "device"]
    size: int  # bytes when unpacked
