"""Which mask belongs to which picture, by their names.

`ground_truth/scratch/007_mask.png`, `…/007_mask_2.png`, `…/007.png` and everything in `…/007/` belong to
`test/scratch/007.jpg`, as does `masks/007.png` where no other anomalous picture is called 007.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from storage.entries import Entry, note
from storage.label_words import CONTAINERS, MASK_ENDING, fold, is_mask_folder, split_word
from storage.listing import SourceFile
from storage.records import Label

_Key = tuple[str, ...]


def attach(
    entries: Sequence[Entry], masks: Sequence[SourceFile], own_name: Callable[[SourceFile], str]
) -> tuple[list[Entry], list[str]]:
    """Give every mask to its picture.

    Args:
        own_name: how a mask is called from the folder that the entries' names begin in.
    Returns:
        the entries with their masks, and notes about masks that fit no picture, several, or normal ones.
    """
    index = _index(entries)
    found: dict[int, list[SourceFile]] = defaultdict(list)
    strangers, of_normal = [], []
    for mask in sorted(masks, key=own_name):
        owners = _owners(own_name(mask), index, entries)
        if not owners:
            strangers.append(own_name(mask))
        elif all(entries[owner].label is Label.NORMAL for owner in owners):
            of_normal.append(own_name(mask))
        for owner in owners:
            found[owner].append(mask)
    masked = [
        replace(entry, masks=tuple(replace(mask, name=own_name(mask)) for mask in found[number]))
        if number in found and entry.label is Label.ANOMALOUS
        else entry
        for number, entry in enumerate(entries)
    ]
    return masked, note("Masks without a picture", strangers) + note(
        "Left out, masks of normal pictures", of_normal
    )


def with_masks(
    entries: Sequence[Entry], masks: Sequence[SourceFile], own_name: Callable[[SourceFile], str]
) -> tuple[list[Entry], list[str]]:
    """As `attach`, but of pictures that nothing else tells apart those with a mask become the anomalous ones."""
    as_anomalous = [replace(entry, label=Label.ANOMALOUS) for entry in entries]
    attached, notes = attach(as_anomalous, masks, own_name)
    told = [
        replace(new, group="with a mask") if new.masks else old
        for old, new in zip(entries, attached, strict=True)
    ]
    number = sum(bool(entry.masks) for entry in told)
    if number:
        notes.insert(
            0,
            f"Pictures with a mask ({number}) count as anomalous, those without ({len(told) - number}) as normal.",
        )
    return told, notes


def _index(entries: Sequence[Entry]) -> tuple[dict[_Key, list[int]], ...]:
    """Pictures by what their masks may be named after, from the whole name to the stem alone."""
    levels: tuple[dict[_Key, list[int]], ...] = tuple(defaultdict(list) for _ in range(4))
    for number, entry in enumerate(entries):
        for level, key in zip(levels, _keys(_key(entry.name)), strict=True):
            level[key].append(number)
    return levels


def _owners(name: str, levels: Sequence[dict[_Key, list[int]]], entries: Sequence[Entry]) -> list[int]:
    key = _key(name)
    ending = MASK_ENDING.search(key[-1])
    variants = [
        key,
        *([(*key[:-1], key[-1][: ending.start()])] if ending else []),
        *([key[:-1]] if key[1:] else []),
    ]
    for depth, level in enumerate(levels):
        for variant in variants:
            for wanted in dict.fromkeys((variant, _without_split(variant))):
                numbers = level.get(wanted, [])
                if depth:
                    numbers = _preferred(numbers, entries)
                if numbers:
                    return numbers
    return []


def _preferred(numbers: list[int], entries: Sequence[Entry]) -> list[int]:
    """Of pictures that a shortened name fits: the anomalous ones, those for testing; none if that leaves several."""
    for fits in (
        lambda entry: entry.label is Label.ANOMALOUS,
        lambda entry: entry.split == "test",
    ):
        numbers = [number for number in numbers if fits(entries[number])] or numbers
    return numbers if len({_key(entries[number].name) for number in numbers}) == 1 else []


def _key(name: str) -> _Key:
    *folders, last = name.split("/")
    kept = [fold(part) for part in folders if not is_mask_folder(part) and fold(part) not in CONTAINERS]
    return (*kept, fold(PurePosixPath(last).stem))


def _keys(key: _Key) -> tuple[_Key, _Key, _Key, _Key]:
    bare = _without_split(key)
    return key, bare, bare[1:] or bare, key[-1:]


def _without_split(key: _Key) -> _Key:
    return tuple(part for part in key[:-1] if not split_word(part)) + key[-1:]
