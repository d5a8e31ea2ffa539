"""A list of files as the tree of folders that their names make, pictures and masks told apart by name."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from storage.label_words import CONTAINERS, MASK_ENDING, fold, is_date, is_mask_folder, split_word, words
from storage.listing import SourceFile, is_hidden

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})  # in any case
# Pictures for people, not for our reader: drawings, animations, what cameras and drawing programs keep for themselves.
UNREAD_SUFFIXES = frozenset(
    {
        ".ai",
        ".arw",
        ".avif",
        ".cr2",
        ".cr3",
        ".dcm",
        ".dng",
        ".emf",
        ".eps",
        ".exr",
        ".gif",
        ".hdr",
        ".heic",
        ".heif",
    }
    | {
        ".ico",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jxl",
        ".nef",
        ".orf",
        ".pbm",
        ".pcx",
        ".pgm",
        ".pnm",
        ".ppm",
        ".psd",
    }
    | {".raf", ".raw", ".rw2", ".svg", ".tga", ".wmf", ".xcf"}
)


@dataclass(kw_only=True)
class Folder:
    """A folder and what lies in it; folders called after dates are passed through, as if they were not there."""

    name: str
    path: str  # from the root; "" is the root itself
    folders: dict[str, "Folder"] = field(default_factory=dict)
    pictures: list[SourceFile] = field(default_factory=list)
    masks: list[SourceFile] = field(default_factory=list)  # of its mask folders, and beside its pictures
    others: list[SourceFile] = field(default_factory=list)
    above: tuple[str, ...] = ()  # of the root: folders around everything, which names don't show any more

    def below(self) -> Iterator["Folder"]:
        """Give the folder itself and all folders below."""
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            yield folder
            waiting += reversed(folder.folders.values())

    def all_pictures(self) -> list[SourceFile]:
        """Pictures of the folder and of all below."""
        return [picture for folder in self.below() for picture in folder.pictures]

    def all_masks(self) -> list[SourceFile]:
        """Masks of the folder and of all below."""
        return [mask for folder in self.below() for mask in folder.masks]

    def all_others(self) -> list[SourceFile]:
        """What is no picture, of the folder and of all below."""
        return [other for folder in self.below() for other in folder.others]

    def filled(self) -> list["Folder"]:
        """Folders directly inside that hold pictures at any depth."""
        return [inside for inside in self.folders.values() if any(f.pictures for f in inside.below())]

    def inner(self) -> "Folder":
        """Go down while there is nothing but one folder, unless its name says what its pictures are for."""
        folder = self
        while not folder.pictures and len(filled := folder.filled()) == 1 and not split_word(filled[0].name):
            folder = filled[0]
        return folder

    def own_name(self, file: SourceFile) -> str:
        """Give the file's name as seen from this folder."""
        return file.name.removeprefix(f"{self.path}/") if self.path else file.name

    def describe(self) -> str:
        """Say in words what lies directly in the folder: 'folders a, b; 3 pictures'."""
        found = []
        if self.folders:
            found.append(f"folders {', '.join(list(self.folders)[:20])}")
        if self.pictures:
            found.append(f"{len(self.pictures)} pictures")
        if self.masks:
            found.append(f"{len(self.masks)} masks")
        if self.others:
            kinds = Counter(PurePosixPath(file.name).suffix.lower() or "no suffix" for file in self.others)
            found.append(
                "other files "
                + ", ".join(f"{number} × {kind}" for kind, number in sorted(kinds.items())[:10])
            )
        return "; ".join(found) or "it is empty"


def plant(files: Sequence[SourceFile]) -> Folder:
    """Make the tree; hidden files are not in it, and names begin below the folders that are around everything."""
    visible = sorted((file for file in files if not is_hidden(file.name)), key=lambda file: file.name)
    above = _around([file.name for file in visible])
    cut = sum(len(name) + 1 for name in above)
    if cut:
        visible = [replace(file, name=file.name[cut:]) for file in visible]
    root = _grow(visible, above, with_masks=True)
    if not any(folder.pictures for folder in root.below()):
        root = _grow(visible, above, with_masks=False)  # a product that is called mask
    return root


def is_picture(name: str) -> bool:
    """Whether a file's suffix is that of a picture."""
    return PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES


def _grow(files: Sequence[SourceFile], above: tuple[str, ...], *, with_masks: bool) -> Folder:
    root = Folder(name=above[-1] if above else "", path="", above=above)
    by_directory: dict[str, list[SourceFile]] = defaultdict(list)
    for file in files:
        by_directory[file.name.rpartition("/")[0]].append(file)
    for directory, inside in by_directory.items():
        folder, masked = _place(root, directory, with_masks=with_masks)
        stems = {fold(PurePosixPath(file.name).stem) for file in inside if is_picture(file.name)}
        for file in inside:
            if not is_picture(file.name):
                folder.others.append(file)
            elif masked or _mask_of(file.name) in stems:
                folder.masks.append(file)
            else:
                folder.pictures.append(file)
    return root


def _place(root: Folder, directory: str, *, with_masks: bool) -> tuple[Folder, bool]:
    """Find or make the folder of a directory; True if it holds masks of the pictures there."""
    here = root
    dated = False
    for part in directory.split("/") if directory else ():
        if with_masks and is_mask_folder(part):
            return here, True
        dated = is_date(part) or (dated and part.isdecimal() and len(part) <= 2)  # 2030/01/31
        if not dated:
            if part not in here.folders:
                path = f"{here.path}/{part}" if here.path else part
                here.folders[part] = Folder(name=part, path=path)
            here = here.folders[part]
    return here, False


def _mask_of(name: str) -> str | None:
    """Give the stem of the picture that a file beside it would be the mask of: a_mask.png of a.png."""
    stem = PurePosixPath(name).stem
    ending = MASK_ENDING.search(stem)
    return fold(stem[: ending.start()]) if ending else None


def _around(names: Sequence[str]) -> tuple[str, ...]:
    """Folders that all files lie in, as those of an archive of one folder, up to the first that says something.

    One that is called after masks says nothing here: no file lies beside it that they could be masks of.
    """
    if not names:
        return ()
    first, last = (name.split("/")[:-1] for name in (names[0], names[-1]))  # sorted: all others lie between
    around = []
    for one, other in zip(first, last, strict=False):
        if one != other or split_word(one):
            break
        around.append(one)
    return tuple(around)


def tells_nothing(name: str) -> bool:
    """Whether a folder's name is of no use for a dataset: data, images, 01."""
    return not words(name) or name.casefold() in CONTAINERS or split_word(name) is not None
