"""Archives made by hand, one lie each; and archives made by real packers, which must come out as they went in."""

import bz2
import gzip
import io
import lzma
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.archives import DEFAULT_LIMITS, Limits, Unpacked, is_archive, unpack
from storage.errors import BadArchive, DiskFull
from storage.listing import is_hidden
from storage.names import check_name, folded

FILES = {"train/good/000.png": b"first" * 100, "test/scratch/001.png": bytes(range(256)), "empty.txt": b""}
ANY_DISK = replace(DEFAULT_LIMITS, keep_free_bytes=0)


# ---- Makers: every field of an archive can be made to lie. ----


@dataclass(kw_only=True)
class Entry:
    """An entry of a zip; what is None is told truly."""

    name: bytes = b"a.png"
    data: bytes = b"picture"
    method: int = 8
    flags: int = 0
    size: int | None = None
    crc: int | None = None
    mode: int = 0
    packed: bytes | None = None
    packed_size: int | None = None
    offset: int | None = None
    local_name: bytes | None = None
    local_flags: int | None = None
    local_method: int | None = None
    local_size: int | None = None
    extra: bytes = b""
    descriptor: bytes = b""
    disk: int = 0


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def make_zip(
    *entries: Entry,
    comment: bytes = b"",
    count: int | None = None,
    directory_size: int | None = None,
    directory_start: int | None = None,
    zip64: bool = False,
    disk: int = 0,
    between: bytes = b"",
) -> bytes:
    body, directory = bytearray(), bytearray()
    for entry in entries:
        packers: dict[int, Callable[[bytes], bytes]] = {0: bytes, 8: deflated, 12: bz2.compress}
        packed = packers.get(entry.method, bytes)(entry.data) if entry.packed is None else entry.packed
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        packed_size = len(packed) if entry.packed_size is None else entry.packed_size
        offset = len(body) if entry.offset is None else entry.offset
        name = entry.name if entry.local_name is None else entry.local_name
        flags = entry.flags if entry.local_flags is None else entry.local_flags
        method = entry.method if entry.local_method is None else entry.local_method
        local = (crc, packed_size, size if entry.local_size is None else entry.local_size)
        if flags & 8:
            local = (0, 0, 0)
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 0, *local, len(name), 0)
        body += name + packed + entry.descriptor
        directory += struct.pack(
            "<4s6H3L5H2L",
            *(b"PK\1\2", 3 << 8 | 20, 20, entry.flags, entry.method, 0, 0, crc, packed_size, size),
            *(len(entry.name), len(entry.extra), 0, entry.disk, 0, entry.mode << 16, offset),
        )
        directory += entry.name + entry.extra
    body += between
    number = len(entries) if count is None else count
    length = len(directory) if directory_size is None else directory_size
    start = len(body) if directory_start is None else directory_start
    end = b""
    if zip64:
        end64 = len(body) + len(directory)
        end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, number, number, length, start)
        end += struct.pack("<4sLQL", b"PK\6\7", 0, end64, 1)
        number, length, start = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
    end += struct.pack("<4s4H2LH", b"PK\5\6", disk, disk, number, number, length, start, len(comment))
    return bytes(body + directory + end + comment)


def tar_header(name: str = "a.png", size: int = 7, kind: bytes = tarfile.REGTYPE, **fields: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def tar_file(name: str = "a.png", data: bytes = b"picture", kind: bytes = tarfile.REGTYPE) -> bytes:
    return tar_header(name, len(data), kind) + padded(data)


def pax(*records: tuple[str, str | bytes], kind: bytes = tarfile.XHDTYPE) -> bytes:
    data = b""
    for key, value in records:
        rest = b" " + key.encode() + b"=" + (value.encode() if isinstance(value, str) else value) + b"\n"
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length += 1
        data += str(length).encode() + rest
    return tar_file("pax", data, kind)


TAR_END = bytes(1024)


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def streamed_zip_of(files: dict[str, bytes]) -> bytes:
    """As written to a pipe: sizes and checksums follow the bytes."""

    class Pipe(io.RawIOBase):
        data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return pipe.data


def tar_of(files: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002 (the word of tarfile)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, errors="surrogateescape") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


PACKERS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "stored zip": lambda files: zip_of(files, zipfile.ZIP_STORED),
    "deflated zip": zip_of,
    "bzip2 zip": lambda files: zip_of(files, zipfile.ZIP_BZIP2),
    "streamed zip": streamed_zip_of,
    "zip64": lambda files: make_zip(
        *(Entry(name=name.encode(), data=data, flags=0x800) for name, data in files.items()), zip64=True
    ),
    "pax tar": tar_of,
    "gnu tar": lambda files: tar_of(files, tarfile.GNU_FORMAT),
    "tar.gz": lambda files: gzip.compress(tar_of(files)),
    "tar.bz2": lambda files: bz2.compress(tar_of(files)),
    "tar.xz": lambda files: lzma.compress(tar_of(files)),
}
every_format = pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS.keys())


@dataclass
class Workbench:
    """Unpacks bytes as a file without suffix, as uploads lie on the disk."""

    folder: Path

    @property
    def into(self) -> Path:
        return self.folder / "into"

    def unpack(self, data: bytes, limits: Limits = ANY_DISK) -> Unpacked:
        for path in self.into.glob("*"):  # of the archive before
            path.unlink()
        archive = self.folder / "000000"
        archive.write_bytes(data)
        return unpack(archive, self.into, name="given.zip", limits=limits)

    def contents(self, data: bytes, limits: Limits = ANY_DISK) -> dict[str, bytes]:
        unpacked = self.unpack(data, limits)
        assert unpacked.refused == ()
        return contents(unpacked)

    def refuses(self, data: bytes, reason: str, limits: Limits = ANY_DISK) -> None:
        with pytest.raises(BadArchive, match=reason) as caught:
            self.unpack(data, limits)
        message = str(caught.value)
        assert message.startswith("Archive 'given.zip' ")
        assert message.isprintable()
        assert message.endswith(".")
        assert list(self.into.iterdir()) == []

    def one_refused(self, data: bytes, reason: str) -> None:
        """One of two files is refused, the other, `good.png`, is taken."""
        unpacked = self.unpack(data)
        assert contents(unpacked) == {"good.png": b"good"}
        (refusal,) = unpacked.refused
        assert reason in refusal.reason
        assert refusal.reason.isprintable()
        assert refusal.name.isprintable()
        assert [path.name for path in self.into.iterdir()] == ["000000"]


def contents(unpacked: Unpacked) -> dict[str, bytes]:
    return {file.name: file.path.read_bytes() for file in unpacked.files}


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


# ---- What must come out. ----


@every_format
def test_files_come_out_as_they_went_in(bench: Workbench, pack: Callable[..., bytes]) -> None:
    unpacked = bench.unpack(pack(FILES))
    assert contents(unpacked) == FILES
    assert [file.name for file in unpacked.files] == sorted(FILES)
    assert sorted(path.name for path in bench.into.iterdir()) == ["000000", "000001", "000002"]
    assert {file.path.parent for file in unpacked.files} == {bench.into}


def kept(name: str) -> bool:
    try:
        check_name(name)
    except Exception:
        return False
    return not is_hidden(name) and not is_archive(name)


@settings(max_examples=30, deadline=None)
@given(
    files=st.dictionaries(
        st.text(max_size=30).filter(kept), st.binary(max_size=3_000), min_size=1, max_size=5
    ).filter(lambda files: len({folded(name) for name in files}) == len(files)),
    kind=st.sampled_from(sorted(PACKERS)),
)
def test_whatever_is_packed_comes_out(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], kind: str
) -> None:
    assert Workbench(tmp_path_factory.mktemp("any")).contents(PACKERS[kind](files)) == files


@pytest.mark.parametrize("command", ["zip -qr - .", "tar c .", "tar cz *", "tar cJ .", "tar c --format=v7 ."])
def test_archives_of_real_packers_are_read(bench: Workbench, command: str) -> None:
    source = bench.folder / "source"
    names = ["a.png", "Prüfung/Öl.png"] if "v7" in command else ["a.png", "x" * 200 + "/" + "y" * 200]
    files = {name: name.encode() * 1_000 for name in names}
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    (source / ".hidden").write_bytes(b"hidden")
    done = subprocess.run(command, shell=True, cwd=source, capture_output=True, check=True)
    assert bench.contents(done.stdout) == files


def test_streams_that_follow_one_another_are_one_archive(bench: Workbench) -> None:
    data = tar_of(FILES)
    for compress in (gzip.compress, bz2.compress, lzma.compress):
        packed = b"".join(compress(data[start : start + 700]) for start in range(0, len(data), 700))
        assert bench.contents(packed + bytes(4)) == FILES


def test_names_of_the_finder_and_of_powershell_are_understood(bench: Workbench) -> None:
    data = make_zip(
        Entry(name="Prüfung/Öl.png".encode(), data=b"Finder"),  # UTF-8 without its flag
        Entry(name=b"train\\good\\", data=b"", method=0),
        Entry(name=b"train\\good\\0.png", data=b"PowerShell"),
        Entry(name="Ü.png".encode("cp437"), data=b"DOS"),
    )
    assert bench.contents(data) == {
        "Prüfung/Öl.png": b"Finder",
        "train/good/0.png": b"PowerShell",
        "Ü.png": b"DOS",
    }


def test_finder_counts_only_sixteen_bits_of_entries(bench: Workbench) -> None:
    entries = [Entry(name=b"%d/" % number, data=b"", method=0) for number in range(65_537)]
    data = make_zip(*entries[:-1], Entry(), count=1)
    assert bench.contents(data) == {"a.png": b"picture"}


def test_long_sizes_of_zip64_are_read(bench: Workbench) -> None:
    packed = deflated(b"picture")
    extra = struct.pack("<2H", 0x9999, 3) + b"xyz" + struct.pack("<2H3Q", 1, 24, 7, len(packed), 0)
    data = make_zip(
        Entry(size=0xFFFFFFFF, packed=packed, packed_size=0xFFFFFFFF, offset=0xFFFFFFFF, extra=extra),
        zip64=True,
    )
    assert bench.contents(data) == {"a.png": b"picture"}
    with (
        zipfile.ZipFile(bench.folder / "real", "w") as archive,
        archive.open("b.png", "w", force_zip64=True) as file,
    ):
        file.write(b"other")
    assert bench.contents((bench.folder / "real").read_bytes()) == {"b.png": b"other"}


def test_tar_size_in_pax_header_is_believed(bench: Workbench) -> None:
    data = pax(("size", "7"), ("path", "b.png"), ("mtime", "1.5")) + tar_header(size=0) + padded(b"picture")
    assert bench.contents(data + tar_file() + TAR_END) == {"a.png": b"picture", "b.png": b"picture"}


def test_comment_of_git_is_passed_over(bench: Workbench) -> None:
    data = pax(("comment", "8f2c"), kind=tarfile.XGLTYPE) + tar_file() + TAR_END
    assert bench.contents(data) == {"a.png": b"picture"}


@every_format
def test_hidden_files_are_left_out_silently(bench: Workbench, pack: Callable[..., bytes]) -> None:
    hidden = {".DS_Store": b"x", "a/.git/b.png": b"x", "__MACOSX/._a.png": b"x" * 2_000, "a/Thumbs.db": b"x"}
    assert bench.contents(pack({**hidden, **FILES, ".last": b"x"})) == FILES


def test_long_targets_of_hidden_links_are_passed_over(bench: Workbench) -> None:
    target = tar_file("././@LongLink", b"x" * 700 + b"\0", tarfile.GNUTYPE_LONGLINK)
    link = tar_header(".hidden", 0, tarfile.SYMTYPE)
    assert bench.contents(target + link + tar_file() + TAR_END) == {"a.png": b"picture"}


def test_leading_dots_and_folders_are_no_part_of_names(bench: Workbench) -> None:
    folder = tar_header("./", 0, tarfile.DIRTYPE) + tar_header("./train/", 0, tarfile.DIRTYPE)
    assert bench.contents(folder + tar_file("./train/a.png") + TAR_END) == {"train/a.png": b"picture"}


def test_progress_goes_up_to_the_size_of_the_archive(bench: Workbench) -> None:
    files = {f"{number}.png": random.Random(number).randbytes(3_000_000) for number in range(2)}
    for pack in (zip_of, lambda files: gzip.compress(tar_of(files), 1)):
        archive = bench.folder / "archive"
        archive.write_bytes(pack(files))
        told: list[tuple[int, int, str]] = []
        tell = partial(lambda told, *step: told.append(step), told)
        unpack(archive, bench.folder / pack.__name__, progress=tell, limits=ANY_DISK)
        done = [step[0] for step in told]
        assert len(told) >= 7
        assert done == sorted(done)
        assert {total for _, total, _ in told} == {archive.stat().st_size}
        assert done[-1] == archive.stat().st_size
        assert {what for _, _, what in told} == {*files, ""}


@pytest.mark.parametrize(
    "name", ["a.zip", "A.ZIP", "b/a.tar", "a.tar.gz", "a.TGZ", "a.tar.bz2", "a.tar.xz", Path("a.b.zip")]
)
def test_archives_are_told_by_their_suffix(name: str | Path) -> None:
    assert is_archive(name)


@pytest.mark.parametrize("name", ["a.png", "zip", "a.zip.png", "a.gz", "a.7z", Path("a.zip/b.png")])
def test_other_names_are_no_archives(name: str | Path) -> None:
    assert not is_archive(name)


# ---- What refuses the whole archive. ----

UNSAFE = [
    "../a.png",
    "a/../../b",
    "/etc/passwd",
    "C:/a.png",
    "c:a.png",
    "..\\a.png",
    "C:\\a.png",
    "\\\\host\\a",
    "..",
]


@pytest.mark.parametrize("name", UNSAFE)
def test_names_that_lead_out_refuse_the_archive(bench: Workbench, name: str) -> None:
    bench.refuses(make_zip(Entry(name=b"good.png"), Entry(name=name.encode())), "unsafe")
    bench.refuses(tar_file("good.png") + tar_file(name) + TAR_END, "unsafe")
    bench.refuses(tar_file("good.png") + pax(("path", name)) + tar_file() + TAR_END, "unsafe")
    long = tar_file("././@LongLink", name.encode() + b"\0", tarfile.GNUTYPE_LONGNAME)
    bench.refuses(tar_file("good.png") + long + tar_file() + TAR_END, "unsafe")
    bench.refuses(tar_file("good.png") + tar_header(name, 0, tarfile.DIRTYPE) + TAR_END, "unsafe")
    assert sorted(path.name for path in bench.folder.iterdir()) == ["000000", "into"]


def test_leading_dots_hide_no_root(bench: Workbench) -> None:
    bench.refuses(tar_file("././/../etc/passwd") + TAR_END, "unsafe")
    bench.refuses(tar_file("./../a.png") + TAR_END, "unsafe")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_tars_are_refused(bench: Workbench, kind: bytes) -> None:
    link = tar_header("evil", 0, kind, linkname="/etc/passwd")
    bench.refuses(tar_file() + link + tar_file("evil/b.png") + TAR_END, "link, 'evil'")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_in_tars_are_refused(bench: Workbench, kind: bytes) -> None:
    bench.refuses(
        tar_file() + tar_header("null", 0, kind, devmajor=1, devminor=3) + TAR_END, "device, 'null'"
    )


@pytest.mark.parametrize(("mode", "what"), [(0o120777, "link"), (0o020666, "device"), (0o010666, "device")])
def test_links_and_devices_in_zips_are_refused(bench: Workbench, mode: int, what: str) -> None:
    bench.refuses(make_zip(Entry(name=b"good"), Entry(name=b"b", data=b"/etc/passwd", mode=mode)), what)
    bench.refuses(make_zip(Entry(name=b"good"), Entry(name=b"b/", data=b"/etc/passwd", mode=mode)), what)


def test_links_in_hidden_folders_do_no_harm(bench: Workbench) -> None:
    data = tar_header(".venv/python", 0, tarfile.SYMTYPE, linkname="/usr/bin/python") + tar_file() + TAR_END
    assert bench.contents(data) == {"a.png": b"picture"}


@pytest.mark.parametrize("flag", [0x1, 0x41, 0x2000])
def test_encrypted_zips_are_refused(bench: Workbench, flag: int) -> None:
    bench.refuses(make_zip(Entry(name=b"b"), Entry(flags=flag)), "encrypted: 'a.png' needs a password")


def test_zips_encrypted_by_aes_or_only_where_the_entry_lies_are_refused(bench: Workbench) -> None:
    bench.refuses(make_zip(Entry(method=99)), "encrypted")
    bench.refuses(make_zip(Entry(local_flags=1)), "two ways")


@pytest.mark.parametrize(
    ("method", "what"), [(9, "Deflate64"), (14, "LZMA"), (93, "Zstandard"), (1, "method 1")]
)
def test_methods_that_are_not_read_are_named(bench: Workbench, method: int, what: str) -> None:
    bench.refuses(
        make_zip(Entry(method=method)), f"with {what}, which is not read here. Pack it with Deflate"
    )


@every_format
def test_every_truncation_is_refused(bench: Workbench, pack: Callable[..., bytes]) -> None:
    data = pack(FILES)
    end = len(data)
    if data[257:262] == b"ustar":
        # Behind the last file one block of zeros must stand; more are there to fill a record.
        end = -len(data.rstrip(b"\0")) // 512 * -512 + 512
        assert bench.contents(data[:end]) == FILES
    for length in {*range(0, end, max(1, end // 150)), end - 1}:
        bench.refuses(data[:length], "damaged|not of the formats|empty")


@settings(max_examples=400, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(PACKERS)))
def test_damage_never_goes_unnoticed_or_causes_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    bench = Workbench(tmp_path_factory.mktemp("damage"))
    packed = bytearray(PACKERS[kind](FILES))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpacked = bench.unpack(bytes(packed))
    except BadArchive:
        assert list(bench.into.iterdir()) == []
    else:
        # Plain tar has no checksum of contents.
        if kind not in ("pax tar", "gnu tar"):
            assert {*contents(unpacked).values()} <= {*FILES.values()}


@given(
    data=st.binary(max_size=2_000),
    magic=st.sampled_from([b"", b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0"]),
)
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, magic: bytes) -> None:
    Workbench(tmp_path_factory.mktemp("noise")).refuses(
        magic + data, "damaged|not of the formats|empty|holds no|part of several|not read"
    )


@pytest.mark.parametrize("method", [0, 8, 12])
@pytest.mark.parametrize("lie", [-1, +1, -7, +1000])
def test_zip_sizes_must_be_true(bench: Workbench, method: int, lie: int) -> None:
    bench.refuses(make_zip(Entry(method=method, size=7 + lie)), "'a.png' holds (more|7 bytes)")


@pytest.mark.parametrize("method", [0, 8, 12])
def test_zip_size_with_checksum_of_what_it_says_is_noticed(bench: Workbench, method: int) -> None:
    data = b"picture" + bytes(5_000_000)
    bench.refuses(
        make_zip(Entry(method=method, data=data, size=7, crc=zlib.crc32(b"picture"))), "holds more than"
    )


def test_zip_checksums_must_be_true(bench: Workbench) -> None:
    for method in (0, 8, 12):
        bench.refuses(make_zip(Entry(method=method, crc=1)), "checksum")


def test_zip_packed_sizes_must_be_true(bench: Workbench) -> None:
    bench.refuses(make_zip(Entry(packed_size=len(deflated(b"picture")) - 1)), "ends before its data does")
    bench.refuses(make_zip(Entry(packed=deflated(b"picture") + b"more")), "ends before its size says")
    bench.refuses(make_zip(Entry(packed_size=10_000)), "reaches beyond")
    bench.refuses(make_zip(Entry(packed_size=20), Entry(name=b"b")), "lies over another")


@pytest.mark.parametrize(
    "entry",
    [
        Entry(local_name=b"b.png"),
        Entry(local_method=0),
        Entry(local_size=8),
        Entry(name=b"a\\b.png", local_name=b"a/b.png"),
    ],
)
def test_zip_entries_that_are_described_in_two_ways_are_refused(bench: Workbench, entry: Entry) -> None:
    bench.refuses(make_zip(entry), "two ways")


def test_zip_entries_over_one_another_are_refused(bench: Workbench) -> None:
    bench.refuses(make_zip(Entry(), Entry(offset=0)), "'a.png' lies over another entry")
    inner = make_zip(Entry(name=b"b.png"))
    outer = Entry(data=inner, method=0)
    inside = Entry(name=b"b.png", offset=30 + len(b"a.png"))
    bench.refuses(make_zip(outer, inside), "lies over another")


def test_zip_entries_outside_are_refused(bench: Workbench) -> None:
    bench.refuses(make_zip(Entry(offset=10**6)), "not where its directory says")
    bench.refuses(make_zip(Entry(offset=5)), "not where its directory says")


@pytest.mark.parametrize("zip64", [False, True])
def test_zip_with_anything_before_or_behind_is_refused(bench: Workbench, zip64: bool) -> None:
    data = make_zip(Entry(), zip64=zip64)
    bench.refuses(data + b"x", "something follows its end")
    bench.refuses(data + bytes(100_000), "something follows its end")
    bench.refuses(data + make_zip(Entry(name=b"other")), "missing before its directory|zip64 end")
    bench.refuses(b"MZ, a program" + data, "not of the formats")
    bench.refuses(b"PK\3\4" + data, "missing before its directory|zip64 end")


def test_zip_with_bytes_between_entries_and_directory_is_refused_only_if_it_is_ambiguous(
    bench: Workbench,
) -> None:
    assert bench.contents(make_zip(Entry(), between=b"signature")) == {"a.png": b"picture"}
    bench.refuses(make_zip(Entry(), directory_start=5), "missing before its directory")
    bench.refuses(make_zip(Entry(), directory_size=5), "missing before its directory")


def test_zip_with_a_second_end_in_its_comment_is_refused(bench: Workbench) -> None:
    assert bench.contents(make_zip(Entry(), comment=b"hello PK\5\6 hello")) == {"a.png": b"picture"}
    other = make_zip(Entry(name=b"b.png"))
    bench.refuses(make_zip(Entry(), comment=other), "two ends")


def test_zip_that_miscounts_its_entries_is_refused(bench: Workbench) -> None:
    bench.refuses(make_zip(Entry(), Entry(name=b"b"), count=1), "2 entries, but is said to have 1")
    bench.refuses(make_zip(Entry(), count=2), "1 entries, but is said to have 2")
    bench.refuses(make_zip(Entry(), count=65_537, zip64=True), "1 entries, but is said to have 65537")


def test_broken_zip_directories_are_refused(bench: Workbench) -> None:
    data = bytearray(make_zip(Entry()))
    data[data.index(b"PK\1\2") + 32] = 4  # bytes of a comment that isn't there
    bench.refuses(bytes(data), "directory is cut off")
    bench.refuses(make_zip(Entry()).replace(b"PK\1\2", b"PK\1\3"), "directory is broken")


def test_split_zips_are_refused(bench: Workbench) -> None:
    bench.refuses(make_zip(Entry(), disk=1), "one part of several")
    bench.refuses(make_zip(Entry(disk=2)), "one part of several")
    bench.refuses(b"PK\7\10" + make_zip(Entry()), "one part of several")


def test_zip64_lies_are_refused(bench: Workbench) -> None:
    data = make_zip(Entry(), zip64=True)
    end64 = data.index(b"PK\6\6")
    locator = data.index(b"PK\6\7")
    bench.refuses(data[: end64 + 4] + struct.pack("<Q", 45) + data[end64 + 12 :], "zip64 end is broken")
    bench.refuses(data[: locator + 8] + struct.pack("<Q", 0) + data[locator + 16 :], "zip64 end is broken")
    bench.refuses(
        data[:-12] + struct.pack("<2H", 7, 7) + data[-8:], "part of several|contradict|cut off|beyond|miss"
    )
    bench.refuses(make_zip(Entry(size=0xFFFFFFFF)), "long size of 'a.png' is missing")
    short = struct.pack("<2HL", 1, 4, 7)
    bench.refuses(make_zip(Entry(size=0xFFFFFFFF, extra=short)), "long size of 'a.png' is missing")
    lying = struct.pack("<2HQ", 1, 60, 7)
    bench.refuses(make_zip(Entry(size=0xFFFFFFFF, extra=lying[:11])), "long size of 'a.png' is missing")


def test_zip_folder_with_bytes_is_refused(bench: Workbench) -> None:
    bench.refuses(make_zip(Entry(name=b"a/", data=b"hidden")), "folder 'a/' is said to hold 6 bytes")


@every_format
def test_empty_archives_are_refused(bench: Workbench, pack: Callable[..., bytes]) -> None:
    reason = "holds no files, or only hidden ones. Pack the folder"
    bench.refuses(pack({}), reason)
    bench.refuses(pack({".a": b"x", "__MACOSX/b": b"x"}), reason)


def test_folders_alone_are_refused(bench: Workbench) -> None:
    bench.refuses(make_zip(Entry(name=b"a/", data=b"", method=0)), "holds no files")
    bench.refuses(tar_header("a", 0, tarfile.DIRTYPE) + TAR_END, "holds no files")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"Rar!\x1a\7\0" + bytes(600), "RAR"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "7z"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "Zstandard"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 600, "is not of the formats"),
        (gzip.compress(b"text"), "cut off"),
        (gzip.compress(b"text" * 1_000), "holds no tar archive"),
    ],
)
def test_other_files_are_named_for_what_they_are(bench: Workbench, data: bytes, reason: str) -> None:
    bench.refuses(data, reason)


def test_names_that_come_twice_refuse_the_archive(bench: Workbench) -> None:
    for name in ("a", "train/good/000.png"):
        twice = make_zip(Entry(name=name.encode()), Entry(name=name.encode()))
        bench.refuses(twice, f"holds '{name}' twice. Pack the folder again")
        bench.refuses(tar_file(name) + tar_file(f"./{name}") + TAR_END, f"holds '{name}' twice")


def test_bytes_are_limited(bench: Workbench) -> None:
    files = {"a.png": bytes(600_000), "b.png": bytes(600_000)}
    limits = replace(ANY_DISK, max_bytes=1_000_000)
    for pack in PACKERS.values():
        bench.refuses(pack(files), r"more than 1\.0 MB, the most that is allowed", limits)
    assert bench.contents(zip_of({"a.png": bytes(600_000)}), limits) == {"a.png": bytes(600_000)}


def test_ratio_is_limited_beyond_a_size(bench: Workbench) -> None:
    files = {"a.png": bytes(4_000_000)}
    limits = replace(ANY_DISK, ratio_from_bytes=1_000_000)
    for kind in ("deflated zip", "bzip2 zip", "tar.gz", "tar.bz2", "tar.xz"):
        bench.refuses(PACKERS[kind](files), "more than 200 times its", limits)
    assert bench.contents(zip_of(files), replace(limits, ratio_from_bytes=4_000_000)) == files


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_zeros_behind_the_end_of_a_tar_are_a_bomb_as_well(
    bench: Workbench, compress: Callable[[bytes], bytes]
) -> None:
    limits = replace(ANY_DISK, ratio_from_bytes=1_000_000)
    bench.refuses(compress(tar_file() + bytes(20_000_000)), "more than 200 times its", limits)
    hidden = tar_file(".hidden", bytes(20_000_000))
    bench.refuses(compress(hidden + tar_file() + TAR_END), "more than 200 times its", limits)


def test_entries_are_limited_and_folders_and_hidden_files_count(bench: Workbench) -> None:
    limits = replace(ANY_DISK, max_entries=3)
    zipped = [Entry(), Entry(name=b"b/", data=b""), Entry(name=b".c")]
    assert bench.contents(make_zip(*zipped), limits) == {"a.png": b"picture"}
    bench.refuses(make_zip(*zipped, Entry(name=b"d/", data=b"")), "more than 3 entries", limits)
    tarred = tar_file() + tar_header("b", 0, tarfile.DIRTYPE) + tar_file(".c")
    bench.refuses(tarred + tar_header("d", 0, tarfile.DIRTYPE) + TAR_END, "more than 3 entries", limits)


def test_limits_must_make_sense() -> None:
    with pytest.raises(ValueError, match=r"max_bytes is 0; it must be at least 1\."):
        Limits(max_bytes=0)
    with pytest.raises(ValueError, match="keep_free_bytes is -1"):
        Limits(keep_free_bytes=-1)


# ---- Tar: headers that mean no file. ----


@pytest.mark.parametrize(
    "data",
    [
        tar_header(kind=tarfile.GNUTYPE_SPARSE, size=512) + bytes(512),
        pax(("GNU.sparse.major", "1"), ("GNU.sparse.realsize", str(10**15))) + tar_file(),
        pax(("GNU.sparse.map", "0,1"), ("GNU.sparse.size", "1")) + tar_file(),
        pax(("GNU.sparse.name", "b.png")) + tar_file(".hidden"),
    ],
)
def test_sparse_files_are_refused(bench: Workbench, data: bytes) -> None:
    bench.refuses(tar_file("good.png") + data + TAR_END, "sparse file. Pack it again without")


def test_real_sparse_file_is_refused(bench: Workbench) -> None:
    (bench.folder / "holes.png").touch()
    os.truncate(bench.folder / "holes.png", 1 << 30)
    for kind in ("gnu", "pax"):
        done = subprocess.run(
            ["tar", "cS", f"--format={kind}", "holes.png"], cwd=bench.folder, capture_output=True, check=True
        )
        bench.refuses(done.stdout, "sparse file")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pax(("path", "b"), kind=tarfile.XGLTYPE) + tar_file(), "header for all files"),
        (pax(("size", "0"), kind=tarfile.XGLTYPE) + tar_file(), "header for all files"),
        (pax(("GNU.sparse.size", "9"), kind=tarfile.XGLTYPE) + tar_file(), "header for all files"),
        (pax(("size", "-1")) + tar_file(), "the size '-1'"),
        (pax(("size", "1_0")) + tar_file(), "the size '1_0'"),
        (pax(("size", "9" * 5_000)) + tar_file(), "the size '999"),
        (pax(("size", "100000")) + tar_file(), "cut off"),
        (tar_header(size=-1) + padded(b"picture"), "the size '-1'"),
        (tar_header(size=10**15), "more on the disk"),
        (tar_file("x", b"9999 path=a\n", tarfile.XHDTYPE) + tar_file(), "pax header is broken"),
        (tar_file("x", b"path=a\n", tarfile.XHDTYPE) + tar_file(), "pax header is broken"),
        (tar_file("x", b"0 path=a\n", tarfile.XHDTYPE) + tar_file(), "pax header is broken"),
        (tar_file("x", b"9 path=ab", tarfile.XHDTYPE) + tar_file(), "pax header is broken"),
        (tar_file("x", b"7 patha\n", tarfile.XHDTYPE) + tar_file(), "pax header is broken"),
        (tar_header("x", 1 << 40, tarfile.XHDTYPE), "extra header has 1099511627776 bytes"),
        (tar_header("x", 1 << 40, tarfile.GNUTYPE_LONGNAME), "extra header has 1099511627776 bytes"),
        (tar_header("x", -512, tarfile.XHDTYPE), "the size '-512'"),
        (pax(("mtime", "1")) * 5_000 + tar_file(), "more than 8 extra headers"),
        (tar_file("x", b"a\0", tarfile.GNUTYPE_LONGNAME) * 5_000, "more than 8 extra headers"),
        (tar_file(kind=b"V"), "unknown kind b'V'"),
        (tar_file() + b"x" * 512, "header is broken"),
        (tar_file("good") + tar_file()[:511] + b"x" + padded(b"picture"), "header is broken"),
    ],
)
def test_tricks_with_tar_headers_are_refused(bench: Workbench, data: bytes, reason: str) -> None:
    bench.refuses(data + TAR_END, reason)


def test_tar_without_end_and_tar_behind_tar_are_refused(bench: Workbench) -> None:
    bench.refuses(tar_file(), "cut off")
    bench.refuses(tar_of(FILES) + tar_of({"b": b"b"}), "something follows its end")
    bench.refuses(
        gzip.compress(tar_of(FILES)) + gzip.compress(tar_of({"b": b"b"})), "something follows its end"
    )
    for compress in (gzip.compress, bz2.compress, lzma.compress):
        bench.refuses(compress(tar_of(FILES)) + b"more", "can't be decompressed|ends before")


def test_broken_checksum_of_gzip_is_noticed(bench: Workbench) -> None:
    packed = bytearray(gzip.compress(tar_of(FILES)))
    packed[-8] ^= 1
    bench.refuses(bytes(packed), "can't be decompressed")


def test_xz_that_asks_for_gigabytes_of_memory_is_refused(bench: Workbench) -> None:
    packed = bytearray(lzma.compress(tar_of(FILES)))
    end = 12 + 4 * (packed[12] + 1)  # of the block header; its last 4 bytes are its checksum
    place = (
        packed.index(b"\x21\x01", 12, end) + 2
    )  # LZMA2, one byte of properties: the size of its dictionary
    packed[place] = 40  # 4 GiB - 1
    packed[end - 4 : end] = struct.pack("<L", zlib.crc32(packed[12 : end - 4]))
    bench.refuses(bytes(packed), "needs more than 256 MiB of memory")


# ---- What refuses one file. ----

AWKWARD = [
    ("x" * 300, "part of 300 bytes"),
    ("/".join(["y" * 150] * 7), "1056 bytes"),
    ("a\n.png", "control character U+000A"),
    ("a\x1b[2J.png", "control character U+001B"),
    ("\u202egnp.exe", "control character U+202E"),
    ("aux.png", "device"),
    ("CON/a.png", "device"),
    ("a.png ", "full stop or space"),
    ("a//b.png", "''"),
    ("a/./b.png", "'.'"),
    ("inner.zip", "archive in an archive"),
    ("a/inner.TAR.GZ", "archive in an archive"),
    ("inner.7z", "archive in an archive"),
]


@pytest.mark.parametrize(("name", "reason"), AWKWARD)
def test_awkward_names_refuse_one_file(bench: Workbench, name: str, reason: str) -> None:
    for data in (
        make_zip(Entry(name=name.encode(), flags=0x800), Entry(name=b"good.png", data=b"good")),
        tar_of({name: b"bad", "good.png": b"good"}),
        tar_of({name: b"bad", "good.png": b"good"}, tarfile.GNU_FORMAT),
    ):
        bench.one_refused(data, reason)


def test_names_that_are_not_utf8_refuse_one_file(bench: Workbench) -> None:
    bench.one_refused(tar_of({"\udcff\udcfe.png": b"bad", "good.png": b"good"}, tarfile.GNU_FORMAT), "UTF-8")
    binary = pax(("hdrcharset", "BINARY"), ("path", b"\xff.png"))
    bench.one_refused(binary + tar_file() + tar_file("good.png", b"good") + TAR_END, "UTF-8")
    bench.one_refused(
        make_zip(Entry(name=b"\xff.png", flags=0x800), Entry(name=b"good.png", data=b"good")), "UTF-8"
    )


def test_zeros_in_names_are_not_cut_off(bench: Workbench) -> None:
    bench.one_refused(make_zip(Entry(name=b"a.png\0.exe"), Entry(name=b"good.png", data=b"good")), "U+0000")
    long = tar_file("././@LongLink", b"a.png\0.exe\0", tarfile.GNUTYPE_LONGNAME)
    bench.one_refused(long + tar_file() + tar_file("good.png", b"good") + TAR_END, "U+0000")
    bench.one_refused(pax(("path", b"a\0b")) + tar_file() + tar_file("good.png", b"good") + TAR_END, "U+0000")


def test_backslash_in_a_tar_refuses_one_file(bench: Workbench) -> None:
    bench.one_refused(tar_of({"a\\b.png": b"bad", "good.png": b"good"}), "backslash")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a/b.png", "A/B.PNG"),
        (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")),
        (unicodedata.normalize("NFD", "É.png"), unicodedata.normalize("NFC", "é.png")),
    ],
)
def test_second_of_names_that_clash_is_refused(bench: Workbench, first: str, second: str) -> None:
    for pack in (zip_of, tar_of):
        unpacked = bench.unpack(pack({first: b"first", second: b"second"}))
        assert contents(unpacked) == {first: b"first"}
        (refusal,) = unpacked.refused
        assert refusal.name == second
        assert "take them for one" in refusal.reason


def test_if_all_files_are_refused_the_reasons_are_kept(bench: Workbench) -> None:
    unpacked = bench.unpack(zip_of({"aux.png": b"x", "b.zip": b"x"}))
    assert unpacked.files == ()
    assert [refusal.name for refusal in unpacked.refused] == ["aux.png", "b.zip"]


# ---- Disk and memory. ----


def test_folder_in_use_is_refused_and_left_alone(bench: Workbench) -> None:
    archive = bench.folder / "a.zip"
    archive.write_bytes(zip_of(FILES))
    bench.into.mkdir()
    (bench.into / "000000").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        unpack(archive, bench.into)
    assert (bench.into / "000000").read_text() == "mine"


def test_exception_of_the_progress_stops_it_and_leaves_nothing(bench: Workbench) -> None:
    class Cancelled(Exception):
        pass

    def cancel(done: int, total: int, what: str) -> None:
        raise Cancelled

    archive = bench.folder / "a"
    for pack in (zip_of, tar_of):
        archive.write_bytes(pack(FILES))
        with pytest.raises(Cancelled):
            unpack(archive, bench.into, progress=cancel, limits=ANY_DISK)
        assert list(bench.into.iterdir()) == []


def test_other_errors_of_the_disk_are_not_taken_for_a_full_one(bench: Workbench) -> None:
    archive = bench.folder / "a.zip"
    archive.write_bytes(zip_of({"a.png": b"a", "b.png": b"b"}))

    def take_away(done: int, total: int, what: str) -> None:
        shutil.rmtree(bench.into)

    with pytest.raises(FileNotFoundError):
        unpack(archive, bench.into, progress=take_away, limits=ANY_DISK)


@every_format
def test_free_space_is_looked_at_before(bench: Workbench, pack: Callable[..., bytes]) -> None:
    with pytest.raises(DiskFull, match=r"needs .* more on the disk; .* are free.*Free some space"):
        bench.unpack(pack(FILES), replace(DEFAULT_LIMITS, keep_free_bytes=1 << 60))
    assert list(bench.into.iterdir()) == []


def test_file_size_limit_of_the_system_is_a_clear_error(bench: Workbench) -> None:
    """RLIMIT_FSIZE: EFBIG in the middle of a file."""
    archive = bench.folder / "a.zip"
    archive.write_bytes(zip_of({"small.png": b"x", "large.png": bytes(3_000_000)}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, before[1]))
    try:
        with pytest.raises(DiskFull, match=r"'large.png' could not be written \(File too large\)"):
            unpack(archive, bench.into, limits=ANY_DISK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(bench.into.iterdir()) == []


FILL = """
import os, sys
from dataclasses import replace
from pathlib import Path
from storage.archives import DEFAULT_LIMITS, unpack
from storage.errors import DiskFull
into = Path(sys.argv[2])
try:
    unpack(Path(sys.argv[1]), into, limits=replace(DEFAULT_LIMITS, keep_free_bytes=0))
except DiskFull as error:
    print(error)
print(sorted(os.listdir(into)))
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[..., str]:
    """Unpacks into a file system of its own, of so many bytes and files, and gives what was printed."""

    def run(archive: Path, options: str) -> str:
        disk = tmp_path / "disk"
        disk.mkdir(exist_ok=True)
        inside = (
            f"mount -t tmpfs -o {options} tmpfs {disk} && exec {sys.executable} -c '{FILL}' {archive} {disk}"
        )
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    probe = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("this system lets nobody mount a file system of their own")
    return run


def test_full_disk_is_a_clear_error(bench: Workbench, small_disk: Callable[..., str]) -> None:
    archive = bench.folder / "a.zip"
    files = {f"{number}.png": b"x" for number in range(20)}
    for pack in (zip_of, tar_of):
        archive.write_bytes(pack(files))
        # There is space, but for 9 files only: nothing but the writing can find out.
        printed = small_disk(archive, "size=1m,nr_inodes=10")
        assert "'9.png' could not be written (No space left on device)" in printed
        assert "Free some space" in printed
        assert printed.endswith("[]\n")
    archive.write_bytes(gzip.compress(tar_of({"a.png": bytes(900_000), "b.png": bytes(900_000)})))
    printed = small_disk(archive, "size=1m")
    assert "needs 900.0 kB more on the disk" in printed
    assert printed.endswith("[]\n")


def large_zip(path: Path, method: int) -> None:
    with zipfile.ZipFile(path, "w", method) as archive, archive.open("large.bin", "w") as file:
        for _ in range(200):
            file.write(bytes(1_000_000))


def large_tar(path: Path, mode: str) -> None:
    with tarfile.open(path, mode) as archive:
        info = tarfile.TarInfo("large.bin")
        info.size = 200_000_000
        with open("/dev/zero", "rb") as zeros:
            archive.addfile(info, zeros)


@pytest.mark.parametrize(
    ("make", "how"),
    [
        (large_zip, zipfile.ZIP_STORED),
        (large_zip, zipfile.ZIP_DEFLATED),
        (large_zip, zipfile.ZIP_BZIP2),
        (large_tar, "w"),
        (large_tar, "w:gz"),
        (large_tar, "w:bz2"),
        (large_tar, "w:xz"),
    ],
)
def test_memory_stays_small_for_large_members(
    bench: Workbench, make: Callable[..., None], how: int | str
) -> None:
    archive = bench.folder / "large"
    make(archive, how)
    tracemalloc.start()
    try:
        unpacked = unpack(archive, bench.into, limits=ANY_DISK)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert unpacked.files[0].path.stat().st_size == 200_000_000
    unpacked.files[0].path.unlink()
    assert peak < 20_000_000  # xz keeps 8 MiB to look back into
