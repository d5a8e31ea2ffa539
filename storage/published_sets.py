"""Published data sets as they are handed out: per category the pictures that train and those that are judged.

Only names and VisA's split file are read; no picture is opened.
"""

from pathlib import Path

from storage.errors import UnknownLayout
from storage.layouts import Layout, contents, scan
from storage.listing import walk
from storage.records import Label
from storage.visa import COLUMNS, SPLIT_FILE, read_split_file

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
    found = read_split_file(walk(root), str(root)) if (root / SPLIT_FILE).is_file() else None
    if found is None:
        raise UnknownLayout(
            f"Folder '{root}' holds {contents(root)}, but no {SPLIT_FILE}; expected is {LAYOUTS['visa']}. "
            "Give VisA's folder with the split file of its publication; a tree that was converted to train/good and "
            "test/good is read as mvtec."
        )
    return found
