"""Rules for names of given files, so that each can be shown, stored, matched and written on any computer.

Names come from archives, browsers and folders; they are relative, with forward slashes. Nothing here looks at a disk.
"""

import re
import unicodedata
from collections.abc import Sequence

from storage.errors import BadName, UnsafeName

MAX_PART_BYTES = 255  # of ext4, APFS and NTFS alike
MAX_NAME_BYTES = 1_000  # macOS allows 1,024 for a whole path; the folder that it is put in needs some
SHOWN_CHARACTERS = 80

# Windows opens the device whatever follows the first full stop: 'aux.png' is no file there.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$", "clock$"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³"}
)
_DRIVE = re.compile(r"[A-Za-z]:")
# Cc are controls, Cs halves of characters that no encoding has, Zl and Zp line breaks. The last two groups turn the
# direction of text, so that 'gnp.exe' can be shown as 'exe.png'; other format characters (Cf) are part of scripts and
# emoji.
_BREAKING_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_name(name: str) -> None:
    """Accept the relative name of a file ('test/scratch/007.png') or say what is wrong with it.

    Raises:
        UnsafeName: it leads out of the folder that it is relative to: absolute, '..', a drive.
        BadName: some computer could not keep or show it: too long, control characters, reserved by Windows,
        not UTF-8, empty parts, a backslash.
    """
    # Backslashes separate on Windows: '..\..\x' leads out there.
    slashed = name.replace("\\", "/")
    if slashed.startswith("/"):
        raise UnsafeName(
            f"Name {shown(name)} begins at the root; names must be relative. Pack the folder itself."
        )
    if _DRIVE.match(name):
        raise UnsafeName(
            f"Name {shown(name)} begins with a drive; names must be relative. Pack the folder itself."
        )
    if ".." in slashed.split("/"):
        raise UnsafeName(
            f"Name {shown(name)} leads out of its folder; no part may be '..'. Pack the folder itself."
        )
    if fault := _fault(name):
        raise BadName(f"Name {shown(name)} {fault}. Rename it.")


def faults(names: Sequence[str]) -> dict[int, str]:
    """Say which of many names can't be kept, so that the others can.

    Returns:
        Index → a sentence of why and what to do, for names that `check_name` refuses, and for those that were there
        before, be it in a spelling that some computers take for the same.
    """
    found: dict[int, str] = {}
    seen: dict[str, str] = {}  # folded → as first seen
    for index, name in enumerate(names):
        try:
            check_name(name)
        except BadName as error:
            found[index] = str(error)
            continue
        first = seen.get(key := folded(name))
        if first is None:
            seen[key] = name
        elif first == name:
            found[index] = (
                f"Name {shown(name)} is given twice; the first is taken. Rename the other, or leave it out."
            )
        else:
            found[index] = collision(first, name)
    return found


def collision(first: str, name: str) -> str:
    """Say what is wrong with a name that is another one's in a different spelling; see `folded`."""
    return (
        f"Name {shown(name)} differs from {shown(first)} only in upper and lower case or in how accents are written; "
        "Windows and macOS take them for one. Rename it."
    )


def folded(name: str) -> str:
    """The form in which names are the same that differ only in case, or in how accents are composed."""
    # Folding can take composed letters apart (U+01F0), so they are put together again.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def shown(name: str) -> str:
    """A name in quotes for a message: on one line, encodable, at most 80 characters of it."""
    if len(name) > SHOWN_CHARACTERS:
        half = SHOWN_CHARACTERS // 2
        name = f"{name[:half]}…{name[-half + 1 :]}"
    return "'" + "".join(_escaped(character) for character in name) + "'"


def control_character(text: str) -> str | None:
    """The first character of a text that can't be shown or kept as it is, as 'U+0000'; None where there is none."""
    if text.isascii() and text.isprintable():  # nearly all are, and this takes no time
        return None
    for character in text:
        if unicodedata.category(character) in _BREAKING_CATEGORIES or character in _TURNING:
            return f"U+{ord(character):04X}"
    return None


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def _fault(name: str) -> str | None:
    """What is wrong with a name that leads nowhere, as the rest of a sentence."""
    if not name:
        return "is empty; a name has at least one character"
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not UTF-8; names must be"
    if found := control_character(name):
        return f"holds the control character {found}; names must be plain text"
    if length > MAX_NAME_BYTES:
        return f"has {length} bytes; at most {MAX_NAME_BYTES} are allowed"
    if "\\" in name:
        return "holds a backslash; folders are separated by '/'"
    for part in name.split("/"):
        if fault := _part_fault(part):
            return fault
    return None


def _part_fault(part: str) -> str | None:
    if part in ("", "."):
        return f"has the part '{part}' between its slashes; every part must name a folder or a file"
    if (length := len(part.encode("utf-8"))) > MAX_PART_BYTES:
        return f"has a part of {length} bytes; at most {MAX_PART_BYTES} are allowed"
    if part.endswith((".", " ")):
        return f"has the part {shown(part)}; Windows allows no full stop or space at the end"
    if part.split(".", 1)[0].rstrip(" ").casefold() in _DEVICES:
        return f"has the part {shown(part)}; Windows keeps that name for a device"
    return None
