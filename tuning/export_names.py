"""Names of exported files: those that the pictures came under, as far as every computer and every reader takes them."""

import re
import unicodedata
from collections import defaultdict
from pathlib import PurePosixPath

from storage.errors import BadName
from storage.label_words import CONTAINERS, MASK_ENDING, is_date, is_mask_folder, split_word, verdict, words
from storage.names import check_name, folded
from storage.records import Label
from storage.tree import PICTURE_SUFFIXES

STEM_BYTES = 120  # UTF-8; leaves room for the folders that a person unpacks into

# Windows forbids them in names; the others can be neither typed nor written as UTF-8.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
_STARTS = (
    (b"\x89PNG", (".png",)),
    (b"\xff\xd8\xff", (".jpg", ".jpeg")),
    (b"II*\0", (".tif", ".tiff")),
    (b"MM\0*", (".tif", ".tiff")),
    (b"II+\0", (".tif", ".tiff")),
    (b"MM\0+", (".tif", ".tiff")),
    (b"BM", (".bmp",)),
)


class Names:
    """Gives names that no computer takes for one another, in each of several folders."""

    def __init__(self) -> None:
        self._taken: defaultdict[str, set[str]] = defaultdict(set)
        self._next: defaultdict[tuple[str, str], int] = defaultdict(lambda: 2)

    def take(self, folder: str, wanted: str) -> str:
        """The wanted name, or with -2, -3, … where the folder has it already."""
        name = wanted
        while folded(name) in self._taken[folder]:
            number = self._next[folder, folded(wanted)]
            self._next[folder, folded(wanted)] = number + 1
            name = f"{wanted}-{number}"
        self._taken[folder].add(folded(name))
        return name


def safe_stem(name: str) -> str:
    """Name of a picture's file without its suffix: 'test/scratch/a:b.png' gives 'a-b'."""
    file = PurePosixPath(name.replace("\\", "/").replace("#", "-page-")).name
    if PurePosixPath(file).suffix.lower() in PICTURE_SUFFIXES:
        file = PurePosixPath(file).stem
    stem = _safe(file) or "picture"
    if not _is_name(stem):
        stem = f"picture-{stem}"
    # With such an ending it would be read as the mask of another picture.
    return f"{stem}-picture" if MASK_ENDING.search(stem) else stem


def safe_type(defect_type: str | None) -> str:
    """Name of the folder of a defect type: 'scratch/deep' gives 'scratch-deep', 'ok' gives 'defect-ok'."""
    folder = _safe(defect_type or "") or "anomalous"
    for candidate in (folder, f"defect-{folder}"):
        if _says_nothing_else(candidate):
            return candidate
    return "anomalous"  # 'no defect' says normal with any word before it


def picture_suffix(name: str, start: bytes) -> str:
    """Suffix of a picture's file, by its first 12 bytes; the one that it came with, where that is true."""
    own = PurePosixPath(name.partition("#")[0]).suffix.lower()
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return ".webp"
    for begin, suffixes in _STARTS:
        if start.startswith(begin):
            return own if own in suffixes else suffixes[0]
    return (
        own if own in PICTURE_SUFFIXES else ".png"
    )  # readers go by the bytes, once a suffix shows them a picture


def _says_nothing_else(folder: str) -> bool:
    """Whether a reader takes a folder for a defect type, not for normal parts, a date, a split, masks or a wrapping."""
    return (
        _is_name(folder)
        and verdict(folder) is not Label.NORMAL
        and bool(words(folder))
        and not is_date(folder)
        and split_word(folder) is None
        and not is_mask_folder(folder)
        and folder.casefold() not in CONTAINERS
        and folder.casefold() != "__macosx"
    )


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except BadName:
        return False
    return True


def _safe(text: str) -> str:
    text = _FORBIDDEN.sub("-", unicodedata.normalize("NFC", text))
    text = text.encode()[:STEM_BYTES].decode(errors="ignore")
    return text.strip().strip(" .")
