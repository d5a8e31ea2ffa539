"""Unpacking archives that nobody vouches for.

The names of members never touch the file system: members are written to `000000`, `000001` … and their names are
kept beside. Whatever an archive says about itself is checked against what is found in it, while it is read once, piece
by piece. What is wrong with the archive refuses the archive; what is wrong with one name refuses that file.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

from storage import decompression, zip_archives
from storage.archive_members import Member, Refused
from storage.decompression import PIECE, Damaged
from storage.errors import BadArchive, BadName, DiskFull, UnsafeName
from storage.listing import SourceFile, is_hidden
from storage.names import check_name, collision, folded, shown
from storage.room import NO_ROOM
from storage.tar_archives import BLOCK, TarStream, begins_tar

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_NESTED_SUFFIXES = (*SUFFIXES, ".7z", ".rar")

_COMPRESSED_TARS = {
    b"\x1f\x8b": decompression.gzip,
    b"BZh": decompression.bzip2,
    b"\xfd7zXZ\0": decompression.xz,
}
_NOT_READ = {b"7z\xbc\xaf\x27\x1c": "a 7z", b"Rar!": "a RAR", b"\x28\xb5\x2f\xfd": "a Zstandard"}
_LEADING_DOTS = re.compile(r"(\./+)+")

Progress = Callable[[int, int, str], None]
"""Is called with the bytes of the archive that are read, all its bytes, and the file that is being unpacked."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one archive may ask of this computer."""

    max_bytes: int = 100 * 10**9  # when unpacked; MVTec AD has 5 GB
    max_entries: int = 200_000  # folders and hidden files count too
    # Pictures hardly shrink; deflate reaches 1,032 at most, bzip2 and xz many times that.
    max_ratio: int = 200  # bytes unpacked per byte packed
    ratio_from_bytes: int = 10**9  # what unpacks to less may have any ratio
    keep_free_bytes: int = 10**9  # on the disk, for the database and everybody else

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 0 if field.name in ("ratio_from_bytes", "keep_free_bytes") else 1
            if (value := getattr(self, field.name)) < least:
                raise ValueError(f"{field.name} is {value}; it must be at least {least}.")


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A file of the archive that was not unpacked."""

    name: str  # made fit to be shown; may be shortened
    reason: str  # whole sentences, with the remedy


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """What came out of an archive."""

    files: tuple[SourceFile, ...]  # by name
    refused: tuple[Refusal, ...]  # in the order of the archive


def is_archive(path_or_name: Path | str) -> bool:
    """Whether a name is one of an archive that can be unpacked; the file is not opened."""
    return str(path_or_name).lower().endswith(SUFFIXES)


def unpack(
    archive: Path,
    into: Path,
    *,
    name: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Unpacked:
    """Unpack a zip or tar archive, whatever it is called; left out are folders, and hidden files without a word.

    Takes little memory whatever the archive holds. If it raises, or `progress` does, `into` is empty again; if the
    process is killed, what it has written stays, and the caller must delete the folder.

    Args:
        into: an empty folder, or none yet.
        name: what messages call the archive; the name of its file if not given.
    Raises:
        DiskFull: there is no room for it.
        BadArchive: it is damaged or of another format, has no files, has members that are links or devices or lead
        out of the folder, is encrypted, or exceeds the limits.
        ValueError: `into` is not empty.
    """
    called = f"Archive {shown(name or archive.name)}"
    into.mkdir(parents=True, exist_ok=True)
    if any(into.iterdir()):
        raise ValueError(f"{into} is not empty; unpack into a folder of its own.")
    intake = _Intake(into, limits)
    whole = False
    try:
        with archive.open("rb") as file:
            _unpack(file, archive.stat().st_size, intake, progress or (lambda *_: None))
        whole = True
    except Damaged as error:
        raise BadArchive(f"{called} is damaged: {error}. Pack it again and upload that.") from error
    except _NoRoom as error:
        raise DiskFull(f"{called} {error}") from error
    except Refused as error:
        raise BadArchive(f"{called} {error}") from error
    finally:
        if not whole:
            intake.sweep()
    return Unpacked(
        files=tuple(sorted(intake.files, key=lambda file: file.name)), refused=tuple(intake.refused)
    )


class _NoRoom(Refused):
    """Turned into DiskFull."""


class _Intake:
    """Decides what is taken and writes it."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.limits = limits
        self.files: list[SourceFile] = []
        self.refused: list[Refusal] = []
        self._names: dict[str, str] = {}  # folded → as first seen
        self._begun = 0  # files that were opened for writing

    def admit(self, member: Member) -> str | None:
        """The name under which a member is to be written, or none if it is left out."""
        name = _LEADING_DOTS.sub("", member.name, count=1) if member.name.startswith("./") else member.name
        if member.kind == "folder":
            name = name.rstrip("/")
        fault = None
        try:
            check_name(name)
        except UnsafeName as error:
            raise Refused(f"is unsafe. {error}") from error
        except BadName as error:
            fault = str(error)
        if is_hidden(name):
            return None
        if member.kind in ("link", "device"):
            raise Refused(
                f"has a {member.kind}, {shown(name)}; only files and folders are taken. "
                "Leave it out, or pack what it stands for."
            )
        if member.kind == "folder":
            return None
        if fault is None:
            first = self._names.get(folded(name))
            self._names.setdefault(folded(name), name)
            if first == name:
                raise Refused(f"holds {shown(name)} twice. Pack the folder again into a new archive.")
            if first is not None:
                fault = collision(first, name)
            elif name.lower().endswith(_NESTED_SUFFIXES):
                fault = (
                    f"{shown(name)} is an archive in an archive. Unpack it, then pack or upload the folder."
                )
        if fault is not None:
            self.refused.append(Refusal(name=shown(name)[1:-1], reason=fault))
            return None
        return name

    def check_size(self, unpacked: int, packed: int) -> None:
        limits = self.limits
        if unpacked > limits.max_bytes:
            raise Refused(
                f"unpacks to more than {_size(limits.max_bytes)}, the most that is allowed. "
                "Upload it in several parts."
            )
        if unpacked > limits.ratio_from_bytes and unpacked > limits.max_ratio * packed:
            raise Refused(
                f"unpacks to more than {limits.max_ratio} times its {_size(packed)}; pictures don't. "
                "Upload it in several parts, or leave the files out that are nearly empty."
            )

    def check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if needed > free - self.limits.keep_free_bytes:
            raise _NoRoom(
                f"needs {_size(needed)} more on the disk; {_size(free)} are free, and "
                f"{_size(self.limits.keep_free_bytes)} of them must stay so. Free some space and try again."
            )

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        path = self._path(self._begun)
        self._begun += 1
        try:
            with path.open("xb") as file:
                for piece in pieces:
                    file.write(piece)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise _NoRoom(
                f"can't be unpacked: {shown(name)} could not be written ({error.strerror}). "
                "Free some space, or raise the quota or limit of this account, and try again."
            ) from error
        self.files.append(SourceFile(name=name, path=path))

    def sweep(self) -> None:
        for number in range(self._begun):
            self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}"


def _unpack(file: BinaryIO, size: int, intake: _Intake, progress: Progress) -> None:
    head = file.read(BLOCK)
    if head.startswith(zip_archives.MAGIC):
        _unpack_zip(file, size, intake, progress)
    elif make := next((make for magic, make in _COMPRESSED_TARS.items() if head.startswith(magic)), None):
        file.seek(0)
        _unpack_tar(file, decompression.pieces(file.read, make, several=True), size, intake, progress)
    elif begins_tar(head):
        file.seek(0)
        _unpack_tar(file, iter(lambda: file.read(PIECE), b""), size, intake, progress)
    else:
        raise Refused(_what_it_is(head))
    if not intake.files and not intake.refused:
        raise Refused("holds no files, or only hidden ones. Pack the folder with the pictures.")
    progress(size, size, "")


def _unpack_zip(file: BinaryIO, packed: int, intake: _Intake, progress: Progress) -> None:
    members = zip_archives.read_directory(file, max_entries=intake.limits.max_entries)
    intake.check_size(sum(member.size for member in members), packed)
    # All names are judged first: nothing is written of an archive that is refused for one.
    taken = [(member, name) for member in members if (name := intake.admit(member)) is not None]
    intake.check_room(sum(member.size for member, _ in taken))
    for member, name in taken:
        intake.write(name, _reported(zip_archives.content(file, member), file, packed, name, progress))


def _unpack_tar(
    file: BinaryIO, pieces: Iterator[bytes], packed: int, intake: _Intake, progress: Progress
) -> None:
    # What is passed over (hidden files, zeros behind the end) must be decompressed too, so it counts.
    def counted() -> Iterator[bytes]:
        unpacked = 0
        for piece in pieces:
            unpacked += len(piece)
            intake.check_size(unpacked, packed)
            yield piece

    stream = TarStream(counted())
    intake.check_room(packed)  # at least; how much it is in the end nobody knows yet
    for number, member in enumerate(stream.members(), start=1):
        if number > intake.limits.max_entries:
            raise Refused(
                f"has more than {intake.limits.max_entries:,} entries. "
                "Pack fewer files, or several archives one after another."
            )
        if (name := intake.admit(member)) is not None:
            intake.check_room(member.size)
            intake.write(name, _reported(stream.content(), file, packed, name, progress))


def _reported(
    pieces: Iterator[bytes], file: BinaryIO, packed: int, name: str, progress: Progress
) -> Iterator[bytes]:
    """Report after each piece how far the archive is read; members of zips are read in the order they lie in."""
    for piece in pieces:
        yield piece
        progress(file.tell(), packed, name)


def _what_it_is(head: bytes) -> str:
    if not head:
        return "is empty (0 bytes). Upload it again."
    if head.startswith(zip_archives.SPANNED_MAGIC):
        return "is one part of several. Pack everything into one file."
    for magic, what in _NOT_READ.items():
        if head.startswith(magic):
            return f"is {what} archive, which is not read here. Pack the folder as .zip or .tar.gz."
    return f"is not of the formats {', '.join(SUFFIXES)}, whatever its name says. Pack the folder as .zip."


def _size(number: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= scale:
            return f"{number / scale:,.1f} {unit}"
    return f"{number} bytes"
