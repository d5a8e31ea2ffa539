"""Lists of pictures: CSV, JSON lines, and the manifest of Lookout for Vision, a cloud service that has ended."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from storage.entries import Entry, balanced, note
from storage.errors import UnknownLayout
from storage.label_words import Split, guess_normal, is_mask_folder, question, split_word, verdict
from storage.listing import SourceFile
from storage.records import Label
from storage.tree import is_picture

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".manifest"})
COLUMNS = {
    "path": (
        "path",
        "image",
        "file",
        "filename",
        "image_path",
        "filepath",
        "file_name",
        "picture",
        "source-ref",
    ),
    "label": ("label", "class", "target", "is_anomaly", "anomaly", "status", "category"),
    "type": ("defect_type", "defect", "type", "anomaly_type", "kind"),
    "split": ("split", "subset", "set", "partition"),
    "mask": ("mask", "mask_path", "ground_truth", "segmentation", "mask_file", "anomaly-mask-ref"),
}
EXAMPLE = "path,label,split,mask"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What a list says."""

    lookout: bool
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]
    unsure: str | None
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Line:
    number: int
    path: str
    label: str  # as written; "" where nothing is said
    defect_type: str | None
    split: Split | None
    mask: str | None


def read_lists(files: Sequence[SourceFile], normal: str | None = None) -> Listed | None:
    """Read the lists among the files that name pictures among them; None where there is none.

    Args:
        normal: which label means normal, where that can't be told.
    Raises:
        UnknownLayout: a list that names pictures has a line that can't be read, or all its pictures are missing.
    """
    lines: list[_Line] = []
    lookout = False
    for file in files:
        if PurePosixPath(file.name).suffix.lower() in SUFFIXES:
            found, is_lookout = _lines(file)
            lines += found
            lookout = lookout or is_lookout
    if not lines:
        return None
    by_suffix = _Finder(files)
    present: dict[str, tuple[_Line, SourceFile]] = {}
    missing, twice, lost_masks = [], [], []
    masks: dict[str, SourceFile] = {}
    for line in lines:
        picture = by_suffix.find(line.path)
        if picture is None:
            missing.append(line.path)
        elif picture.name in present:
            twice.append(picture.name)
        else:
            present[picture.name] = (line, picture)
            if line.mask:
                mask = by_suffix.find(line.mask)
                if mask is None:
                    lost_masks.append(line.mask)
                else:
                    masks[picture.name] = mask
    if not present:
        raise UnknownLayout(
            f"The list names {len(lines)} pictures, the first '{lines[0].path}', and none of them is among the files. "
            "Put the pictures beside the list, at the paths that it names."
        )
    counts: dict[str, int] = {}
    for line, _ in present.values():
        counts[line.label] = counts.get(line.label, 0) + 1
    counts.pop("", None)
    guess = guess_normal(counts, normal) if counts else None
    entries = []
    for line, picture in present.values():
        anomalous = guess is not None and line.label != "" and line.label not in guess.normal
        spoken = verdict(line.label) is not None or line.label in ("0", "1", "true", "false")
        kind = line.defect_type or (None if spoken else line.label)
        mask = masks.get(picture.name)
        entries.append(
            Entry(
                path=picture.path,
                name=picture.name,
                split=line.split,
                label=Label.ANOMALOUS if anomalous else Label.NORMAL,
                defect_type=kind if anomalous else None,
                mask_paths=(mask.path,) if mask is not None and anomalous else (),
                white_is_background=lookout,
                group=", ".join(
                    part for part in (line.split, line.label or "no label", line.defect_type) if part
                ),
            )
        )
    entries.sort(key=lambda entry: entry.name)
    entries, notes = balanced(entries)
    used = set(present) | {mask.name for mask in masks.values()}
    unnamed = [
        file.name
        for file in files
        if is_picture(file.name) and file.name not in used and not _is_mask(file.name)
    ]
    entries += [entry for entry in map(_unnamed(files), unnamed) if entry is not None] if lookout else []
    kept = {entry.name for entry in entries}
    notes += note(
        "Pictures that the list does not name, left out", [name for name in unnamed if name not in kept]
    )
    notes += note(
        "Pictures that the list does not name, taken for judging by their names", kept & set(unnamed)
    )
    notes += note("Named in the list, but not among the files", missing)
    notes += note("Named twice in the list, the first line counts", twice)
    notes += note("Masks that are named, but not among the files", lost_masks)
    return Listed(
        lookout=lookout,
        entries=tuple(entries),
        notes=tuple(notes),
        unsure=question("label", counts, guess) if guess is not None else None,
        answers=tuple(counts),
    )


def _is_mask(name: str) -> bool:
    return any(is_mask_folder(part) for part in name.split("/")[:-1])


def _unnamed(files: Sequence[SourceFile]) -> Any:
    """Pictures beside a Lookout manifest are its test pictures, whose names say the label: test-anomaly-1.jpg."""
    paths = {file.name: file.path for file in files}

    def entry(name: str) -> Entry | None:
        label = verdict(PurePosixPath(name).stem)
        if label is None:
            return None
        return Entry(
            path=paths[name],
            name=name,
            split="test",
            label=label,
            defect_type=None,
            group=f"not in the list, {label.value} by name",
        )

    return entry


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

    def find(self, path: str) -> SourceFile | None:
        plain = path.replace("\\", "/").removeprefix("./")
        if plain in self._by_name:
            return self._by_name[plain]
        parts = [part for part in plain.split("/") if part]
        for start in range(len(parts)):
            found = self._by_end.get("/".join(parts[start:]))
            if found is not None:
                return found
        return None


def _lines(file: SourceFile) -> tuple[list[_Line], bool]:
    """The lines of a list; none where the file is no list of pictures."""
    try:
        text = file.path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return [], False
    if text.lstrip().startswith(("{", "[")):
        rows = list(_json_rows(text, file.name))
        lookout = any("source-ref" in row for _, row in rows)
    else:
        rows, lookout = list(_csv_rows(text, file.name)), False
    return [line for number, row in rows if (line := _line(number, row)) is not None], lookout


def _json_rows(text: str, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if text.lstrip().startswith("["):
        try:
            listed = json.loads(text)
        except json.JSONDecodeError as error:
            raise UnknownLayout(f"List '{name}' is no JSON: {error}. Mend it.") from error
        yield from ((number, row) for number, row in enumerate(listed, 1) if isinstance(row, dict))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UnknownLayout(f"Line {number} of '{name}' is no JSON: {error}. Mend the line.") from error
        if not isinstance(row, dict):
            raise UnknownLayout(
                f"Line {number} of '{name}' is no JSON object. Write {{\"path\": …}} in each line."
            )
        yield number, row


def _csv_rows(text: str, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t|", key=head.count)
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    if not any(_column(rows.fieldnames or (), "path")):
        return
    for row in rows:
        if None in row or None in row.values():
            raise UnknownLayout(
                f"Line {rows.line_num} of '{name}' has not one value for each of the columns "
                f"{', '.join(rows.fieldnames or ())}. Mend the line."
            )
        yield rows.line_num, row


def _column(names: Sequence[str], what: str) -> list[str]:
    """The columns that mean something, the best first."""
    folded = {name.strip().casefold(): name for name in names}
    return [folded[one] for one in COLUMNS[what] if one in folded]


def _line(number: int, row: Mapping[str, Any]) -> _Line | None:
    def value(what: str) -> str:
        columns = _column(list(row), what)
        return "" if not columns or row[columns[0]] is None else str(row[columns[0]]).strip()

    path = value("path")
    if not path or not is_picture(path):
        return None
    label, metadata = value("label"), {}
    for (
        key,
        written,
    ) in row.items():  # Lookout: 'anomaly-label': 1 and 'anomaly-label-metadata': {'class-name': …}
        if key.endswith("-label") and f"{key}-metadata" in row:
            metadata = row[f"{key}-metadata"]
            label = str(metadata.get("class-name", written))
    label = _words(label)
    return _Line(
        number=number,
        path=path,
        label=label,
        defect_type=value("type") or None,
        split=split_word(value("split")) if value("split") else None,
        mask=value("mask") or None,
    )


def _words(label: str) -> str:
    """What numbers and truth values mean: 0 is normal wherever 1 is an anomaly."""
    return {
        "0": "normal",
        "1": "anomaly",
        "true": "anomaly",
        "false": "normal",
        "0.0": "normal",
        "1.0": "anomaly",
    }.get(label.casefold(), label)
