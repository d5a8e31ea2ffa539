"""What is known about a picture before it is opened, and the notes that people get."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from storage.listing import SourceFile
from storage.records import Label, Skipped
from storage.tree import UNREAD_SUFFIXES
from storage.unread_formats import reason

# MVTec's and BTAD's trees; VisA's split file; pictures of normal parts only; one folder per kind (two, or more);
# a list of pictures as CSV or JSON lines, and the one that Lookout for Vision wrote.
Kind = Literal["mvtec", "btad", "visa", "flat", "two_folders", "folders", "manifest", "lookout"]
NAMES_IN_A_NOTE = 10


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One picture that was found."""

    path: Path
    name: str  # relative to its dataset's folder, with forward slashes
    split: Literal["train", "test"] | None
    label: Label
    defect_type: str | None
    masks: tuple[SourceFile, ...] = ()  # named as the picture; a pixel is anomalous where one of them says so
    white_is_background: bool = False  # how the masks are to be read
    group: str = "pictures"  # see `storage.layouts.groups`

    @property
    def mask_paths(self) -> tuple[Path, ...]:
        """Where the bytes of its masks lie."""
        return tuple(mask.path for mask in self.masks)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All pictures of one dataset, and what a person should know about the rest."""

    kind: Kind
    name: str  # suggested for the dataset; allowed as one
    entries: tuple[Entry, ...]  # by name
    notes: tuple[str, ...]  # sentences: what was left out, masks without picture, pictures without mask
    skipped: tuple[Skipped, ...] = ()  # what people may have taken for pictures of it, each with its reason
    unsure: str | None = None  # a question to ask once: what was guessed, and what else it could be
    answers: tuple[str, ...] = ()  # what may be given as `normal`: names of folders or of labels

    @property
    def source_split(self) -> bool:
        """Whether the source says itself what is for training and what for testing."""
        return any(entry.split is not None for entry in self.entries)


def note(subject: str, names: Iterable[str]) -> list[str]:
    """One sentence with the number of names and the first of them; none if there are no names."""
    names = list(names)
    return [f"{subject} ({len(names)}): {listed(names)}."] if names else []


def left_out(subject: str, names: Iterable[str]) -> tuple[list[str], tuple[Skipped, ...]]:
    """A note about files that are no pictures; and those that are pictures in formats that are not read, one by one."""
    names = list(names)
    unread = [name for name in names if PurePosixPath(name).suffix.lower() in UNREAD_SUFFIXES]
    told = note(subject, [name for name in names if name not in set(unread)])
    return told, tuple(Skipped(name=name, reason=reason(name)) for name in unread)


def listed(names: Sequence[str]) -> str:
    """Join names with commas; of many only the first."""
    more = len(names) - NAMES_IN_A_NOTE
    return ", ".join(names[:NAMES_IN_A_NOTE]) + (f" and {more} more" if more > 0 else "")


def balanced(entries: list[Entry]) -> tuple[list[Entry], list[str]]:
    """Mend a split that nothing can be trained or judged by.

    Anomalous pictures can't train, and without normal test pictures some of the training pictures have to judge.
    """
    notes = []
    misplaced = {entry.name for entry in entries if entry.split == "train" and entry.label is Label.ANOMALOUS}
    if misplaced:
        entries = [replace(entry, split=None) if entry.name in misplaced else entry for entry in entries]
        notes += note(
            "Anomalous pictures among those for training, which are used for validation and test",
            sorted(misplaced),
        )
    splits = {entry.split for entry in entries if entry.label is Label.NORMAL}
    if "train" in splits and "test" not in splits:
        entries = [replace(entry, split=None) if entry.split == "train" else entry for entry in entries]
        notes.append(
            "There are no normal test pictures, so the normal pictures for training are shared among all roles."
        )
    return entries, notes
