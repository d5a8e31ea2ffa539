"""Uploads grow on disk and go on where they stopped, whoever died meanwhile."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import staging
from storage.errors import (
    BadName,
    BadUpload,
    DiskFull,
    OffsetMismatch,
    UploadIncomplete,
    UploadNotFound,
    UploadTooLarge,
)
from storage.staging import Limits, Position, Upload

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
LIMITS = Limits(max_bytes=1e6, max_files=100, reserve_bytes=0)

Begin = Callable[..., Upload]


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """Begins an upload: `begin(("a.png", 3), ("b.png", 5))`."""

    def make(*files: tuple[str, int], fingerprint: str = "", limits: Limits = LIMITS) -> Upload:
        return staging.create(
            tmp_path, files=files, dataset="plates", limits=limits, now=NOW, fingerprint=fingerprint
        )

    return make


def test_bytes_arrive_under_numbers_and_names_stay_in_the_list(begin: Begin, tmp_path: Path) -> None:
    upload = begin(("folder/é a.png", 3), ("b.png", 5))
    assert staging.append(upload, Position(0, 0), 0, b"abc") == Position(1, 0)
    assert staging.append(upload, Position(1, 0), 1, b"de") == Position(1, 2)
    assert staging.append(upload, Position(1, 2), 1, b"fgh") == Position(2, 0)
    done = staging.complete(staging.find(tmp_path, upload.id), NOW)
    assert staging.find(tmp_path, upload.id) == done
    assert done.completed == NOW
    assert [(file.name, file.path.read_bytes()) for file in done.source_files()] == [
        ("folder/é a.png", b"abc"),
        ("b.png", b"defgh"),
    ]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "upload.json",
        "000000",
        "000001",
    }


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8), step=st.integers(1, 60))
def test_one_body_runs_on_through_files_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], step: int
) -> None:
    folder = tmp_path_factory.mktemp("staging")
    files = [(f"{index}.png", size) for index, size in enumerate(sizes)]
    content = os.urandom(sum(sizes))
    upload = staging.create(folder, files=files, dataset="", limits=LIMITS, now=NOW)
    last, at = len(sizes) - 1, Position(0, 0)
    for start in range(0, len(content), step):
        at = staging.append(upload, at, last, content[start : start + step])
        assert at == staging.position(upload, 0, last)
    done = staging.complete(upload, NOW)
    assert [file.path.stat().st_size for file in done.source_files()] == sizes
    assert b"".join(file.path.read_bytes() for file in done.source_files()) == content


def test_position_is_the_first_file_that_is_not_whole(begin: Begin) -> None:
    upload = begin(("a", 2), ("b", 2), ("c", 2))
    staging.append(upload, Position(1, 0), 1, b"x")
    assert staging.position(upload, 0, 2) == Position(0, 0)
    assert staging.position(upload, 1, 2) == Position(1, 1)
    staging.append(upload, Position(1, 1), 1, b"x")
    assert staging.position(upload, 1, 2) == Position(2, 0)
    assert staging.position(upload, 1, 1) == Position(2, 0)
    assert staging.received(upload) == [0, 2, 0]


@pytest.mark.parametrize("span", [(-1, 0), (0, 3), (2, 1), (3, 3)])
def test_files_that_were_not_announced_have_no_position(begin: Begin, span: tuple[int, int]) -> None:
    with pytest.raises(BadUpload, match="files 0 to 2"):
        staging.position(begin(("a", 2), ("b", 2), ("c", 2)), *span)


def test_bytes_for_another_place_are_refused_with_the_true_one(begin: Begin) -> None:
    upload = begin(("a.png", 4), ("b.png", 4))
    staging.append(upload, Position(0, 0), 0, b"ab")
    for wrong in (0, 1, 3):
        with pytest.raises(OffsetMismatch, match=r"a\.png") as caught:
            staging.append(upload, Position(0, wrong), 1, b"x")
        assert (caught.value.index, caught.value.offset) == (0, 2)
    assert upload.path(0).read_bytes() == b"ab"


def test_two_who_send_the_same_bytes_at_once_leave_them_once(begin: Begin) -> None:
    content = os.urandom(200_000)
    upload = begin(("a.zip", len(content)))
    refused = []

    def send(step: int) -> None:
        at = 0
        while at < len(content):
            try:
                at = staging.append(upload, Position(0, at), 0, content[at : at + step]).offset or len(
                    content
                )
            except OffsetMismatch as error:
                refused.append(error)
                at = error.offset if error.index == 0 else len(content)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, [997, 1009, 4001, 8191]))
    assert upload.path(0).read_bytes() == content
    assert refused


def test_a_body_longer_than_announced_is_refused_after_what_was(begin: Begin) -> None:
    upload = begin(("a.png", 3), ("b.png", 3))
    with pytest.raises(UploadTooLarge, match="2 bytes longer"):
        staging.append(upload, Position(0, 0), 0, b"abcde")
    assert staging.received(upload) == [3, 0]


def test_a_full_disk_is_told_and_the_upload_goes_on_once_there_is_room(begin: Begin, tmp_path: Path) -> None:
    upload = begin(("a.png", 4))
    upload.path(0).symlink_to("/dev/full")  # every write to it fails as on a full disk
    with pytest.raises(DiskFull, match="free some space"):
        staging.append(upload, Position(0, 0), 0, b"abcd")
    upload.path(0).unlink()
    assert staging.append(upload, Position(0, 0), 0, b"abcd") == Position(1, 0)
    assert staging.complete(upload, NOW).completed


def test_other_errors_of_the_system_keep_their_name(begin: Begin) -> None:
    upload = begin(("a.png", 4))
    upload.path(0).mkdir()
    with pytest.raises(IsADirectoryError):
        staging.append(upload, Position(0, 0), 0, b"abcd")


def test_complete_names_the_files_that_are_not_whole(begin: Begin) -> None:
    upload = begin(*[(f"{number}.png", 2) for number in range(8)])
    staging.append(upload, Position(0, 0), 1, b"abc")
    with pytest.raises(UploadIncomplete, match=r"7 of 8 files.*'1\.png'.*'5\.png' and others"):
        staging.complete(upload, NOW)
    assert staging.find(upload.folder.parent, upload.id).completed is None
    staging.append(upload, Position(1, 1), 7, b"x" * 13)
    done = staging.complete(upload, NOW)
    assert staging.complete(done, NOW + timedelta(hours=1)) == done


def test_many_files_are_completed_too(tmp_path: Path) -> None:
    files = [(f"{number}.png", 1) for number in range(1000)]
    limits = Limits(max_bytes=1e6, reserve_bytes=0)
    upload = staging.create(tmp_path, files=files, dataset="", limits=limits, now=NOW)
    staging.append(upload, Position(0, 0), 999, b"x" * 1000)
    assert staging.complete(upload, NOW).completed


@pytest.mark.parametrize(
    ("files", "error", "told"),
    [
        ([], BadUpload, "no files"),
        ([("a.png", 1), ("a.png", 1)], BadUpload, r"'a\.png' is given twice"),
        ([("a.png", -1)], BadUpload, "-1 bytes"),
        ([("../a.png", 1)], Exception, r"\.\./a\.png"),
        ([("a\n.png", 1)], BadName, "a"),
        ([("a.zip", 1_000_001)], UploadTooLarge, "upload_max_gb"),
        ([(str(number), 0) for number in range(101)], UploadTooLarge, "101 files; at most 100"),
    ],
)
def test_what_can_not_be_uploaded_is_refused_before_anything_is_kept(
    begin: Begin, tmp_path: Path, files: list[tuple[str, int]], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        begin(*files)
    assert list(tmp_path.iterdir()) == []


def test_more_than_the_disk_has_beside_its_reserve_is_refused(begin: Begin, tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    limits = Limits(max_bytes=1e6, reserve_bytes=free)
    with pytest.raises(DiskFull, match="reserve"):
        begin(("a.png", 1), limits=limits)
    with pytest.raises(DiskFull, match="reserve"):
        staging.check_room(tmp_path, free + 1, LIMITS)


@pytest.mark.parametrize("upload_id", ["", "..", "../x", "a" * 31, "A" * 32, "g" * 32, "a" * 32 + "\n"])
def test_what_is_no_id_leads_nowhere(tmp_path: Path, upload_id: str) -> None:
    for use in (staging.find, staging.discard):
        with pytest.raises(UploadNotFound, match="is no upload"):
            use(tmp_path, upload_id)


def test_unknown_id_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(UploadNotFound, match="a" * 32):
        staging.find(tmp_path, "a" * 32)


def test_discarded_upload_is_gone_and_takes_no_more(begin: Begin, tmp_path: Path) -> None:
    upload = begin(("a.png", 4))
    staging.append(upload, Position(0, 0), 0, b"ab")
    staging.discard(tmp_path, upload.id)
    assert list(tmp_path.iterdir()) == []
    uses = (
        partial(staging.append, upload, Position(0, 2), 0, b"cd"),
        partial(staging.position, upload, 0, 0),
        partial(staging.received, upload),
        partial(staging.last_change, upload),
        partial(staging.complete, upload, NOW),
        partial(staging.find, tmp_path, upload.id),
        partial(staging.discard, tmp_path, upload.id),
    )
    for use in uses:
        with pytest.raises(UploadNotFound):
            use()
    assert list(tmp_path.iterdir()) == []


def test_same_files_for_the_same_dataset_are_found_until_complete(begin: Begin, tmp_path: Path) -> None:
    begin(("a.png", 1), fingerprint="other")
    upload = begin(("a.png", 1), fingerprint="same")
    find = partial(staging.find_unfinished, tmp_path)
    assert find(dataset="plates", fingerprint="same") == upload
    assert find(dataset="tiles", fingerprint="same") is None
    assert find(dataset="plates", fingerprint="") is None
    staging.append(upload, Position(0, 0), 0, b"a")
    staging.complete(upload, NOW)
    assert find(dataset="plates", fingerprint="same") is None


def test_list_has_the_youngest_first_and_leaves_out_what_is_no_upload(tmp_path: Path) -> None:
    def make(hours: int) -> Upload:
        return staging.create(
            tmp_path, files=[("a", 1)], dataset="", limits=LIMITS, now=NOW + timedelta(hours=hours)
        )

    uploads = [make(hours) for hours in (1, 3, 2)]
    (tmp_path / "note.txt").write_text("x")
    (tmp_path / ("a" * 32)).mkdir()  # its list is missing
    assert staging.list_uploads(tmp_path) == [uploads[1], uploads[2], uploads[0]]
    assert staging.list_uploads(tmp_path / "missing") == []


def test_sweep_deletes_what_nothing_was_added_to_and_what_the_dead_left(begin: Begin, tmp_path: Path) -> None:
    old, growing = begin(("a.zip", 4)), begin(("a.zip", 4))
    for upload in (old, growing):
        staging.append(upload, Position(0, 0), 0, b"ab")
    left = tmp_path / ".tmp-1-dead"
    left.mkdir()
    long_ago = (datetime.now(UTC) - timedelta(days=8)).timestamp()
    for path in (left, old.path(0), *(each.folder / "upload.json" for each in (old, growing))):
        os.utime(path, (long_ago, long_ago))
    assert staging.sweep(tmp_path, datetime.now(UTC), timedelta(days=7)) == [old.id]
    assert [path.name for path in tmp_path.iterdir()] == [growing.id]


def test_sweep_deletes_half_deleted_uploads_and_keeps_what_is_worked_on(begin: Begin, tmp_path: Path) -> None:
    half, empty, busy, decided = (begin(("a.zip", 4)) for _ in range(4))
    (half.folder / "upload.json").unlink()  # as a process leaves it that dies while it deletes
    shutil.rmtree(empty.folder)
    empty.folder.mkdir()
    staging.append(half, Position(0, 0), 0, b"ab")
    (tmp_path / "note.txt").write_text("nobody's")
    _age(tmp_path)
    (decided.folder / "plan.json").write_text("{}")
    sweep = partial(staging.sweep, tmp_path, datetime.now(UTC), keep={busy.id})
    assert sweep(timedelta(days=9)) == []
    assert set(sweep(timedelta(days=7))) == {half.id, empty.id}
    assert {path.name for path in tmp_path.iterdir()} == {busy.id, decided.id, "note.txt"}


def test_folder_that_can_not_be_removed_hinders_no_sweep(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uploads = [begin(("a.zip", 4)) for _ in range(3)]
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name == uploads[1].id:
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    _age(tmp_path)
    swept = staging.sweep(tmp_path, datetime.now(UTC), timedelta(days=7))
    assert set(swept) == {uploads[0].id, uploads[2].id}
    assert [path.name for path in tmp_path.iterdir()] == [uploads[1].id]
    assert "upload can not be removed" in caplog.text


def test_removed_folder_is_gone_at_once_and_swept_if_its_remover_dies(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(("a.zip", 4))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # dies before it
        assert staging.remove(upload.folder)
        assert not staging.remove(upload.folder)
    assert staging.list_uploads(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 1
    _age(tmp_path)
    staging.sweep(tmp_path, datetime.now(UTC), timedelta(days=7))
    assert list(tmp_path.iterdir()) == []


def _age(folder: Path) -> None:
    """Let all below seem eight days old."""
    long_ago = (datetime.now(UTC) - timedelta(days=8)).timestamp()
    for path in folder.rglob("*"):
        os.utime(path, (long_ago, long_ago))


def test_list_of_20000_files_is_read_once(tmp_path: Path) -> None:
    files = [(f"folder/{number:05d}.png", 1000) for number in range(20_000)]
    limits = Limits(max_bytes=1e9, reserve_bytes=0)
    upload = staging.create(tmp_path, files=files, dataset="", limits=limits, now=NOW)
    first = staging.find(tmp_path, upload.id)
    assert first == upload
    assert staging.find(tmp_path, upload.id) is first
