"""The rows of a file that may be a list of pictures: CSV, one JSON array, or JSON lines.

Many files that lie beside pictures look like lists and are none: tables of measurements, annotations of labelling
tools. So a fault is an error only where the file names pictures; else the file is no list.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from storage.errors import UnknownLayout
from storage.listing import SourceFile
from storage.names import control_character, shown
from storage.room import size_text
from storage.tree import PICTURE_SUFFIXES, is_picture

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
MAX_BYTES = 100_000_000  # of a list; a million pictures need about as much
_ENDING = re.compile(
    "|".join(re.escape(suffix) + r"\b" for suffix in sorted(PICTURE_SUFFIXES)), re.IGNORECASE
)
_BETWEEN = re.compile(r"[\s,]*")
_SEARCHED = 1_000_000  # characters of a broken line that are searched for names of pictures


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a list."""

    where: str  # for messages: "Line 3 of 'list.csv'"
    values: Mapping[str, Any]  # by column

    def column(self, what: str) -> str | None:
        """The column that says something, the best where there are several."""
        return _column(tuple(self.values), what)

    def text(self, what: str) -> str:
        """What the row says, as text; "" where it says nothing.

        Args:
            what: a key of COLUMNS.
        Raises:
            UnknownLayout: it holds a character that can't be shown or kept.
        """
        column = self.column(what)
        return "" if column is None else self.checked(column, self.values[column])

    def checked(self, column: str, value: object) -> str:
        """A value of a column as text, without spaces around it.

        Raises:
            UnknownLayout: it holds a character that can't be shown or kept.
        """
        text = "" if value is None else str(value).strip()
        if found := control_character(text):
            raise UnknownLayout(
                f"{self.where} holds the control character {found} in the column '{column}': {shown(text)}. "
                "Mend the line."
            )
        return text

    @property
    def names_picture(self) -> bool:
        """Whether it names a file that is a picture by its suffix."""
        column = self.column("path")
        return column is not None and is_picture(str(self.values[column]).strip())


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What was found in a file."""

    rows: tuple[Row, ...] = ()
    unread: str | None = None  # why there are none, as the rest of "…, for it"


def read_rows(file: SourceFile) -> Rows:
    """Read the rows of a file; none where it is no list of pictures.

    Raises:
        UnknownLayout: it names pictures, and a line of it can't be read.
    """
    try:
        size = file.path.stat().st_size
        if size > MAX_BYTES:  # else it would first fill the memory
            return Rows(unread=f"has more than {size_text(MAX_BYTES)}")
        text = file.path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return Rows(unread="is no UTF-8 text")
    except OSError:
        return Rows(unread="may not be read")
    if text.lstrip().startswith(("{", "[")):
        return _json_rows(text, file.name)
    return _csv_rows(text, file.name)


def _json_rows(text: str, name: str) -> Rows:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):  # a ValueError, too, is a number of more than 4,300 digits
        return _array_until_fault(text, name) if text.lstrip().startswith("[") else _json_lines(text, name)
    if isinstance(whole, list):
        return Rows(
            rows=tuple(_entry(name, number, one) for number, one in enumerate(whole, 1) if _is_row(one))
        )
    # One object is a line of a list if that is what its file holds; else it is an annotation, or a description.
    lines = PurePosixPath(name).suffix.lower() != ".json"
    return Rows(rows=(Row(where=f"Line 1 of '{name}'", values=whole),) if lines else ())


def _is_row(value: object) -> bool:
    return isinstance(value, dict)


def _entry(name: str, number: int, values: Mapping[str, Any]) -> Row:
    return Row(where=f"Entry {number} of '{name}'", values=values)


def _json_lines(text: str, name: str) -> Rows:
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"Line {number} of '{name}'"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            return _broken(rows, f"{where} is no JSON: {error}. Mend the line.")
        if not isinstance(values, dict):
            return _broken(rows, f'{where} is no JSON object. Write {{"path": …}} in each line.')
        rows.append(Row(where=where, values=values))
    return Rows(rows=tuple(rows))


def _array_until_fault(text: str, name: str) -> Rows:
    """For an array that can't be read as a whole."""
    decoder = json.JSONDecoder()
    rows: list[Row] = []
    at, number = text.index("[") + 1, 1
    while True:
        start = _BETWEEN.match(text, at)
        try:
            value, at = decoder.raw_decode(text, at if start is None else start.end())
        except (ValueError, RecursionError) as error:
            return _broken(rows, f"Entry {number} of '{name}' is no JSON: {error}. Mend it.")
        if _is_row(value):
            rows.append(_entry(name, number, value))
        number += 1


def _broken(rows: Sequence[Row], fault: str) -> Rows:
    if any(row.names_picture for row in rows):
        raise UnknownLayout(fault)
    return Rows(unread="is no JSON")


def _csv_rows(text: str, name: str) -> Rows:
    head = text.partition("\n")[0]
    delimiter = max(",;\t|", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[Row] = []
    fault: str | None = None
    names: list[str] = []
    try:
        names = next(reader, [])
        if _column(tuple(names), "path") is None:
            return Rows()
        for cells in reader:
            where = f"Line {reader.line_num} of '{name}'"
            if len(cells) == len(names):
                rows.append(Row(where=where, values=dict(zip(names, cells, strict=True))))
            elif cells:
                fault = fault or (
                    f"{where} has not one value for each of the columns {', '.join(names)}: it has {len(cells)}. "
                    "Mend the line."
                )
                if any(map(_ENDING.search, cells)):
                    raise UnknownLayout(fault)
    except csv.Error as error:
        fault = fault or (
            f"Line {reader.line_num} of '{name}' is no CSV: {error}. Mend the line; perhaps a quotation mark stands "
            "alone there, or before."
        )
        line = "\n".join(text.split("\n")[reader.line_num - 1 : reader.line_num])
        if _column(tuple(names), "path") is not None and _ENDING.search(line[:_SEARCHED]):
            raise UnknownLayout(fault) from error
    if fault and any(row.names_picture for row in rows):
        raise UnknownLayout(fault)
    return Rows(rows=tuple(rows) if fault is None else (), unread="is no CSV" if fault else None)


@lru_cache(maxsize=64)  # all rows of a list have the same columns
def _column(names: tuple[str, ...], what: str) -> str | None:
    folded = {name.strip().casefold(): name for name in names}
    return next((folded[one] for one in COLUMNS[what] if one in folded), None)
