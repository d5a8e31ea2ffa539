"""Published data sets as they are handed out: per category the pictures that train and those that are judged.

Only names and VisA's split file are read; no picture is opened.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.errors import UnknownLayout
from storage.layouts import Entry, Layout, contents, scan
from storage.records import Label

SPLIT_FILE = "split_csv/1cls.csv"  # VisA's: one category at a time, only normal pictures in training
COLUMNS = ("object", "split", "label", "image", "mask")
LABELS = {
    ("train", "normal"): Label.NORMAL,
    ("test", "normal"): Label.NORMAL,
    ("test", "anomaly"): Label.ANOMALOUS,
}
MVTEC = "train/good, test/good, test/<defect type> and ground_truth/<defect type>/<picture>_mask.png"
LAYOUTS = {
    "mvtec": f"<category>/ with {MVTEC}",
    "visa": f"{SPLIT_FILE} with the columns {','.join(COLUMNS)}, and the files that it names",
    "btad": "<01, 02, 03>/ with train/ok, test/ok, test/ko and ground_truth/ko/<picture>.png or .bmp",
    "mpdd": f"<category>/ with {MVTEC}",
}


def read_set(name: str, root: Path) -> dict[str, Layout]:
    """Find the categories of a published set; every picture has a split.

    Args:
        name: a key of LAYOUTS.
        root: the folder of the set; of all sets but VisA the folder of one category will do.
    Returns:
        by category, in order of their names; each has training pictures and test pictures of both labels.
    Raises:
        UnknownLayout: the folder or a category is arranged otherwise, or a file that VisA's split file names is
            not there; says what was found, what was expected and what to do.
    """
    root = root.resolve()  # a category is called as its folder, even where that is given as "."
    categories = _by_split_file(root) if name == "visa" else _by_folders(name, root)
    for category, layout in categories.items():
        counts = {
            "training pictures": sum(entry.split == "train" for entry in layout.entries),
            "normal test pictures": _tested(layout, Label.NORMAL),
            "anomalous test pictures": _tested(layout, Label.ANOMALOUS),
        }
        if not all(counts.values()):
            found = ", ".join(f"{count} {what}" for what, count in counts.items())
            raise UnknownLayout(
                f"Category '{category}' of '{root}' has {found}; each must be there. "
                f"Expected is {LAYOUTS[name]}. Complete the category or take it out."
            )
    return categories


def _tested(layout: Layout, label: Label) -> int:
    return sum(entry.split == "test" and entry.label is label for entry in layout.entries)


def _by_folders(name: str, root: Path) -> dict[str, Layout]:
    alone = (root / "train").is_dir()
    folders = [root] if alone else sorted(path.parent for path in root.glob("[!.]*/train") if path.is_dir())
    if not folders:
        raise UnknownLayout(
            f"Folder '{root}' holds {contents(root)}, and none of its folders has a folder train; "
            f"expected is {LAYOUTS[name]}. Give the folder that holds the categories, or one of them."
        )
    return {folder.name: scan(folder) for folder in folders}


def _by_split_file(root: Path) -> dict[str, Layout]:
    """Read VisA's split file; it alone decides, whatever else lies in the folder."""
    file = root / SPLIT_FILE
    if not file.is_file():
        raise UnknownLayout(
            f"Folder '{root}' holds {contents(root)}, but no {SPLIT_FILE}; expected is {LAYOUTS['visa']}. "
            "Give VisA's folder with the split file of its publication; a tree that was converted to train/good and "
            "test/good is read as mvtec."
        )
    objects: dict[str, list[Entry]] = {}
    lines: dict[Path, int] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            rows = csv.DictReader(text)
            if sorted(rows.fieldnames or ()) != sorted(COLUMNS):
                raise UnknownLayout(
                    f"File '{file}' has the columns {','.join(rows.fieldnames or ())}; they must be "
                    f"{','.join(COLUMNS)}. Take the split file of VisA's publication."
                )
            for row in rows:
                entry = _visa_entry(root, row, where := f"Line {rows.line_num} of '{file}'")
                if entry.path in lines:
                    raise UnknownLayout(
                        f"{where} names '{entry.name}', which line {lines[entry.path]} names already; a picture "
                        "has one place. Take one of the lines out."
                    )
                lines[entry.path] = rows.line_num
                objects.setdefault(row["object"], []).append(entry)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnknownLayout(
            f"File '{file}' is no CSV text ({error}). Take the split file of VisA's publication."
        ) from error
    if not objects:
        raise UnknownLayout(f"File '{file}' names no picture. Take the split file of VisA's publication.")
    return {name: _visa_layout(objects[name]) for name in sorted(objects)}


def _visa_entry(root: Path, row: Mapping[Any, Any], where: str) -> Entry:
    if None in row or None in row.values():
        raise UnknownLayout(f"{where} has not one value per column ({','.join(COLUMNS)}). Mend the line.")
    split, label = row["split"], row["label"]
    if (split, label) not in LABELS:
        allowed = "; ".join(f"{split},{label}" for split, label in LABELS)
        raise UnknownLayout(
            f"{where} has split,label {split},{label}; they must be one of {allowed}. Mend the line."
        )
    return Entry(
        path=_named(root, row["image"], where),
        name=row["image"],
        split="train" if split == "train" else "test",
        label=LABELS[split, label],
        defect_type=None if label == "normal" else "anomaly",
        mask_path=_named(root, row["mask"], where) if label == "anomaly" and row["mask"] else None,
    )


def _named(root: Path, name: str, where: str) -> Path:
    path = root / name
    if not path.is_file():
        raise UnknownLayout(
            f"{where} names '{name}', and there is no such file in '{root}'. "
            "Unpack the whole set there, or take the line out."
        )
    return path


def _visa_layout(entries: list[Entry]) -> Layout:
    entries.sort(key=lambda entry: entry.name)
    unmasked = sum(entry.label is Label.ANOMALOUS and entry.mask_path is None for entry in entries)
    notes = (f"Anomalous pictures without a mask: {unmasked}.",) if unmasked else ()
    return Layout(kind="visa", entries=tuple(entries), notes=notes)
