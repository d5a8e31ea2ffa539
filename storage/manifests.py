"""Lists of pictures: CSV, JSON lines, and the manifest of Lookout for Vision, a cloud service that has ended."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from storage.entries import Entry, balanced, left_out, listed, note
from storage.errors import UnknownLayout
from storage.label_words import Guess, Split, guess_normal, is_mask_folder, question, split_word, verdict
from storage.list_rows import SUFFIXES, Row, read_rows
from storage.listing import SourceFile
from storage.records import Label, Skipped
from storage.tree import is_picture

MISSING = "The list names it, and no such file came with the list. Add it, or take its line out."
CONTRADICTED = "The list names it normal and anomalous. Keep one line for it."
EXAMPLE = "path,label,split,mask"
NUMBERS = {
    "0": "normal",
    "1": "anomaly",
    "true": "anomaly",
    "false": "normal",
    "0.0": "normal",
    "1.0": "anomaly",
}  # 0 is normal wherever 1 is an anomaly


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What the lists among some files say."""

    entries: tuple[Entry, ...]  # none where no list names pictures
    notes: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    lookout: bool = False
    unsure: str | None = None
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Line:
    path: str
    label: str  # as written; "" where nothing is said
    defect_type: str | None
    split: Split | None
    odd_split: tuple[str, str] | None  # column and word, where the word means nothing
    mask: str | None


@dataclass(frozen=True, kw_only=True)
class _Read:
    """All lists together."""

    lines: tuple[_Line, ...]  # those that name pictures
    lookout: bool
    no_pictures: tuple[str, ...]  # files that lines name and that are none by their suffix
    nameless: tuple[str, ...]  # lines that name no file: "Line 3 of 'list.csv'"
    unread: Mapping[str, Sequence[str]]  # files by why they could not be read


def read_lists(
    files: Sequence[SourceFile], normal: str | None = None, *, only: SourceFile | None = None
) -> Listed:
    """Read the lists among the files that name pictures among them.

    Args:
        normal: which label means normal, where that can't be told.
        only: the one list to read, whatever its suffix.
    Raises:
        UnknownLayout: a list that names pictures has a line that can't be read, or all its pictures are missing or
            contradict themselves; or `only` is no list of pictures.
    """
    lists = [file for file in files if PurePosixPath(file.name).suffix.lower() in SUFFIXES]
    read = _read([only] if only else lists)
    unread = [
        one for why, names in read.unread.items() for one in note(f"Not read as a list, for it {why}", names)
    ]
    if not read.lines:
        if only:
            why = next(iter(read.unread), "names no pictures in a column path")
            raise UnknownLayout(
                f"File '{only.name}' is no list of pictures, for it {why}. Give a list as CSV with the columns "
                f"{EXAMPLE} or as JSON lines, a folder of pictures, or a zip or tar file."
            )
        return Listed(entries=(), notes=tuple(unread))
    finder = _Finder(files)
    lines: dict[str, list[_Line]] = defaultdict(list)  # by the picture's name
    pictures: dict[str, SourceFile] = {}
    missing = []
    for line in read.lines:
        picture = finder.find(line.path)
        if picture is None:
            missing.append(line.path)
        else:
            lines[picture.name].append(line)
            pictures[picture.name] = picture
    if not pictures:
        raise UnknownLayout(
            f"The list names {len(missing)} pictures, and none of them is among the files: {listed(missing)}. "
            "Put the pictures beside the list, at the paths that it names."
        )
    counts = Counter(label for same in lines.values() for label in dict.fromkeys(line.label for line in same))
    counts.pop("", None)
    guess = guess_normal(counts, normal) if counts else None
    meant = {name: {_is_anomalous(line, guess) for line in same} for name, same in lines.items()}
    clear = {name: same[0] for name, same in lines.items() if len(meant[name]) == 1}
    if not clear:
        raise UnknownLayout(
            f"All pictures of the list are named twice, as normal and as anomalous: {listed(list(lines))}. "
            "Keep one line for each."
        )
    masks: dict[str, SourceFile] = {}
    lost_masks = []
    for name, line in clear.items():
        mask = finder.find(line.mask) if line.mask else None
        if mask is not None:
            masks[name] = mask
        elif line.mask:
            lost_masks.append(line.mask)
    entries, notes = balanced(
        [
            _entry(pictures[name], line, guess, masks.get(name), read.lookout)
            for name, line in sorted(clear.items())
        ]
    )
    notes += _odd_words(clear.values(), guess)
    used = set(pictures) | {mask.name for mask in masks.values()}
    unnamed = [
        file for file in files if is_picture(file.name) and file.name not in used and not _is_mask(file.name)
    ]
    judged = [entry for entry in map(_by_name, unnamed) if entry is not None] if read.lookout else []
    kept = dict.fromkeys(entry.name for entry in judged)
    notes += note(
        "Pictures that the list does not name, left out",
        [file.name for file in unnamed if file.name not in kept],
    )
    notes += note("Pictures that the list does not name, taken for judging by their names", kept)
    more, unread_formats = left_out("Named in the list, but no picture", read.no_pictures)
    notes += more
    notes += note("Left out, lines of the list that name no file", read.nameless)
    twice = [name for name, same in lines.items() if len(same) > 1 and name in clear]
    other_types = [
        name for name in twice if len({(line.label, line.defect_type) for line in lines[name]}) > 1
    ]
    notes += note("Named twice with different labels or defect types, the first line counts", other_types)
    notes += note(
        "Named twice in the list, the first line counts",
        [name for name in twice if name not in set(other_types)],
    )
    notes += note("Masks that are named, but not among the files", lost_masks)
    return Listed(
        lookout=read.lookout,
        entries=(*entries, *judged),
        notes=(*notes, *unread),
        skipped=(
            *(Skipped(name=name, reason=MISSING) for name in missing),
            *unread_formats,
            *(Skipped(name=name, reason=CONTRADICTED) for name in lines if name not in clear),
        ),
        unsure=question("label", counts, guess) if guess is not None else None,
        answers=tuple(counts),
    )


def _read(files: Sequence[SourceFile]) -> _Read:
    lines: list[_Line] = []
    no_pictures: list[str] = []
    nameless: list[str] = []
    unread: dict[str, list[str]] = defaultdict(list)
    lookout = False
    for file in files:
        found = read_rows(file)
        if found.unread:
            unread[found.unread].append(file.name)
        if not any(row.names_picture for row in found.rows):  # no list of pictures
            continue
        for row in found.rows:
            lookout = lookout or "source-ref" in row.values
            if row.names_picture:
                lines.append(_line(row))
            elif path := row.text("path"):
                no_pictures.append(path)
            else:
                nameless.append(row.where)
    return _Read(
        lines=tuple(lines),
        lookout=lookout,
        no_pictures=tuple(no_pictures),
        nameless=tuple(nameless),
        unread=unread,
    )


def _line(row: Row) -> _Line:
    label, split = row.text("label"), row.text("split")
    for key, written in row.values.items():
        # Lookout: 'anomaly-label': 1 and 'anomaly-label-metadata': {'class-name': …}
        if key.endswith("-label") and f"{key}-metadata" in row.values:
            metadata = row.values[f"{key}-metadata"]
            if not isinstance(metadata, dict):
                raise UnknownLayout(
                    f"{row.where} has {str(metadata)[:40]!r} as '{key}-metadata', which must be an object with the "
                    "key class-name. Mend the line."
                )
            label = row.checked(key, metadata.get("class-name", written))
    meaning = split_word(split) if split else None
    return _Line(
        path=row.text("path"),
        label=NUMBERS.get(label.casefold(), label),
        defect_type=row.text("type") or None,
        split=meaning,
        odd_split=(row.column("split") or "", split) if split and meaning is None else None,
        mask=row.text("mask") or None,
    )


def _is_anomalous(line: _Line, guess: Guess | None) -> bool:
    return guess is not None and line.label != "" and line.label not in guess.normal


def _entry(
    picture: SourceFile, line: _Line, guess: Guess | None, mask: SourceFile | None, lookout: bool
) -> Entry:
    anomalous = _is_anomalous(line, guess)
    return Entry(
        path=picture.path,
        name=picture.name,
        split=line.split,
        label=Label.ANOMALOUS if anomalous else Label.NORMAL,
        defect_type=(line.defect_type or _type_by_label(line)) if anomalous else None,
        masks=(mask,) if mask is not None and anomalous else (),
        white_is_background=lookout,
        group=", ".join(part for part in (line.split, line.label or "no label", line.defect_type) if part),
    )


def _type_by_label(line: _Line) -> str | None:
    """The label, unless it says no more than that the part is anomalous."""
    return None if verdict(line.label) is Label.ANOMALOUS else line.label


def _odd_words(lines: Iterable[_Line], guess: Guess | None) -> list[str]:
    """Say which words were taken to mean something that their writer may not have meant."""
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    types: Counter[str] = Counter()
    for line in lines:
        if line.odd_split:
            column, word = line.odd_split
            splits[column][word] += 1
        by_label = _type_by_label(line)
        if by_label and not line.defect_type and _is_anomalous(line, guess):
            types[by_label] += 1
    notes = [
        f"Words in the column '{column}' that mean nothing, taken as not given: {_counted(found)}."
        for column, found in splits.items()
    ]
    return notes + ([f"Labels taken as defect types: {_counted(types)}."] if types else [])


def _counted(found: Counter[str]) -> str:
    return listed([f"'{word}' ({count})" for word, count in found.items()])


def _is_mask(name: str) -> bool:
    return any(is_mask_folder(part) for part in name.split("/")[:-1])


def _by_name(picture: SourceFile) -> Entry | None:
    """Pictures beside a Lookout manifest are its test pictures, whose names say the label: test-anomaly-1.jpg."""
    label = verdict(PurePosixPath(picture.name).stem)
    if label is None:
        return None
    return Entry(
        path=picture.path,
        name=picture.name,
        split="test",
        label=label,
        defect_type=None,
        group=f"not in the list, {label.value} by name",
    )


class _Finder:
    """Files by every ending of their path, so that 's3://bucket/run/train/a.png' finds 'train/a.png'."""

    def __init__(self, files: Sequence[SourceFile]) -> None:
        self._by_end: dict[str, SourceFile | None] = {}
        self._by_name = {file.name: file for file in files}
        for file in files:
            parts = file.name.split("/")
            for start in range(len(parts)):
                end = "/".join(parts[start:])
                self._by_end[end] = None if end in self._by_end else file  # None: several end so
        self._deepest = max((file.name.count("/") + 1 for file in files), default=1)

    def find(self, path: str) -> SourceFile | None:
        plain = path.replace("\\", "/").removeprefix("./")
        if plain in self._by_name:
            return self._by_name[plain]
        # A list may name a path of a million folders, and no file has as many.
        parts = [part for part in plain.split("/") if part][-self._deepest :]
        for start in range(len(parts)):
            found = self._by_end.get("/".join(parts[start:]))
            if found is not None:
                return found
        return None
