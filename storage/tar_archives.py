"""Reading tar archives from front to back, strictly: `tarfile` takes a broken header for the end of the archive.

Headers are read by `tarfile.TarInfo`; what may follow them, and how much of it is believed, is decided here.
"""

import tarfile
from collections.abc import Iterator
from typing import Literal

from storage.archive_members import Member, Refused
from storage.decompression import PIECE, Damaged
from storage.names import shown

BLOCK = tarfile.BLOCKSIZE
# `tarfile` would take as much memory as an extra header says. Attributes of a file have 64 KiB at most.
MAX_EXTRA_HEADER_BYTES = 1 << 20
MAX_EXTRA_HEADERS = 8  # in front of one file; packers write three at most

_KINDS: dict[bytes, Literal["file", "folder", "link", "device"]] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "device",
}


def begins_tar(block: bytes) -> bool:
    """Whether these 512 bytes can be the first of a tar archive; zeros are one without files."""
    if len(block) < BLOCK:
        return False
    try:
        return _is_zero(block) or bool(_parse(block))
    except Damaged:
        return False


class TarStream:
    """A tar archive that is read once, from front to back.

    Each member must be used before the next one is asked for.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        """Read from pieces of any size, already decompressed."""
        self._pieces = pieces
        self._piece = b""
        self._used = 0  # bytes of the piece that are given out
        self._begun = False  # whether there was a header
        self._left = 0  # bytes of the current member that are still to come
        self._padding = 0  # bytes behind them, up to a whole block

    def members(self) -> Iterator[Member]:
        """Give the members in their order; what was not read of one is passed over.

        Raises:
            Damaged: a header is broken, something is missing, or something follows the end.
            Refused: an entry is of a kind that is not taken.
        """
        while member := self._next_member():
            yield member
            self._pass_over(self._left + self._padding)

    def content(self) -> Iterator[bytes]:
        """Give the bytes of the current member, all of them.

        Raises:
            Damaged: the archive ends before.
        """
        while self._left:
            piece = self._take(min(self._left, PIECE))
            self._left -= len(piece)
            yield piece

    def _next_member(self) -> Member | None:
        name: str | None = None
        pax: dict[str, str] = {}
        for _ in range(MAX_EXTRA_HEADERS + 1):
            block = self._read(BLOCK)
            if _is_zero(block):
                self._check_end()
                return None
            header = self._header(block)
            if header.type == tarfile.XHDTYPE:
                pax = _pax_records(self._extra(header))
            elif header.type == tarfile.XGLTYPE:
                if _describes_a_file(_pax_records(self._extra(header))):
                    raise Damaged("a header for all files names a path or a size")
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                name = _text(self._extra(header).removesuffix(b"\0"))
            elif header.type == tarfile.GNUTYPE_LONGLINK:
                self._extra(header)
            else:
                return self._member(header, pax.get("path", header.name if name is None else name), pax)
        raise Damaged(f"more than {MAX_EXTRA_HEADERS} extra headers stand before one file")

    def _header(self, block: bytes) -> tarfile.TarInfo:
        try:
            header = _parse(block)
        except Damaged:
            if not self._begun:
                raise Refused("holds no tar archive. Pack the folder as .zip or .tar.gz.") from None
            raise
        self._begun = True
        return header

    def _member(self, header: tarfile.TarInfo, name: str, pax: dict[str, str]) -> Member:
        if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in pax):
            raise Refused(f"stores {shown(name)} as a sparse file. Pack it again without that option.")
        if header.type not in _KINDS:
            raise Refused(
                f"has an entry {shown(name)} of the unknown kind {header.type!r}. Pack files and folders only."
            )
        kind = _KINDS[header.type]
        # Only files have bytes; what other entries say about theirs is not defined.
        size = _size(pax.get("size", str(header.size))) if kind == "file" else 0
        self._left, self._padding = size, -size % BLOCK
        return Member(name=name, kind=kind, size=size)

    def _extra(self, header: tarfile.TarInfo) -> bytes:
        size = _size(str(header.size))
        if size > MAX_EXTRA_HEADER_BYTES:
            raise Damaged(f"an extra header has {size} bytes; at most {MAX_EXTRA_HEADER_BYTES} are allowed")
        data = self._read(size)
        self._pass_over(-size % BLOCK)
        return data

    def _check_end(self) -> None:
        # Whole records are written, the last one filled with zeros; a second archive would go unnoticed.
        rest = self._piece[self._used :]
        while not rest.strip(b"\0"):
            rest = next(self._pieces, b"")
            if not rest:
                return
        raise Damaged("something follows its end")

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            parts.append(self._take(size))
            size -= len(parts[-1])
        return b"".join(parts)

    def _pass_over(self, size: int) -> None:
        while size:
            size -= len(self._take(size))

    def _take(self, size: int) -> bytes:
        """At least one byte and at most so many."""
        if self._used == len(self._piece):
            self._piece, self._used = next(self._pieces, b""), 0
            if not self._piece:
                raise Damaged("it is cut off")
        taken = self._piece[self._used : self._used + size]
        self._used += len(taken)
        return taken


def _parse(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise Damaged(f"a header is broken ({error})") from error


def _is_zero(block: bytes) -> bool:
    return not block.strip(b"\0")


def _size(text: str) -> int:
    # Python's int() would take '1_000', ' 7' and '-7' as well.
    if not (text.isascii() and text.isdigit()) or len(text) > 20:
        raise Damaged(f"a header gives the size {shown(text)}")
    return int(text)


def _describes_a_file(records: dict[str, str]) -> bool:
    return any(key in ("path", "size") or key.startswith("GNU.sparse.") for key in records)


def _pax_records(data: bytes) -> dict[str, str]:
    """Read '<length of all this> <key>=<value>\\n' records."""
    records = {}
    position = 0
    while position < len(data):
        digits, space, _ = data[position : position + 8].partition(b" ")
        if not space or not digits.isdigit():
            raise Damaged("a pax header is broken")
        record = data[position : position + int(digits)]
        key, equals, value = record[len(digits) + 1 :].partition(b"=")
        if len(record) != int(digits) or not equals or not value.endswith(b"\n"):
            raise Damaged("a pax header is broken")
        records[_text(key)] = _text(value[:-1])
        position += len(record)
    return records


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
