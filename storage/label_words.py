"""What the names of folders, files and labels say: normal or anomalous, training or test, mask, date.

People write in many languages; what is not understood here is asked, never guessed silently.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from storage.records import Label

Split = Literal["train", "test"]

EXACTLY_NORMAL = frozenset({"good", "normal", "ok"})  # MVTec says good, BTAD ok
NORMAL_WORDS = EXACTLY_NORMAL | {"fine", "gut", "io", "okay", "pass", "passed"}
ANOMALOUS_WORDS = frozenset(
    {"abnormal", "anomalies", "anomalous", "anomaly", "bad", "def", "defect", "defective", "defects", "fail"}
    | {"failed", "faulty", "ko", "ng", "nio", "nok", "reject", "rejected", "schlecht"}
)
NEGATIONS = frozenset({"free", "nicht", "no", "non", "not", "without"})  # not good, no defect, defect-free
SPLIT_WORDS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    # Pictures for validation are held out of training, and that is all that `test` says of a source.
    **dict.fromkeys(("test", "testing", "val", "valid", "validation", "eval"), "test"),
}
CONTAINERS = frozenset({"data", "dataset", "images", "image", "img", "imgs", "pictures", "photos"})
MASK_FOLDERS = frozenset({"mask", "masks", "groundtruth", "gt", "maskimages", "imagemasks", "segmentation"})

_DAY = r"(0?[1-9]|[12]\d|3[01])"
_MONTH = r"(0?[1-9]|1[0-2])"
_DATE = re.compile(
    rf"(19|20)\d\d([-_. ]?{_MONTH})?|((19|20)\d\d[-_. ]?{_MONTH}[-_. ]?{_DAY}|{_DAY}[-_.]{_MONTH}[-_.](19|20)\d\d)"
    r"([-_ T]?[\d:.h-]+)?"  # the time of day
)
MASK_ENDING = re.compile(r"[-_ ](mask|gt|ground_?truth)([-_ ]?\d+)?$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Guess:
    """Which of several names mean normal."""

    normal: frozenset[str]
    sure: bool


def words(name: str) -> list[str]:
    """Split a name into lower-case words: 'OK_front2' gives ok, front."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+", parted.casefold())


def verdict(name: str) -> Label | None:
    """Say whether a name speaks of normal parts or of anomalous ones; None where it speaks of neither, or of both."""
    found = words(name)
    if found in (["i", "o"], ["n", "i", "o"]):  # i.O., n.i.O.
        found = ["".join(found)]
    normal = not NORMAL_WORDS.isdisjoint(found)
    anomalous = not ANOMALOUS_WORDS.isdisjoint(found)
    if normal == anomalous:
        return None
    if not NEGATIONS.isdisjoint(found):
        normal = not normal
    return Label.NORMAL if normal else Label.ANOMALOUS


def split_word(name: str) -> Split | None:
    """Say whether a folder or a list of pictures is for training or for testing."""
    found = words(name)
    return SPLIT_WORDS.get(found[0]) if 0 < len(found) <= 2 else None


def is_mask_folder(name: str) -> bool:
    """Whether a folder of this name holds masks, not pictures."""
    return "".join(words(name)) in MASK_FOLDERS


def is_date(name: str) -> bool:
    """Whether a folder is called after a year, a month, a day or a moment, which says nothing about the parts."""
    return _DATE.fullmatch(name) is not None


def guess_normal(counts: Mapping[str, int], normal: str | None = None) -> Guess:
    """Find out which names stand for normal parts.

    Args:
        counts: pictures by name; at least one name.
        normal: what a person answered; counts only where it is one of the names.
    """
    if normal is not None and normal in counts:
        return Guess(normal=frozenset({normal}), sure=True)
    exactly = {name for name in counts if name.casefold() in EXACTLY_NORMAL}
    if exactly:
        return Guess(normal=frozenset(exactly), sure=True)
    verdicts = {name: verdict(name) for name in counts}
    spoken = {name for name, label in verdicts.items() if label is Label.NORMAL}
    if spoken:
        return Guess(normal=frozenset(spoken), sure=True)
    silent = [name for name, label in verdicts.items() if label is None]
    if len(silent) < 2:
        # The only one that doesn't speak of defects must be the normal one, unless there is nothing beside it.
        return Guess(normal=frozenset(silent), sure=len(counts) > 1 or not silent)
    largest = min(silent, key=lambda name: (-counts[name], name))
    return Guess(normal=frozenset({largest}), sure=False)


def question(what: str, counts: Mapping[str, int], guess: Guess) -> str | None:
    """Ask which name stands for normal parts; None where that is sure."""
    if guess.sure:
        return None
    (taken,) = guess.normal
    others = ", ".join(f"'{name}' ({count})" for name, count in list(counts.items())[:10] if name != taken)
    return (
        f"Which {what} holds the pictures of normal parts? '{taken}' ({counts[taken]} pictures) is taken to"
        + (f"; the others are {others}." if others else ".")
    )


def fold(name: str) -> str:
    """Write a name so that two spellings of it compare equal: composed letters, no difference of case."""
    return unicodedata.normalize("NFC", name).casefold()


def dataset_name(text: str) -> str:
    """Make a dataset name of a text: 'Große Platten' gives 'grosse-platten'; empty where nothing can be kept."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].strip("-")
