"""Decompressing streams that nobody vouches for: piece by piece, in constant memory, checked to the last byte.

The readers of the standard library (gzip, bz2, lzma) ignore what follows the first stream of some formats, and let
an xz file choose how much memory it takes; so its decompressors are used here directly.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

INPUT = 1 << 18  # bytes read at once
PIECE = 1 << 20  # bytes given at once
# `xz -9` needs 65 MiB to be read; a header can ask for 4 GiB.
XZ_MEMORY_BYTES = 256 << 20


class Damaged(Exception):
    """What is read is not what its format says; the message ends the sentence 'it is damaged: …'."""


class Decompressor(Protocol):
    """What bz2 and lzma offer."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Inflate:
    """zlib with the interface of the others, which keep input that they have not used."""

    def __init__(self, window_bits: int) -> None:
        self._inner = zlib.decompressobj(window_bits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        piece = self._inner.decompress(self._inner.unconsumed_tail + data, max(max_length, 0))
        # A full piece can leave more in the window when all input is used.
        self.needs_input = not self._inner.unconsumed_tail and len(piece) < max_length
        return piece


def deflate() -> Decompressor:
    """Bare deflate, as it lies in zip."""
    return _Inflate(-zlib.MAX_WBITS)


def gzip() -> Decompressor:
    """Deflate with the header and the checksum of gzip."""
    return _Inflate(zlib.MAX_WBITS | 16)


def bzip2() -> Decompressor:
    """A bzip2 stream."""
    return bz2.BZ2Decompressor()


def xz() -> Decompressor:
    """An xz stream that takes little memory."""
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)


def pieces(
    source: Callable[[int], bytes], make: Callable[[], Decompressor], *, several: bool
) -> Iterator[bytes]:
    """Decompress everything that a source gives.

    Args:
        source: gives at most so many bytes, and none at the end.
        make: starts a decompressor.
        several: whether streams may follow one another (parallel packers write them so) and zeros after them.
    Returns:
        Pieces of at most `PIECE` bytes.
    Raises:
        Damaged: cut off, not of the format, wrong checksum, or followed by something else.
    """
    data = b""
    while True:
        decompressor = make()
        while not decompressor.eof:
            given = b""
            if decompressor.needs_input:
                given, data = data or source(INPUT), b""
                if not given:
                    raise Damaged("it ends before its data does")
            if piece := _decompress(decompressor, given):
                yield piece
        data = decompressor.unused_data or source(INPUT)
        if several:
            while data and not (data := data.lstrip(b"\0")):
                data = source(INPUT)
        if not data:
            return
        if not several:
            raise Damaged("its data ends before its size says")


def _decompress(decompressor: Decompressor, data: bytes) -> bytes:
    try:
        return decompressor.decompress(data, PIECE)
    # bz2 raises a bare OSError or ValueError for broken data.
    except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:
        if "emory" in str(error):
            limit = XZ_MEMORY_BYTES >> 20
            raise Damaged(f"it needs more than {limit} MiB of memory to be read") from error
        raise Damaged(f"it can't be decompressed ({error})") from error
