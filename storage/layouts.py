"""How people arrange pictures, and what the arrangement says about each picture.

Only names are looked at, and lists of pictures read; no picture is opened. Hidden files are never seen.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from storage.entries import Entry, Layout, balanced, left_out, note
from storage.errors import UnknownLayout
from storage.label_words import dataset_name, guess_normal, question, split_word, verdict
from storage.listing import SourceFile, walk
from storage.manifests import read_lists
from storage.mask_names import attach, with_masks
from storage.records import Label
from storage.tree import Folder, plant, tells_nothing
from storage.visa import read_split_file

__all__ = ["Choice", "Entry", "Group", "Layout", "choose", "contents", "groups", "scan", "understand"]

UNDERSTOOD = (
    "Understood are: a plain folder of pictures of normal parts; two or more folders of which one holds the normal "
    "parts, as good and bad; the MVTec layout with train/good, test/good, test/<defect type> and, where there are "
    "masks, ground_truth/<defect type>/<picture>_mask.png (good may be called ok or normal, a mask as its picture); "
    "a folder of several such; VisA with split_csv/1cls.csv; and a list of pictures as CSV or JSON lines with a "
    "column path."
)

EXPORT_TABLE = "roles.txt"  # that our own exports carry at their top; nobody misses it


@dataclass(frozen=True, kw_only=True)
class Group:
    """Pictures that came together, in a folder or under a label."""

    key: str  # what people call it: 'test/scratch'
    pictures: int
    masks: int  # pictures with a mask
    split: Literal["train", "test"] | None
    label: Label
    defect_type: str | None
    examples: tuple[str, ...]  # names of the first pictures


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a person decides for a group."""

    split: Literal["train", "test"] | None
    label: Label
    defect_type: str | None = None
    leave_out: bool = False


def understand(
    files: Sequence[SourceFile],
    origin: str,
    *,
    normal: str | None = None,
    only_list: SourceFile | None = None,
) -> tuple[Layout, ...]:
    """Find out how files are arranged: one layout for each dataset that they make.

    Args:
        origin: where they came from, for messages and for names.
        normal: the folder or label of the normal parts, where names don't say it.
        only_list: a list of pictures that alone decides, whatever else lies there.
    Raises:
        UnknownLayout: there are no pictures, or they are arranged in another way; says what was found and what to do.
    """
    visa = None if only_list else read_split_file(files, origin)
    if visa is not None:
        return tuple(visa.values())
    called = dataset_name(_stem(origin))
    listed = read_lists(files, normal, only=only_list)
    if listed.entries:
        return (
            Layout(
                kind="lookout" if listed.lookout else "manifest",
                name=called,
                entries=listed.entries,
                notes=listed.notes,
                skipped=listed.skipped,
                unsure=listed.unsure,
                answers=listed.answers,
            ),
        )
    found = _by_folders(plant(files), origin, called, normal)
    return tuple(replace(layout, notes=(*layout.notes, *listed.notes)) for layout in found)


def _by_folders(root: Folder, origin: str, called: str, normal: str | None) -> tuple[Layout, ...]:
    if root.name and not tells_nothing(root.name):
        called = dataset_name(root.name)
    if _is_split(root):
        return (_mvtec(root, called, origin),)
    products = [folder for folder in root.filled() if _is_split(folder)]
    if products and not root.pictures:
        found = []
        for product in products:
            own = f"{called}-{product.name}" if tells_nothing(product.name) else product.name
            found.append(_mvtec(product, dataset_name(own), origin))
        return tuple(found)
    inner = root.inner()
    if inner.name and inner is not root and not tells_nothing(inner.name):
        called = dataset_name(inner.name)
    if inner.pictures:
        return (_flat(inner, called),)
    if inner.filled():
        return (_folders(inner, called, normal),)
    raise UnknownLayout(f"'{origin}' holds no pictures that can be placed: {root.describe()}. {UNDERSTOOD}")


def scan(folder: Path) -> Layout:
    """Find out how a folder that holds one dataset is arranged, and list its pictures.

    Raises:
        UnknownLayout: it doesn't exist, holds no pictures or those of several products, or is arranged in another way.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "doesn't exist"
        raise UnknownLayout(f"Folder '{folder}' {what}. Give a folder of pictures. {UNDERSTOOD}")
    found = understand(walk(folder), str(folder))
    if len(found) > 1:
        names = ", ".join(layout.name for layout in found)
        raise UnknownLayout(
            f"Folder '{folder}' holds several products: {names}; a dataset holds one. Give one of their folders."
        )
    return found[0]


def contents(folder: Path) -> str:
    """Say in words what lies directly in a folder: 'folders a, b; 3 pictures'."""
    return plant(walk(folder)).describe()


def groups(layout: Layout) -> tuple[Group, ...]:
    """The pictures of a layout by where they came from, in the order of their names."""
    by_key: dict[str, list[Entry]] = defaultdict(list)
    for entry in layout.entries:
        by_key[entry.group].append(entry)
    return tuple(
        Group(
            key=key,
            pictures=len(entries),
            masks=sum(bool(entry.masks) for entry in entries),
            split=entries[0].split,
            label=entries[0].label,
            defect_type=entries[0].defect_type,
            examples=tuple(entry.name for entry in entries[:8]),
        )
        for key, entries in by_key.items()
    )


def choose(layout: Layout, choices: Mapping[str, Choice]) -> Layout:
    """The layout as a person decided; groups without a choice stay as they were understood.

    Raises:
        UnknownLayout: a choice is for a group that isn't there, or nothing is left.
    """
    keys = {entry.group for entry in layout.entries}
    unknown = sorted(set(choices) - keys)
    if unknown:
        raise UnknownLayout(
            f"There is no group '{unknown[0]}'; there are {', '.join(sorted(keys))}. Choose among them."
        )
    entries = []
    for entry in layout.entries:
        choice = choices.get(entry.group)
        if choice is None:
            entries.append(entry)
        elif not choice.leave_out:
            anomalous = choice.label is Label.ANOMALOUS
            kind = choice.defect_type if anomalous else None
            masks = entry.masks if anomalous else ()
            entries.append(
                replace(entry, split=choice.split, label=choice.label, defect_type=kind, masks=masks)
            )
    if not entries:
        raise UnknownLayout("All groups are left out; a dataset needs pictures. Use at least one.")
    return replace(layout, entries=tuple(entries))


def _stem(origin: str) -> str:
    name = PurePosixPath(origin.replace("\\", "/")).name
    for suffix in (".zip", ".gz", ".tgz", ".bz2", ".xz", ".tar", ".manifest", ".csv", ".json", ".jsonl"):
        name = name.removesuffix(suffix)
    return name


def _is_split(folder: Folder) -> bool:
    return any(split_word(name) for name in folder.folders)


def _mvtec(root: Folder, called: str, origin: str) -> Layout:
    entries: list[Entry] = []
    strangers = [*root.others, *root.pictures]
    unread: list[str] = []
    oks = 0
    for name, top in root.folders.items():
        split = split_word(name)
        if split is None:
            if top.all_pictures():
                unread.append(root.own_name(SourceFile(name=top.path, path=Path())))
            continue
        strangers += top.others
        if split == "train":  # pictures directly in train are normal ones; in test nobody knows what they are
            entries += [_entry(root, picture, split, Label.NORMAL, None, name) for picture in top.pictures]
        else:
            strangers += top.pictures
        for kind in top.folders.values():
            label = verdict(kind.name) or Label.ANOMALOUS
            oks += kind.name.casefold() in ("ok", "ko")
            strangers += kind.all_others()
            entries += [
                _entry(root, picture, split, label, kind.name, f"{name}/{kind.name}")
                for picture in kind.all_pictures()
            ]
    if not any(entry.split == "train" and entry.label is Label.NORMAL for entry in entries):
        raise UnknownLayout(_no_training_pictures(root, origin))
    entries, notes = attach(sorted(entries, key=lambda entry: entry.name), root.all_masks(), root.own_name)
    entries, more = balanced(entries)
    notes += more
    more, skipped = left_out(
        "Left out, not pictures or not inside a folder for their kind",
        [name for name in map(root.own_name, strangers) if name != EXPORT_TABLE],
    )
    notes += more
    notes += note("Left out, folders that have no place in the layout", unread)
    notes += note(
        "Anomalous pictures without a mask",
        [entry.name for entry in entries if entry.label is Label.ANOMALOUS and not entry.masks],
    )
    return Layout(
        kind="btad" if oks > 1 else "mvtec",
        name=called,
        entries=tuple(entries),
        notes=tuple(notes),
        skipped=skipped,
    )


def _entry(
    root: Folder,
    picture: SourceFile,
    split: Literal["train", "test"] | None,
    label: Label,
    kind: str | None,
    group: str,
) -> Entry:
    return Entry(
        path=picture.path,
        name=root.own_name(picture),
        split=split,
        label=label,
        defect_type=kind if label is Label.ANOMALOUS else None,
        group=group,
    )


def _no_training_pictures(root: Folder, origin: str) -> str:
    train = next((folder for name, folder in root.folders.items() if split_word(name) == "train"), None)
    if train is None:
        found = "has a folder test, but no folder train"
    else:
        found = f"has no pictures of normal parts in train; train holds: {train.describe()}"
    where = f"'{origin}'" + (f", folder '{root.path}'," if root.path else "")
    return f"Folder {where} {found}. Put pictures of normal parts into train/good. {UNDERSTOOD}"


def _flat(folder: Folder, called: str) -> Layout:
    group = folder.name or "pictures"
    entries = [_entry(folder, picture, None, Label.NORMAL, None, group) for picture in folder.pictures]
    notes: list[str] = []
    if folder.all_masks():
        entries, notes = with_masks(entries, folder.all_masks(), folder.own_name)
    beside = [name for name, inside in folder.folders.items() if inside.all_pictures()]
    more, skipped = left_out("Left out, not pictures", map(folder.own_name, folder.others))
    notes += more
    notes += note("Left out, folders beside the pictures", beside)
    return Layout(kind="flat", name=called, entries=tuple(entries), notes=tuple(notes), skipped=skipped)


def _folders(root: Folder, called: str, normal: str | None) -> Layout:
    """A folder per kind: one of normal parts, the others of anomalous ones."""
    kinds = {folder.name: folder for folder in root.filled()}
    counts = {name: len(folder.all_pictures()) for name, folder in kinds.items()}
    guess = guess_normal(counts, normal)
    entries: list[Entry] = []
    for name, folder in kinds.items():
        label = Label.NORMAL if name in guess.normal else Label.ANOMALOUS
        for picture in folder.all_pictures():
            below = folder.own_name(picture).split("/")[:-1]  # bad/scratch/1.png
            spoken = verdict(name) is Label.ANOMALOUS
            kind = below[0] if below else None if spoken else name
            group = "/".join([name, *below[:1]])
            entries.append(_entry(root, picture, None, label, kind, group))
    entries.sort(key=lambda entry: entry.name)
    entries, notes = attach(entries, root.all_masks(), root.own_name)
    more, skipped = left_out("Left out, not pictures", map(root.own_name, root.all_others()))
    notes += more
    return Layout(
        kind="two_folders" if len(kinds) == 2 else "folders",
        name=called,
        entries=tuple(entries),
        notes=tuple(notes),
        skipped=skipped,
        unsure=question("folder", counts, guess),
        answers=tuple(counts),
    )
