"""A version as a zip file: read again it gives the same pictures, labels and masks; whole, or not there at all."""

import csv
import io
import resource
import shutil
import subprocess
import unicodedata
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.images import decode, decode_mask, pixel_digest
from storage import datasets
from storage.errors import BlobMissing, DiskFull, VersionNotFound
from storage.label_words import (
    CONTAINERS,
    MASK_ENDING,
    is_date,
    is_mask_folder,
    split_word,
    verdict,
    words,
)
from storage.names import check_name
from storage.records import Label, NewImage, Role, now
from tuning.errors import ExportFailed
from tuning.export import export_version
from tuning.export_names import STEM_BYTES, Names, picture_suffix, safe_stem, safe_type
from tuning.ingest import ingest_folder


def images_of(workspace, version):
    with workspace.session() as session:
        return datasets.list_images(session, version.id)


def said(workspace, images):
    """What must survive: by pixels, the label, the defect type, the marked pixels, and whether it is trained on."""
    return {
        image.pixel_digest: (
            image.label,
            image.defect_type,
            None
            if image.mask_digest is None
            else decode_mask(workspace.blobs.get(image.mask_digest), "mask").tobytes(),
            image.role in (Role.TRAIN, Role.CALIBRATION),
        )
        for image in images
    }


@pytest.fixture
def make_version(workspace):
    """A version of pictures with the given names: `make_version(("a.png", "dent", Role.TEST), …)`."""

    def make(*entries, masks=True):
        images = []
        for number, (name, defect_type, role) in enumerate(entries):
            pixels = np.full((40, 48), number, np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            anomalous = defect_type is not None
            mask = io.BytesIO()
            Image.fromarray(np.full((40, 48), 255, np.uint8)).save(mask, "PNG")
            images.append(
                NewImage(
                    digest=workspace.blobs.put(file.getvalue()),
                    pixel_digest=pixel_digest(decode(file.getvalue(), name)),
                    name=name,
                    height=40,
                    width=48,
                    role=role,
                    label=Label.ANOMALOUS if anomalous else Label.NORMAL,
                    defect_type=defect_type or None,
                    mask_digest=workspace.blobs.put(mask.getvalue()) if anomalous and masks else None,
                )
            )
        with workspace.session() as session:
            return datasets.create_version(
                session, name="odd", source="", source_split=True, images=images, now=now()
            )

    return make


def exported(workspace, version, folder):
    file = folder / "out.zip"
    export_version(workspace, version, file)
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        archive.extractall(folder / "unpacked")
        return folder / "unpacked", archive.namelist()


def test_exported_version_is_read_again_the_same(workspace, parts, tmp_path):
    folder, _ = exported(workspace, parts, tmp_path)
    again = ingest_folder(workspace, folder, "again")
    assert not again.skipped
    images = images_of(workspace, parts)
    assert said(workspace, images_of(workspace, again.version)) == said(workspace, images)
    assert again.version.source_split


def test_files_are_those_that_are_stored_and_roles_stand_in_the_table(workspace, parts, tmp_path):
    folder, _ = exported(workspace, parts, tmp_path)
    images = {image.pixel_digest: image for image in images_of(workspace, parts)}
    with (folder / "roles.txt").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(images) == parts.count()
    for row in rows:
        image = images[row["sha256 of pixels"]]
        assert (folder / row["file"]).read_bytes() == workspace.blobs.get(image.digest)
        assert (row["role"], row["label"], row["name"]) == (image.role, image.label, image.name)
        trained = image.role in (Role.TRAIN, Role.CALIBRATION)
        assert row["file"].startswith("train/good/" if trained else "test/")
        assert bool(row["mask"]) == (image.mask_digest is not None)
        if image.mask_digest:
            assert (folder / row["mask"]).read_bytes() == workspace.blobs.get(image.mask_digest)


def test_the_same_version_gives_the_same_bytes_and_a_former_file_is_replaced(workspace, parts, tmp_path):
    (tmp_path / "b.zip").write_bytes(b"a former export")
    for name in ("a.zip", "b.zip"):
        size = export_version(workspace, parts, tmp_path / name)
        assert size == (tmp_path / name).stat().st_size
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.skipif(shutil.which("unzip") is None, reason="no unzip here")
def test_unpacked_files_may_be_read(workspace, parts, tmp_path):
    export_version(workspace, parts, tmp_path / "out.zip")
    subprocess.run(["unzip", "-q", "out.zip", "-d", "unzipped"], cwd=tmp_path, check=True)
    modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "unzipped").rglob("*") if file.is_file()}
    assert modes == {0o644}


def test_names_that_file_systems_or_readers_would_mix_up_are_made_apart(workspace, make_version, tmp_path):
    train = [(f"train/good/{number}.png", None, Role.TRAIN) for number in range(11)]
    version = make_version(
        *train,
        ("lot 1/A.png", None, Role.CALIBRATION),
        ("lot 2/a.PNG", None, Role.CALIBRATION),
        ("lot 3/a.jpeg", None, Role.CALIBRATION),  # its bytes are PNG
        ("con.png", None, Role.TEST),
        ("test/good/x_mask.png", None, Role.VALIDATION),
        ("test/good/x.png", None, Role.TEST),
        ("p.png", "Dent", Role.TEST),
        ("q.png", "dent", Role.VALIDATION),
        ("x.png", "good", Role.TEST),
        ("x_mask.png", "good", Role.TEST),
        ("x_mask_2.png", "good", Role.TEST),
        ("y.png", "scratch/../deep: ", Role.TEST),
        ("2024.png", "2024-05-01", Role.TEST),
        ("..", "aux", Role.TEST),
        ("w.png", "", Role.TEST),
        ("v.png", "no defect", Role.TEST),
        ("u.png", "mask", Role.TEST),
        ("t.png", "t" * 300, Role.TEST),
        ("s.png", "scratch_deep", Role.TEST),
        ("r.png", "scratch/deep", Role.TEST),
        ("scan.tif#2", None, Role.TEST),
    )
    folder, names = exported(workspace, version, tmp_path)
    assert len({name.casefold() for name in names}) == len(names)
    assert {"train/good/A.png", "train/good/a-2.png", "train/good/a-3.png"} <= set(names)
    assert {"test/Dent/p.png", "test/dent-2/q.png", "test/defect-good/x_mask-picture.png"} <= set(names)
    assert {"test/defect-aux/picture.png", "test/anomalous/w.png", "test/defect-2024-05-01/2024.png"} <= set(
        names
    )
    assert "test/good/picture-con.png" in names
    again = ingest_folder(workspace, folder, "again")
    assert not again.skipped
    expected = said(workspace, images_of(workspace, version))
    found = said(workspace, images_of(workspace, again.version))
    assert {digest: (label, mask, train) for digest, (label, _, mask, train) in found.items()} == {
        digest: (label, mask, train) for digest, (label, _, mask, train) in expected.items()
    }


@given(name=st.text())
def test_every_stem_is_a_name_on_any_computer_and_no_masks(name):
    stem = safe_stem(name)
    check_name(f"{stem}.png")
    assert "/" not in stem
    assert not MASK_ENDING.search(stem)
    assert not set(stem) & set('<>:"|?*')
    assert len(stem.encode()) <= STEM_BYTES + len("picture--picture")


NORMAL_WORDS = ["ok", "good", "no", "not", "free", "defect", "normal", "dent"]
OTHER_WORDS = [
    "mask",
    "gt",
    "train",
    "test",
    "2030",
    "01",
    "images",
    "data",
    "aux",
    "nul",
    ".",
    "-",
    "_",
    "/",
]
WORDS = NORMAL_WORDS + OTHER_WORDS


@given(defect_type=st.one_of(st.text(), st.lists(st.sampled_from(WORDS)).map(" ".join)))
def test_every_defect_type_becomes_a_folder_that_says_nothing_else(defect_type):
    folder = safe_type(defect_type)
    check_name(f"test/{folder}/a.png")
    assert "/" not in folder
    assert verdict(folder) is not Label.NORMAL
    assert words(folder)
    assert not is_date(folder)
    assert split_word(folder) is None
    assert not is_mask_folder(folder)
    assert folder.casefold() not in CONTAINERS


@given(wanted=st.lists(st.sampled_from(["a", "A", "a-2", "A-2", "b", "ä", "a\u0308"]), max_size=12))
def test_names_never_collide(wanted):
    names = Names()
    taken = [names.take("f", name) for name in wanted]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in taken}) == len(taken)


@pytest.mark.parametrize(
    ("name", "start", "suffix"),
    [
        ("a.JPG", b"\xff\xd8\xff\xe0", ".jpg"),
        ("a.jpeg", b"\xff\xd8\xff\xe0", ".jpeg"),
        ("a.png", b"\xff\xd8\xff\xe0", ".jpg"),
        ("scan, page 2", b"\x89PNG\r\n", ".png"),
        ("a.tiff", b"II*\0", ".tiff"),
        ("a", b"RIFF\0\0\0\0WEBP", ".webp"),
        ("a.dib", b"BM", ".bmp"),
        ("a.jp2", b"\0\0\0\x0cjP", ".png"),
    ],
)
def test_suffix_follows_the_bytes(name, start, suffix):
    assert picture_suffix(name, start) == suffix


def test_full_disk_leaves_nothing_and_the_former_file_whole(workspace, parts, tmp_path):
    file = tmp_path / "out.zip"
    file.write_bytes(b"the former export")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a write beyond fails, as on a full disk
    try:
        with pytest.raises(DiskFull, match=r"out\.zip' can't be written: .*Free some space"):
            export_version(workspace, parts, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == b"the former export"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.zip"]


def test_lack_of_space_is_said_before_anything_is_written(workspace, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(DiskFull, match=r"needs 0\.2 MB, and its disk has 0\.0 MB free\. Free some"):
        export_version(workspace, parts, tmp_path / "out.zip")
    assert not list(tmp_path.glob("*.zip"))


def test_file_that_can_not_be_made_says_so_and_nothing_of_a_full_disk(workspace, parts, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ExportFailed, match=r"can't be written: .*Choose a folder that you may write to"):
        export_version(workspace, parts, tmp_path / "file" / "out.zip")
    with pytest.raises(ExportFailed, match=r"is a folder; an export is one file"):
        export_version(workspace, parts, tmp_path)


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_lost_picture_ends_the_export_without_a_file(workspace, parts, tmp_path, damage):
    path = workspace.blobs.path(images_of(workspace, parts)[20].digest)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BlobMissing, match=path.name):
        export_version(workspace, parts, tmp_path / "out.zip")
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == []


def test_progress_reaches_the_total(workspace, parts, tmp_path):
    seen = []
    export_version(
        workspace, parts, tmp_path / "out.zip", progress=lambda done, total, what: seen.append((done, total))
    )
    assert seen[0] == (0, 44)
    assert seen[-1] == (44, 44)


def test_unknown_version_is_refused(workspace, parts, tmp_path):
    with pytest.raises(VersionNotFound, match="no dataset version with id 999"):
        export_version(workspace, replace(parts, id=999), tmp_path / "out.zip")


def test_reserve_of_the_disk_stays_free(workspace, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000_000))
    with pytest.raises(DiskFull, match=r"1\.0 GB free, 1\.0 GB of which stay in reserve\. Free some"):
        export_version(workspace, parts, tmp_path / "out.zip", reserve_bytes=1e9)
    assert export_version(workspace, parts, tmp_path / "out.zip") > 0
