"""From a folder to a dataset version: what goes in, what is left out and why, and nothing half-made is ever seen."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dashboard.cli import app
from engine.images import MAX_FILE_BYTES
from engine.masks import MAX_THRESHOLD
from storage import datasets
from storage.errors import BadDatasetName, StorageError
from storage.layouts import EXPORT_TABLE, understand
from storage.listing import SourceFile, walk
from storage.records import Edit, Label, Role
from tuning import arrivals, corrections
from tuning.errors import BadDataset
from tuning.export import export_version
from tuning.ingest import ingest_folder, ingest_layout
from tuning.sources import ingest_source, open_source
from tuning.versions import save_edits


def images_of(workspace, version):
    with workspace.session() as session:
        return datasets.list_images(session, version.id)


def test_source_split_is_kept_apart(workspace, make_folder):
    folder = make_folder(defects={"scratch": 5, "dent": 4})
    report = ingest_folder(workspace, folder, "parts")
    images = images_of(workspace, report.version)
    assert not report.skipped
    assert len(images) == 24 + 8 + 9
    for image in images:
        from_train = image.name.startswith("train/")
        assert from_train == (image.role in (Role.TRAIN, Role.CALIBRATION)), image.name
        assert (image.label is Label.ANOMALOUS) == (image.mask_digest is not None)


def test_progress_reaches_the_total(workspace, make_folder):
    seen = []
    ingest_folder(
        workspace, make_folder(), "parts", progress=lambda done, total, what: seen.append((done, total))
    )
    assert seen[0] == (0, 32)
    assert seen[-1] == (32, 32)


def test_few_pictures_are_read_at_once_however_many_cores_there_are(workspace, make_folder, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    readers = set()

    def count(*_):
        readers.update(thread.name for thread in threading.enumerate() if thread.name.startswith("reading"))

    ingest_folder(workspace, make_folder(train=90, flat=True), "parts", progress=count)
    assert 2 <= len(readers) <= 8


def test_unreadable_picture_is_listed_and_the_others_go_in(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    (folder / "train" / "good" / "broken.png").write_bytes(b"this is text")
    report = ingest_folder(workspace, folder, "parts")
    assert [skipped.name for skipped in report.skipped] == ["train/good/broken.png"]
    assert "broken.png" in report.skipped[0].reason
    assert report.version.count() == 24 + 8 + 4


def test_mask_of_another_size_is_listed(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    Image.fromarray(np.full((10, 10), 255, np.uint8)).save(
        folder / "ground_truth" / "scratch" / "000_mask.png"
    )
    report = ingest_folder(workspace, folder, "parts")
    assert [skipped.name for skipped in report.skipped] == ["test/scratch/000.png"]
    assert "10×10" in report.skipped[0].reason


def test_empty_mask_keeps_the_picture_anomalous_without_pixel_truth(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / "ground_truth" / "scratch" / "000_mask.png")
    report = ingest_folder(workspace, folder, "parts")
    image = next(
        image for image in images_of(workspace, report.version) if image.name == "test/scratch/000.png"
    )
    assert image.label is Label.ANOMALOUS
    assert image.mask_digest is None


def test_picture_in_train_and_test_stays_out_of_training(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    shutil.copy(folder / "test" / "good" / "000.png", folder / "train" / "good" / "copy.png")
    report = ingest_folder(workspace, folder, "parts")
    assert [skipped.name for skipped in report.skipped] == ["train/good/copy.png"]
    names = {image.name for image in images_of(workspace, report.version)}
    assert "test/good/000.png" in names


def test_same_pixels_in_another_file_format_count_as_a_copy(workspace, make_folder):
    folder = make_folder()
    with Image.open(folder / "train" / "good" / "000.png") as image:
        image.save(folder / "train" / "good" / "000.bmp")
    report = ingest_folder(workspace, folder, "parts")
    assert len(report.skipped) == 1
    assert "same pixels" in report.skipped[0].reason


def test_contradicting_labels_leave_both_out(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    shutil.copy(folder / "test" / "scratch" / "001.png", folder / "test" / "good" / "fine.png")
    report = ingest_folder(workspace, folder, "parts")
    assert {skipped.name for skipped in report.skipped} == {"test/good/fine.png", "test/scratch/001.png"}


def test_the_same_folder_again_gives_the_same_version(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    first = ingest_folder(workspace, folder, "parts").version
    assert ingest_folder(workspace, folder, "parts").version.id == first.id


def test_too_few_normal_pictures_are_refused_and_leave_nothing(workspace, make_folder):
    with pytest.raises(BadDataset, match=r"9 usable normal pictures.*at least 10"):
        ingest_folder(workspace, make_folder(train=9), "parts")
    with workspace.session() as session:
        assert datasets.list_datasets(session) == []


def test_bad_name_is_refused_before_anything_is_read(workspace, tmp_path: Path):
    with pytest.raises(BadDatasetName, match="Bad Name"):
        ingest_folder(workspace, tmp_path / "nowhere", "Bad Name")


def test_missing_folder_is_a_clear_error(workspace, tmp_path: Path):
    with pytest.raises(StorageError, match="nowhere"):
        ingest_folder(workspace, tmp_path / "nowhere", "parts")


def test_flat_folder_has_only_normal_pictures_in_every_role(workspace, make_folder):
    report = ingest_folder(workspace, make_folder(train=40, flat=True), "parts")
    assert not report.version.has_defects
    assert all(report.version.count(role=role) > 0 for role in Role)


def test_real_tiles_are_understood(workspace, magnetic_tile: Path):
    report = ingest_folder(workspace, magnetic_tile, "magnetic-tile")
    version = report.version
    assert (
        version.count(label=Label.ANOMALOUS) + version.count(label=Label.NORMAL) + len(report.skipped) == 221
    )
    assert version.count(role=Role.TEST, label=Label.ANOMALOUS) == 32
    assert version.has_masks


def test_mask_that_a_person_took_away_does_not_come_back_with_the_same_folder(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    first = ingest_folder(workspace, folder, "parts").version
    scratch = next(image for image in images_of(workspace, first) if image.mask_digest)
    edit = Edit(pixel_digest=scratch.pixel_digest, mask_digest="")
    corrections.put(workspace, "parts", [edit], who="ann")
    second = save_edits(workspace, "parts", who="ann")
    again = ingest_folder(workspace, folder, "parts")
    assert again.version.id == second.id
    (conflict,) = again.skipped
    assert conflict.name == scratch.name
    assert "was corrected after this one; version 2 keeps it" in conflict.reason


def test_mask_that_the_dataset_never_had_is_taken(workspace, make_folder):
    folder = make_folder(defects={"scratch": 4})
    mask = folder / "ground_truth" / "scratch" / "000_mask.png"
    ingest_folder(workspace, folder, "parts")
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(mask)
    report = ingest_folder(workspace, folder, "parts")
    assert (report.version.number, report.version.change, report.skipped) == (2, "1 mask changed", ())


def test_file_larger_than_any_picture_is_left_out_unread(workspace, make_folder):
    folder = make_folder(train=12, flat=True)
    with (folder / "huge.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # takes no room on the disk
    report = ingest_folder(workspace, folder, "parts")
    (huge,) = report.skipped
    assert (huge.name, report.version.count()) == ("huge.png", 12)
    assert "has 536,870,913 bytes; at most 536,870,912 are read" in huge.reason


@pytest.mark.parametrize(
    "command", [["ingest", "{folder}", "--dry-run"], ["dataset", "mask", "p", "a", "--none"]]
)
def test_threshold_of_masks_is_limited_alike_by_both_commands(tmp_path: Path, make_folder, command):
    folder = make_folder()
    words = [word.format(folder=folder) for word in command]

    def told(threshold: int) -> str:
        options = [*words, "--mask-threshold", str(threshold)]
        return CliRunner().invoke(app, ["--home", str(tmp_path / "home"), *options]).output

    assert "less than or equal to 65534" in " ".join(told(MAX_THRESHOLD + 1).split())
    assert "Invalid value" not in told(MAX_THRESHOLD)


def _listed(folder: Path, *, normal: int = 12, anomalous: int = 0) -> list[str]:
    """Rows of a list for pictures that are drawn here."""
    draw = np.random.default_rng(len(list(folder.parent.iterdir())))
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["path,label,mask"]
    for number in range(normal + anomalous):
        Image.fromarray(draw.integers(0, 255, (40, 48), np.uint8)).save(folder / f"{number:02}.png")
        rows.append(f"{number:02}.png,{'good' if number < normal else 'dent'},")
    return rows


def test_one_list_given_by_its_path_is_the_only_one_read(workspace, tmp_path: Path):
    rows = _listed(tmp_path / "parts")
    (tmp_path / "parts" / "one.csv").write_text("\n".join(rows[:12]))
    (tmp_path / "parts" / "other.csv").write_text("path,label\n11.png,bad\nnowhere.png,bad\n")
    with open_source(workspace, tmp_path / "parts" / "one.csv") as source:
        (layout,) = source.layouts
        assert {entry.name for entry in layout.entries} == {f"{number:02}.png" for number in range(11)}
        assert layout.notes == ("Pictures that the list does not name, left out (1): 11.png.",)
    with (
        pytest.raises(StorageError, match=r"File '00.png' is no list of pictures, for it is no UTF-8 text"),
        open_source(workspace, tmp_path / "parts" / "00.png"),
    ):
        pass


def test_one_small_category_of_a_tree_is_named_and_the_others_go_in(workspace, make_folder, tmp_path: Path):
    tree = tmp_path / "tree"
    for name, train in (("alpha", 6), ("beta", 24)):
        shutil.move(make_folder(name, train=train), tree / name)
    with (
        open_source(workspace, tree) as source,
        pytest.raises(
            BadDataset, match=r"1 of the 2 categories .* those taken in: 'beta'\.\n- 'alpha': .* holds "
        ),
    ):
        ingest_source(workspace, source, None, add=False, mask_threshold=0, who="ada")
    with workspace.session() as session:
        assert [dataset.name for dataset in datasets.list_datasets(session)] == ["beta"]


def test_masks_are_named_as_they_came_not_as_they_are_kept(workspace, tmp_path: Path):
    rows = _listed(tmp_path / "parts", anomalous=2)
    (tmp_path / "parts" / "list.csv").write_text(
        "\n".join([*rows[:-2], "12.png,dent,m/a.png", "13.png,dent,m/b.png"])
    )
    (tmp_path / "parts" / "m").mkdir()
    Image.new("L", (40, 40), 255).save(tmp_path / "parts" / "m" / "a.png")
    (tmp_path / "parts" / "m" / "b.png").write_bytes(b"no picture")
    kept = []
    for number, file in enumerate(walk(tmp_path / "parts")):  # as an upload keeps them
        kept.append(SourceFile(name=file.name, path=file.path.rename(tmp_path / f"{number:06}")))
    (layout,) = understand(kept, "x")
    report = ingest_layout(workspace, layout, "parts", source="x")
    first, second = sorted(report.skipped, key=lambda one: one.name)
    assert first.reason.startswith("Mask 'm/a.png' is 40×40 px, its picture '12.png' 48×40 px")
    assert "'m/b.png'" in second.reason


def test_masks_of_an_arrival_that_an_older_program_understood_are_known(workspace):
    arrival_id = "a" * 32
    entry = {"path": "/x/000001", "name": "a.png", "split": None, "label": "anomalous", "defect_type": None}
    layout = {"kind": "flat", "name": "x", "entries": [{**entry, "mask_paths": ["/x/000002"]}], "notes": []}
    values = {"layouts": [layout], "refused": [], "mask_values": []}
    folder = workspace.settings.staging_folder / arrival_id
    folder.mkdir(parents=True)
    (folder / "understood.json").write_text(json.dumps(values))
    (known,) = arrivals.understood(workspace, arrival_id).layouts
    assert known.entries[0].masks == (SourceFile(name="000002", path=Path("/x/000002")),)


def test_export_that_is_read_again_has_nothing_left_out(workspace, make_folder, tmp_path: Path):
    version = ingest_folder(workspace, make_folder(defects={"scratch": 4}), "parts").version
    export_version(workspace, version, tmp_path / "parts.zip")
    shutil.unpack_archive(tmp_path / "parts.zip", tmp_path / "again")
    assert (tmp_path / "again" / EXPORT_TABLE).is_file()
    assert ingest_folder(workspace, tmp_path / "again", "again").notes == ()


VISA = "object,split,label,image,mask\n"


@pytest.mark.parametrize(
    ("places", "table", "remedy"),
    [
        (["train/good/0.png", "test/good/1.png", "test/dent/2.png"], None, "under train/good."),
        (["train/ok/0.png", "test/ok/1.png", "test/ko/2.png"], None, "under train/ok."),
        (["0.png"], None, "into the folder."),
        (["good/0.png", "bad/1.png"], None, "into the folder good."),
        (
            ["x/0.png"],
            ("split_csv/1cls.csv", VISA + "x,train,normal,x/0.png,\n"),
            "split train and the label normal in",
        ),
        (
            ["0.png"],
            ("list.csv", "path,label\n0.png,good\ngone.png,good\n"),
            "; 1 was left out, the first: gone.png: The list names it, and no such file came with the list. Add it, or "
            "take its line out. Add pictures of normal parts: lines with a label that means normal, as good, and the "
            "split train or none.",
        ),
        (
            ["0.png"],
            (
                "x.manifest",
                '{"source-ref": "0.png", "a-label": 0, "a-label-metadata": {"class-name": "normal"}}',
            ),
            "lines with the class-name normal.",
        ),
    ],
)
def test_remedy_for_too_few_normal_pictures_fits_the_layout(workspace, tmp_path: Path, places, table, remedy):
    draw = np.random.default_rng(0)
    for place in places:
        file = tmp_path / "parts" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (40, 48), np.uint8)).save(file)
    if table is not None:
        file = tmp_path / "parts" / table[0]
        file.parent.mkdir(exist_ok=True)
        file.write_text(table[1])
    with pytest.raises(BadDataset) as caught:
        ingest_folder(workspace, tmp_path / "parts", "parts")
    assert remedy in str(caught.value)
