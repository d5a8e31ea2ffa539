"""How people arrange folders of pictures, and what the arrangement says about each picture.

Only names are looked at; no picture is opened. Hidden files and folders (`.DS_Store`, `.git`) are never seen.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from storage.errors import UnknownLayout
from storage.records import Label

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})  # in any case
# MVTec says good; the others must not be taken for defect types.
NORMAL_FOLDERS = frozenset({"good", "normal", "ok"})
MASK_SUFFIX = "_mask"  # ground_truth/scratch/007_mask.png belongs to test/scratch/007.png
NAMES_IN_A_NOTE = 10

UNDERSTOOD = (
    "Understood are: a plain folder of pictures of normal parts; or the MVTec layout with train/good, "
    "test/good, test/<defect type> and, where there are masks, ground_truth/<defect type>/<picture>_mask.png; "
    "good may be called ok or normal, and a mask as its picture."
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One picture that was found."""

    path: Path
    name: str  # relative to the scanned folder, with forward slashes
    split: Literal["train", "test"] | None
    label: Label
    defect_type: str | None
    mask_path: Path | None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All pictures of a folder, and what a person should know about the rest."""

    kind: Literal["mvtec", "flat", "visa"]
    entries: tuple[Entry, ...]  # by name
    notes: tuple[str, ...]  # sentences: what was left out, masks without picture, pictures without mask

    @property
    def source_split(self) -> bool:
        """Whether the folder says itself what is for training and what for testing."""
        return any(entry.split is not None for entry in self.entries)


def scan(folder: Path) -> Layout:
    """Find out how a folder is arranged and list its pictures.

    Raises:
        UnknownLayout: it doesn't exist, holds no pictures, or is arranged in another way; says what was
        found and what to do.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "doesn't exist"
        raise UnknownLayout(f"Folder '{folder}' {what}. Give a folder of pictures. {UNDERSTOOD}")
    inside = _Folder(folder)
    if {"train", "test"} & set(inside.folder_names):
        return _scan_mvtec(folder, inside)
    if inside.pictures:
        return _scan_flat(inside)
    categories = [child.name for child in inside.folders if _looks_like_mvtec(child)]
    if categories:
        raise UnknownLayout(
            f"Folder '{folder}' holds several products: {', '.join(categories)}; a dataset holds one. "
            f"Give one of them, for instance '{folder / categories[0]}'."
        )
    raise UnknownLayout(
        f"Folder '{folder}' holds no pictures that can be placed: {inside.describe()}. {UNDERSTOOD}"
    )


def contents(folder: Path) -> str:
    """Say in words what lies directly in a folder: 'folders a, b; 3 pictures'."""
    return _Folder(folder).describe()


class _Folder:
    """What lies directly in a folder, without hidden things, by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        visible = sorted(
            (child for child in path.iterdir() if not child.name.startswith(".")), key=lambda c: c.name
        )
        self.folders = [child for child in visible if child.is_dir()]
        self.pictures = [
            child for child in visible if child.suffix.lower() in PICTURE_SUFFIXES and child.is_file()
        ]
        known = {*self.folders, *self.pictures}
        self.others = [child for child in visible if child not in known]
        self.folder_names = [child.name for child in self.folders]

    def describe(self) -> str:
        found = []
        if self.folders:
            found.append(f"folders {_list(self.folder_names)}")
        if self.pictures:
            found.append(f"{len(self.pictures)} pictures")
        if self.others:
            kinds = Counter(child.suffix.lower() or "no suffix" for child in self.others)
            found.append(
                "other files " + ", ".join(f"{number} × {kind}" for kind, number in sorted(kinds.items()))
            )
        return "; ".join(found) or "it is empty"


def _looks_like_mvtec(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def _scan_flat(inside: _Folder) -> Layout:
    entries = tuple(
        Entry(path=path, name=path.name, split=None, label=Label.NORMAL, defect_type=None, mask_path=None)
        for path in inside.pictures
    )
    notes = _notes("Left out, not pictures", (path.name for path in inside.others))
    notes += _notes("Left out, folders beside the pictures", inside.folder_names)
    return Layout(kind="flat", entries=entries, notes=tuple(notes))


def _scan_mvtec(root: Path, inside: _Folder) -> Layout:
    def name(path: Path) -> str:
        return path.relative_to(root).as_posix()

    entries: list[Entry] = []
    strangers = [*inside.others, *inside.pictures]
    unread = [path for path in inside.folders if path.name not in ("train", "test", "ground_truth")]
    masks, mask_strangers = _masks(root / "ground_truth")
    strangers += mask_strangers
    unmasked: list[str] = []
    used: set[Path] = set()
    for split in ("train", "test"):
        if split not in inside.folder_names:
            continue
        top = _Folder(root / split)
        strangers += [*top.others, *top.pictures]
        for kind in top.folders:
            normal = kind.name.lower() in NORMAL_FOLDERS
            if split == "train" and not normal:
                unread.append(kind)
                continue
            found = _Folder(kind)
            strangers += found.others
            unread += found.folders
            for path in found.pictures:
                mask = None if normal else masks.get((kind.name, path.stem))
                if mask is not None:
                    used.add(mask)
                elif not normal:
                    unmasked.append(name(path))
                entries.append(
                    Entry(
                        path=path,
                        name=name(path),
                        split="train" if split == "train" else "test",
                        label=Label.NORMAL if normal else Label.ANOMALOUS,
                        defect_type=None if normal else kind.name,
                        mask_path=mask,
                    )
                )
    if not any(entry.split == "train" for entry in entries):
        raise UnknownLayout(_no_training_pictures(root, inside))
    entries.sort(key=lambda entry: entry.name)
    notes = []
    if not any(entry.split == "test" for entry in entries):
        # Half a split is none: without it there would be nothing to judge a model by.
        entries = [replace(entry, split=None) for entry in entries]
        notes.append("There are no test pictures, so the pictures of train/good are shared among all roles.")
    notes += _notes("Left out, not pictures or not inside a folder for their kind", map(name, strangers))
    notes += _notes("Left out, folders that have no place in the layout", map(name, unread))
    notes += _notes("Masks without a picture", (name(path) for path in masks.values() if path not in used))
    notes += _notes("Anomalous pictures without a mask", unmasked)
    return Layout(kind="mvtec", entries=tuple(entries), notes=tuple(notes))


def _masks(folder: Path) -> tuple[dict[tuple[str, str], Path], list[Path]]:
    """Masks by defect type and stem of their picture, and what else lies there."""
    masks: dict[tuple[str, str], Path] = {}
    strangers: list[Path] = []
    if folder.is_dir():
        top = _Folder(folder)
        strangers += [*top.others, *top.pictures]
        for kind in top.folders:
            found = _Folder(kind)
            strangers += [*found.others, *found.folders]
            for path in found.pictures:
                masks[kind.name, path.stem.removesuffix(MASK_SUFFIX)] = path
    return masks, strangers


def _no_training_pictures(root: Path, inside: _Folder) -> str:
    if "train" not in inside.folder_names:
        found = "has a folder test, but no folder train"
    else:
        found = f"has no pictures in train/good; train holds: {_Folder(root / 'train').describe()}"
    return f"Folder '{root}' {found}. Put pictures of normal parts into train/good. {UNDERSTOOD}"


def _notes(subject: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    return [f"{subject} ({len(names)}): {_list(names)}."] if names else []


def _list(names: list[str]) -> str:
    more = len(names) - NAMES_IN_A_NOTE
    return ", ".join(names[:NAMES_IN_A_NOTE]) + (f" and {more} more" if more > 0 else "")
