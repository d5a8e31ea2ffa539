"""Files that somebody gave us: the name they came under, and where their bytes lie."""

import os
from dataclasses import dataclass
from pathlib import Path

from storage.errors import BadName, UnreadableFolder
from storage.names import shown
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
    """List the regular files below a folder, by name; see `survey`.

    Raises:
        UnreadableFolder: see `survey`.
        BadName: the name of a file is not UTF-8, so it could be neither shown nor stored.
    """
    files, refused = survey(folder)
    if refused:
        raise BadName(refused[0].reason)
    return files


def survey(folder: Path) -> tuple[list[SourceFile], list[Skipped]]:
    """List the regular files below a folder, by name, and those whose names are not UTF-8, with the reason.

    Left out are hidden files and folders, links to folders (they would list files twice, or without end), links
    that lead out of the folder, and what is no file at all.

    Raises:
        UnreadableFolder: the folder or one below doesn't exist, is a file, or may not be read.
    """
    inside = os.path.realpath(folder)
    files: list[SourceFile] = []
    refused: list[Skipped] = []
    waiting = [(folder, "")]
    while waiting:
        current, prefix = waiting.pop()
        try:
            with os.scandir(current) as children:
                found = [child for child in children if not is_hidden(child.name)]
        except OSError as error:
            raise UnreadableFolder(
                f"Folder {shown(str(current))} can't be listed: {error.strerror}. "
                "Give a folder that exists and that this program may read."
            ) from error
        for child in found:
            name = prefix + child.name
            if child.is_dir(follow_symlinks=False):
                waiting.append((Path(child.path), name + "/"))
            elif os.path.isfile(child.path) and (not child.is_symlink() or _leads_inside(child.path, inside)):
                if _is_utf8(name):
                    files.append(SourceFile(name=name, path=Path(child.path)))
                else:
                    reason = f"Name {shown(name)} is not UTF-8; names must be. Rename it."
                    refused.append(Skipped(name=shown(name)[1:-1], reason=reason))
    return sorted(files, key=lambda file: file.name), sorted(refused, key=lambda one: one.name)


def _leads_inside(link: str, folder: str) -> bool:
    return os.path.commonpath([os.path.realpath(link), folder]) == folder


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
