"""Reading zip archives strictly: what two programs could read in two ways is refused.

`zipfile` searches for something that works: it takes a directory from among other bytes, entries that lie over one
another, sizes and checksums of the first bytes of longer files, and holds every entry in memory before it can be asked
how many there are. The format: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.
"""

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

from storage.archive_members import Member, Refused
from storage.decompression import PIECE, Damaged, bzip2, deflate, pieces
from storage.names import shown

MAGIC = (b"PK\3\4", b"PK\5\6", b"PK\6\6")  # the last two have no files
SPANNED_MAGIC = b"PK\7\10"

# Each begins with a magic number of four bytes.
_LOCAL = struct.Struct("<4x5H3L2H")
_CENTRAL = struct.Struct("<4x6H3L5H2L")
_END = struct.Struct("<4x4H2LH")
_END64_LOCATOR = struct.Struct("<4xLQL")
_END64 = struct.Struct("<4xQ2H2L4Q")
_MAX_COMMENT = 0xFFFF
_NOT_HERE = 0xFFFFFFFF  # the value stands in the zip64 field

_ENCRYPTED = 0x0001 | 0x0040 | 0x2000  # classic, strong, masked headers
_SIZES_FOLLOW = 0x0008
_UTF8 = 0x0800
_AES = 99
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12
_METHODS = {9: "Deflate64", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipMember(Member):
    """One entry of the directory."""

    raw_name: bytes
    flags: int
    method: int
    checksum: int
    packed_size: int
    header_offset: int
    data_offset: int  # of the packed bytes; 0 until the entry's own header is read


def read_directory(file: BinaryIO, *, max_entries: int) -> list[ZipMember]:
    """List the entries by where they lie, after checking the whole structure of the archive.

    Raises:
        Damaged: parts are missing, lie over one another or contradict one another, or something follows the end.
        Refused: encrypted, split, packed by a method that is not read here, or more than `max_entries`.
    """
    start, size, count = _find_directory(file)
    entries: list[ZipMember] = []
    position = start
    while position < start + size:
        if len(entries) == max_entries:
            raise Refused(
                f"has more than {max_entries:,} entries. Pack fewer files, or several archives one after another."
            )
        entry, length = _read_entry(file, position, start + size)
        entries.append(entry)
        position += length
    if position != start + size:
        raise Damaged("its directory is cut off")
    # Without zip64 there are 16 bits; the Finder of macOS writes the lowest ones of more.
    if count not in (len(entries), len(entries) & 0xFFFF):
        raise Damaged(f"its directory has {len(entries)} entries, but is said to have {count}")
    entries.sort(key=lambda entry: entry.header_offset)
    return _place(file, entries, start)


def content(file: BinaryIO, member: ZipMember) -> Iterator[bytes]:
    """Give the bytes of a member.

    Raises:
        Damaged: they are more or fewer than the directory says, have another checksum, or can't be decompressed.
    """
    file.seek(member.data_offset)
    left = member.packed_size

    def packed(most: int) -> bytes:
        nonlocal left
        data = file.read(min(most, left))
        left -= len(data)
        return data

    if member.method == _STORED:
        unpacked = iter(lambda: packed(PIECE), b"")
    else:
        make = deflate if member.method == _DEFLATED else bzip2
        unpacked = pieces(packed, make, several=False)
    found = checksum = 0
    for piece in unpacked:
        found += len(piece)
        if found > member.size:
            raise Damaged(f"{shown(member.name)} holds more than the {member.size} bytes that it is said to")
        checksum = zlib.crc32(piece, checksum)
        yield piece
    if found != member.size:
        raise Damaged(f"{shown(member.name)} holds {found} bytes, but is said to hold {member.size}")
    if checksum != member.checksum:
        raise Damaged(f"{shown(member.name)} has another checksum than it is said to have")


def _find_directory(file: BinaryIO) -> tuple[int, int, int]:
    """Where the directory begins, its bytes, its entries."""
    file_size = file.seek(0, 2)
    tail_start = max(0, file_size - _END.size - _MAX_COMMENT)
    file.seek(tail_start)
    tail = file.read()
    ends = []
    position = tail.find(b"PK\5\6")
    while position >= 0:
        if position + _END.size <= len(tail):
            *_, comment = _END.unpack_from(tail, position)
            if position + _END.size + comment == len(tail):
                ends.append(position)
        position = tail.find(b"PK\5\6", position + 1)
    if not ends:
        raise Damaged("it is cut off, or something follows its end")
    if len(ends) > 1:
        raise Damaged("it has two ends")
    disk, first_disk, here, count, size, start, _ = _END.unpack_from(tail, ends[0])
    end = tail_start + ends[0]
    if locator := _read_at(file, end - _END64_LOCATOR.size, _END64_LOCATOR, b"PK\6\7", end):
        end64_disk, end64, disks = locator
        record = _read_at(file, end64, _END64, b"PK\6\6", end)
        # The size of the record leaves out its first 12 bytes.
        if not record or end64 + 12 + record[0] != end - _END64_LOCATOR.size:
            raise Damaged("its zip64 end is broken")
        short = (disk, first_disk, here, count, size, start)
        disk, first_disk, here, count, size, start = record[3:]
        for value, long in zip(short, record[3:], strict=True):
            if value not in (long, 0xFFFF, _NOT_HERE):
                raise Damaged("its two ends contradict each other")
        disk = disk or end64_disk or max(0, disks - 1)
        end = end64
    if disk or first_disk or here != count:
        raise Refused("is one part of several. Pack everything into one file.")
    if start + size != end:
        raise Damaged("something is missing before its directory, or stands behind it")
    return start, size, count


def _read_at(
    file: BinaryIO, position: int, layout: struct.Struct, magic: bytes, end: int
) -> tuple[int, ...] | None:
    """The numbers of a structure, or nothing where none of this kind lies before `end`."""
    # No file system takes 64 bits for a position.
    if not 0 <= position <= end - layout.size:
        return None
    file.seek(position)
    data = file.read(layout.size)
    return layout.unpack(data) if data.startswith(magic) and len(data) == layout.size else None


def _read_entry(file: BinaryIO, position: int, end: int) -> tuple[ZipMember, int]:
    """One entry of the directory, and the bytes that it takes there."""
    fields = _read_at(file, position, _CENTRAL, b"PK\1\2", end)
    if not fields:
        raise Damaged("its directory is broken")
    _, _, flags, method, _, _, checksum, packed, size, name_length, extra_length, comment_length = fields[:12]
    disk, _, attributes, offset = fields[12:]
    variable = file.read(name_length + extra_length + comment_length)
    if len(variable) < name_length + extra_length + comment_length:
        raise Damaged("its directory is cut off")
    raw_name = variable[:name_length]
    name = _name(raw_name, flags)
    if flags & _ENCRYPTED or method == _AES:
        raise Refused(f"is encrypted: {shown(name)} needs a password. Pack it without one.")
    if method not in (_STORED, _DEFLATED, _BZIP2):
        packer = _METHODS.get(method, f"method {method}")
        raise Refused(f"packs {shown(name)} with {packer}, which is not read here. Pack it with Deflate.")
    size, packed, offset = _zip64(
        variable[name_length : name_length + extra_length], (size, packed, offset), name
    )
    if disk not in (0, 0xFFFF):
        raise Refused("is one part of several. Pack everything into one file.")
    member = ZipMember(
        name=name,
        kind=_kind(name, attributes >> 16),
        size=size,
        raw_name=raw_name,
        flags=flags,
        method=method,
        checksum=checksum,
        packed_size=packed,
        header_offset=offset,
        data_offset=0,
    )
    if member.kind == "folder" and size:
        raise Damaged(f"the folder {shown(name)} is said to hold {size} bytes")
    return member, _CENTRAL.size + len(variable)


def _place(file: BinaryIO, entries: list[ZipMember], end: int) -> list[ZipMember]:
    """Find where the bytes of each entry lie; none may lie in another or reach `end`.

    One deflated block under thousands of entries makes petabytes of a few megabytes (D. Fifield, "A better zip
    bomb", WOOT 2019).
    """
    placed = []
    free_from = 0
    for entry in entries:
        if entry.header_offset < free_from:
            raise Damaged(f"{shown(entry.name)} lies over another entry")
        fields = _read_at(file, entry.header_offset, _LOCAL, b"PK\3\4", end)
        if not fields:
            raise Damaged(f"{shown(entry.name)} is not where its directory says")
        _, flags, method, _, _, checksum, packed, size, name_length, extra_length = fields
        if file.read(name_length) != entry.raw_name or method != entry.method or flags & _ENCRYPTED:
            raise Damaged(f"{shown(entry.name)} is described in two ways")
        here = (checksum, packed, size)
        given_here = not flags & _SIZES_FOLLOW and _NOT_HERE not in here
        if given_here and here != (entry.checksum, entry.packed_size, entry.size):
            raise Damaged(f"{shown(entry.name)} is described in two ways")
        data_offset = entry.header_offset + _LOCAL.size + name_length + extra_length
        free_from = data_offset + entry.packed_size
        if free_from > end:
            raise Damaged(f"{shown(entry.name)} reaches beyond the other entries")
        placed.append(replace(entry, data_offset=data_offset))
    return placed


def _zip64(extra: bytes, values: tuple[int, int, int], name: str) -> tuple[int, int, int]:
    """Put the long size, packed size and offset in the places of those that say that they are not there."""
    missing = [index for index, value in enumerate(values) if value == _NOT_HERE]
    if not missing:
        return values
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == 0x0001 and 8 * len(missing) <= min(length, len(extra) - position):
            found = list(values)
            for index, (value,) in zip(
                missing, struct.iter_unpack("<Q", extra[position:][: 8 * len(missing)]), strict=True
            ):
                found[index] = value
            return found[0], found[1], found[2]
        position += length
    raise Damaged(f"the long size of {shown(name)} is missing")


def _kind(name: str, mode: int) -> Literal["file", "folder", "link", "device"]:
    # The upper half of the attributes is zero where the packer knows no Unix modes.
    file_type = stat.S_IFMT(mode)
    if file_type == stat.S_IFLNK:
        return "link"
    if file_type == stat.S_IFDIR or (name.endswith("/") and file_type in (0, stat.S_IFREG)):
        return "folder"
    return "file" if file_type in (0, stat.S_IFREG) else "device"


def _name(raw: bytes, flags: int) -> str:
    """Decode a name; PowerShell 5 separates folders by backslashes, the Finder writes UTF-8 without saying so."""
    if flags & _UTF8:
        name = raw.decode("utf-8", "surrogateescape")
    else:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            name = raw.decode("cp437")
    return name.replace("\\", "/")
