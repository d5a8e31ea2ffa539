"""VisA's split file: one category at a time, only normal pictures in training; it alone decides."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.entries import Entry, Layout
from storage.errors import UnknownLayout
from storage.label_words import dataset_name
from storage.list_rows import MAX_BYTES
from storage.listing import SourceFile
from storage.records import Label
from storage.room import size_text

SPLIT_FILE = "split_csv/1cls.csv"
COLUMNS = ("object", "split", "label", "image", "mask")
LABELS = {
    ("train", "normal"): Label.NORMAL,
    ("test", "normal"): Label.NORMAL,
    ("test", "anomaly"): Label.ANOMALOUS,
}


def read_split_file(files: Sequence[SourceFile], origin: str) -> dict[str, Layout] | None:
    """Read the categories that a split file names, by name; None where there is no split file.

    Args:
        origin: where the files came from, for messages.
    Raises:
        UnknownLayout: a line is not as published, or names a file that is not there.
    """
    file = next((file for file in files if f"/{file.name}".endswith(f"/{SPLIT_FILE}")), None)
    if file is None:
        return None
    top = file.name.removesuffix(SPLIT_FILE)
    by_name = {one.name.removeprefix(top): one.path for one in files}
    called = Path(origin) / file.name
    objects: dict[str, list[Entry]] = {}
    lines: dict[str, int] = {}
    if file.path.stat().st_size > MAX_BYTES:  # else it would first fill the memory
        raise UnknownLayout(
            f"File '{called}' has more than {size_text(MAX_BYTES)}; a split file is smaller. Take the split file of "
            "VisA's publication."
        )
    try:
        text = io.StringIO(file.path.read_bytes().decode("utf-8-sig"), newline="")
        rows = csv.DictReader(text)
        if sorted(rows.fieldnames or ()) != sorted(COLUMNS):
            raise UnknownLayout(
                f"File '{called}' has the columns {','.join(rows.fieldnames or ())}; they must be "
                f"{','.join(COLUMNS)}. Take the split file of VisA's publication."
            )
        for row in rows:
            entry = _entry(by_name, origin, row, where := f"Line {rows.line_num} of '{called}'")
            if entry.name in lines:
                raise UnknownLayout(
                    f"{where} names '{entry.name}', which line {lines[entry.name]} names already; a picture "
                    "has one place. Take one of the lines out."
                )
            lines[entry.name] = rows.line_num
            objects.setdefault(row["object"], []).append(entry)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnknownLayout(
            f"File '{called}' is no CSV text ({error}). Take the split file of VisA's publication."
        ) from error
    if not objects:
        raise UnknownLayout(f"File '{called}' names no picture. Take the split file of VisA's publication.")
    return {name: _layout(name, objects[name]) for name in sorted(objects)}


def _entry(by_name: Mapping[str, Path], origin: str, row: Mapping[Any, Any], where: str) -> Entry:
    if None in row or None in row.values():
        raise UnknownLayout(f"{where} has not one value per column ({','.join(COLUMNS)}). Mend the line.")
    split, label = row["split"], row["label"]
    if (split, label) not in LABELS:
        allowed = "; ".join(f"{split},{label}" for split, label in LABELS)
        raise UnknownLayout(
            f"{where} has split,label {split},{label}; they must be one of {allowed}. Mend the line."
        )

    def named(name: str) -> SourceFile:
        if name not in by_name:
            raise UnknownLayout(
                f"{where} names '{name}', and there is no such file in '{origin}'. "
                "Unpack the whole set there, or take the line out."
            )
        return SourceFile(name=name, path=by_name[name])

    return Entry(
        path=named(row["image"]).path,
        name=row["image"],
        split="train" if split == "train" else "test",
        label=LABELS[split, label],
        defect_type=None if label == "normal" else "anomaly",
        masks=(named(row["mask"]),) if label == "anomaly" and row["mask"] else (),
        group=f"{split}, {label}",
    )


def _layout(name: str, entries: list[Entry]) -> Layout:
    entries.sort(key=lambda entry: entry.name)
    unmasked = sum(entry.label is Label.ANOMALOUS and not entry.masks for entry in entries)
    notes = (f"Anomalous pictures without a mask: {unmasked}.",) if unmasked else ()
    return Layout(kind="visa", name=dataset_name(name), entries=tuple(entries), notes=notes)
