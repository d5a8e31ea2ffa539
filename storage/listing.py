"""Files that somebody gave us: the name they came under, and where their bytes lie."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from storage.errors import BadName, UnreadableFolder
from storage.names import faults, shown
from storage.records import Skipped

# What file managers leave behind, in any case; whatever begins with a full stop is hidden as well.
_LEFT_BEHIND = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of a folder, an archive or an upload."""

    name: str  # relative, with forward slashes: 'test/scratch/007.png'; never used as a path
    path: Path  # where its bytes lie, whatever it is called there


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder on the way to it, is one that people don't see: '.git/x', 'Thumbs.db'."""
    return any(
        (part.startswith(".") and part not in (".", "..")) or part.casefold() in _LEFT_BEHIND
        for part in name.split("/")
    )


def walk(folder: Path) -> list[SourceFile]:
    """List the regular files below a folder, by name, whatever they are called. Links are followed as in `survey`.

    Raises:
        UnreadableFolder: see `survey`.
        BadName: the name of a file is not UTF-8, so it could be neither shown nor stored.
    """
    found = _listed(folder)
    if found.unencodable:
        raise BadName(found.unencodable[0].reason)
    return found.files


def survey(folder: Path) -> tuple[list[SourceFile], list[Skipped]]:
    """List the regular files below a folder, by name, and what is left out, with the reason.

    Left out are files whose names some computer could not keep or would take for another's (`storage.names`), links to
    folders (they would list files twice, or without end), links that lead out of the folder or nowhere, and what is no
    file at all. Hidden files and folders are not mentioned.

    Raises:
        UnreadableFolder: the folder or one below doesn't exist, is a file, or may not be read.
    """
    found = _listed(folder)
    wrong = faults([file.name for file in found.files])
    files = [file for index, file in enumerate(found.files) if index not in wrong]
    named = [
        Skipped(name=shown(found.files[index].name)[1:-1], reason=reason) for index, reason in wrong.items()
    ]
    return files, sorted([*found.unencodable, *found.others, *named], key=lambda one: one.name)


@dataclass(kw_only=True)
class _Listed:
    files: list[SourceFile] = field(default_factory=list)
    unencodable: list[Skipped] = field(default_factory=list)  # their names are not UTF-8
    others: list[Skipped] = field(default_factory=list)  # no files that could be read


def _listed(folder: Path) -> _Listed:
    inside = os.path.realpath(folder)
    found = _Listed()
    waiting = [(folder, "")]
    while waiting:
        current, prefix = waiting.pop()
        try:
            with os.scandir(current) as children:
                seen = [child for child in children if not is_hidden(child.name)]
        except OSError as error:
            raise UnreadableFolder(
                f"Folder {shown(str(current))} can't be listed: {error.strerror}. "
                "Give a folder that exists and that this program may read."
            ) from error
        for child in seen:
            name = prefix + child.name
            printed = shown(name)[1:-1]
            if child.is_dir(follow_symlinks=False):
                waiting.append((Path(child.path), name + "/"))
            elif reason := _no_file(child, inside):
                found.others.append(Skipped(name=printed, reason=reason))
            elif _is_utf8(name):
                found.files.append(SourceFile(name=name, path=Path(child.path)))
            else:
                reason = f"Name {shown(name)} is not UTF-8; names must be. Rename it."
                found.unencodable.append(Skipped(name=printed, reason=reason))
    found.files.sort(key=lambda file: file.name)
    found.unencodable.sort(key=lambda one: one.name)
    return found


def _no_file(entry: "os.DirEntry[str]", inside: str) -> str | None:
    """Why an entry that is no folder is not taken; None for a file, and for a link to one inside."""
    if entry.is_symlink():
        if os.path.isdir(entry.path):
            return "It is a link to a folder; links to folders are not followed. Put the folder itself there."
        if not os.path.isfile(entry.path):
            return "It is a link to nothing; a link must lead to a file. Put the file itself there."
        if not _leads_inside(entry.path, inside):
            return (
                "It is a link that leads out of the folder; it must stay inside. Put the file itself there."
            )
        return None
    return (
        None if entry.is_file() else "It is a pipe, a socket or a device; only files are taken. Take it out."
    )


def _leads_inside(link: str, folder: str) -> bool:
    return os.path.commonpath([os.path.realpath(link), folder]) == folder


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
