"""Scoring many pictures: folders, archives, uploads; what is broken is told, what is done survives."""

import csv
import io
import subprocess
import time
import zipfile
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from dashboard import batching
from dashboard.overlays import drawer
from storage import datasets, models, reviews, staging
from storage.errors import BadArchive, DiskFull, UploadNotFound
from storage.listing import SourceFile, walk
from storage.records import Label
from tests.scored_batches import noise, scored_batch, upload
from tuning import batches, jobs, reviewing, scoring
from tuning.batch_scoring import RESULTS, TABLE, named_files, read_results, score_batch
from tuning.errors import BatchBusy, BatchNotFound, NoChampion, OtherBatch
from tuning.jobs import JobState
from tuning.map_cache import map_cache
from tuning.predictor import calibration_of, map_of, scorer

pytestmark = pytest.mark.slow


@pytest.fixture
def model(workspace, parts, make_spec, run_to_end):
    run_to_end(make_spec(trials=1))
    with workspace.session() as session:
        return models.champion(session, "parts")


@pytest.fixture
def pictures(tmp_path):
    """A folder with six pictures, a broken one, one of two pages, and a note."""
    folder = tmp_path / "given"
    (folder / "line 2").mkdir(parents=True)
    draw = np.random.default_rng(5)
    for number in range(6):
        values = draw.integers(60, 180, (50, 70), dtype=np.uint8)
        Image.fromarray(values).save(folder / "line 2" / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    two = [Image.fromarray(draw.integers(0, 255, (40, 40), dtype=np.uint8)) for _ in range(2)]
    two[0].save(folder / "two.tif", save_all=True, append_images=two[1:])
    (folder / "notes.txt").write_text("hello")
    return folder


def scored(workspace, model, files, out, *, progress=lambda *_: None):
    return score_batch(
        scorer(workspace, model),
        model,
        calibration_of(model).threshold,
        files,
        out,
        keep=named_files(out, drawer(model)),
        progress=progress,
    )


def listed(folder):
    files, _ = batches.sort_out(walk(folder), folder / "unused", lambda *_: None)
    return files


def test_folder_becomes_a_table_maps_and_overlays(workspace, model, pictures, tmp_path):
    out = tmp_path / "out"
    found = scored(workspace, model, listed(pictures), out)
    by_name = {one.name: one for one in found}
    assert list(by_name) == ["broken.png", *(f"line 2/{n}.png" for n in range(6)), "two.tif#1", "two.tif#2"]
    assert "broken.png" in by_name["broken.png"].error
    good = by_name["line 2/3.png"]
    values = np.load(out / good.map)
    assert (values.dtype, values.shape) == (np.float32, (50, 70))
    with Image.open(out / good.overlay) as overlay:
        assert overlay.size == (70, 50)
    rows = list(csv.DictReader(io.StringIO((out / TABLE).read_text())))
    assert [row["name"] for row in rows] == list(by_name)
    row = next(row for row in rows if row["name"] == "line 2/3.png")
    assert float(row["score"]) == good.score
    assert row["decision"] == ("reject" if good.score > calibration_of(model).threshold else "accept")
    assert rows[0]["error"]


class Stopped(Exception):
    pass


def test_batch_goes_on_where_it_stopped_and_ends_alike(workspace, model, pictures, tmp_path):
    files = listed(pictures)
    whole = scored(workspace, model, files, tmp_path / "whole")

    def stop(done, total, text):
        if done == 4:
            raise Stopped

    with pytest.raises(Stopped):
        scored(workspace, model, files, tmp_path / "out", progress=stop)
    assert not (tmp_path / "out" / TABLE).exists()
    done = read_results(tmp_path / "out")
    assert len(done) == 4
    with (tmp_path / "out" / RESULTS).open("a") as journal:
        journal.write('{"place": 4, "name": "line 2/3')  # the process died while it wrote
    before = {one.map: (tmp_path / "out" / one.map).stat().st_mtime_ns for one in done if one.map}
    again = scored(workspace, model, files, tmp_path / "out")
    assert again == whole
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before} == before
    assert (tmp_path / "out" / TABLE).read_bytes() == (tmp_path / "whole" / TABLE).read_bytes()


def test_picture_that_was_mended_is_scored_by_the_next_call(workspace, model, pictures, tmp_path):
    scored(workspace, model, listed(pictures), tmp_path / "out")
    Image.fromarray(np.full((40, 40), 99, np.uint8)).save(pictures / "broken.png")
    found = scored(workspace, model, listed(pictures), tmp_path / "out")
    assert all(one.error is None for one in found)


def test_folder_of_another_batch_is_refused(workspace, model, pictures, tmp_path):
    files = listed(pictures)
    scored(workspace, model, files, tmp_path / "out")
    with pytest.raises(OtherBatch, match=r"pictures was 8, now it is 7\. Choose another folder"):
        scored(workspace, model, files[1:], tmp_path / "out")
    other = [SourceFile(name=f"x{file.name}", path=file.path) for file in files]
    with pytest.raises(OtherBatch, match="list was other pictures, now it is these"):
        scored(workspace, model, other, tmp_path / "out")
    (tmp_path / "out" / "batch.json").unlink()
    with pytest.raises(OtherBatch, match=r"batch\.json is missing"):
        scored(workspace, model, files, tmp_path / "out")


def test_full_disk_keeps_what_is_done_and_the_same_call_goes_on(workspace, model, tmp_path, small_disk):
    folder = tmp_path / "large"
    folder.mkdir()
    for number in range(6):
        values = np.random.default_rng(number).integers(0, 255, (400, 400), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    out = small_disk(3)  # a map takes 640 kB, its overlay some 300
    with pytest.raises(DiskFull, match="no room left"):
        scored(workspace, model, listed(folder), out)
    done = len(read_results(out))
    assert 0 < done < 6
    subprocess.run(["mount", "-o", "remount,size=40m", str(out)], check=True)
    found = scored(workspace, model, listed(folder), out)
    assert [one.error for one in found] == [None] * 6
    assert (out / TABLE).is_file()


def zipped(folder):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return data.getvalue()


def ended(workspace, key, seconds=120.0):
    deadline = time.monotonic() + seconds
    while (job := jobs.status(workspace.settings, key)) and job.state is JobState.RUNNING:
        assert time.monotonic() < deadline, job
        time.sleep(0.02)
    return job


def test_uploaded_zip_is_scored_kept_packed_and_deleted(workspace, model, pictures):
    sent = upload(workspace, {"line.zip": zipped(pictures)})
    batch = batches.from_upload(workspace, "parts", sent.id, who="tester")
    with pytest.raises(UploadNotFound):
        staging.find(workspace.settings.staging_folder, sent.id)
    assert batches.list_batches(workspace.settings, "parts") == [batch]
    assert batches.list_batches(workspace.settings, "other") == []
    batching.start_scoring(workspace.settings, batch.id)
    job = ended(workspace, batches.job_key(batch.id))
    assert job.state is JobState.DONE, job.error
    found = batches.results(batch)
    assert (job.result["pictures"], job.result["failed"]) == (9, 1)
    assert [one.name for one in found.failed] == ["broken.png"]
    assert [one.name for one in batches.left_out(batch)] == ["notes.txt"]
    assert len({one.id for one in found.pictures}) == len(found.pictures) == 8
    inside = batches.within(workspace, batch)
    by_name = {one.name: one for one in found.pictures}
    good, second_page = by_name["line 2/0.png"], by_name["two.tif#2"]
    assert inside.blobs.get(good.digest) == (pictures / "line 2" / "0.png").read_bytes()
    # A name more for the file that was unpacked, and no second copy.
    assert inside.blobs.path(good.digest).stat().st_nlink == 2
    assert (good.height, good.width) == (50, 70)
    with Image.open(io.BytesIO(inside.blobs.get(second_page.digest))) as alone:
        assert (alone.n_frames, alone.size) == (1, (40, 40))
    for one in found.pictures:
        score, anomaly_map = map_cache(inside, model).get(one.pixel_digest)
        assert (score, anomaly_map.shape) == (one.score, (one.height, one.width))

    batching.start_packing(workspace.settings, batch.id)
    job = ended(workspace, batching.packing_key(batch.id))
    assert job.state is JobState.DONE, job.error
    with zipfile.ZipFile(batches.archive(workspace.settings, batch)) as packed:
        assert len(packed.namelist()) == 1 + 2 * 8
        assert packed.read("scores.csv").decode() == batches.scores_table(batch)
        row = next(one for one in csv.DictReader(io.StringIO(batches.scores_table(batch))) if one["map"])
        picture = by_name[row["name"]]
        packed_map = np.load(io.BytesIO(packed.read(row["map"])))
        assert np.array_equal(packed_map, map_of(inside, model, picture)[1])
        with Image.open(io.BytesIO(packed.read(row["overlay"]))) as overlay:
            assert overlay.size == (picture.width, picture.height)

    batches.delete(workspace, batch.id)
    assert batches.list_batches(workspace.settings, "parts") == []
    assert not batch.folder.exists()
    assert not batches.archive(workspace.settings, batch).exists()
    with pytest.raises(BatchNotFound, match="no batch"):
        batches.find(workspace.settings, batch.id)


def test_killed_scoring_goes_on_with_what_is_left(workspace, model, tmp_path, kill_job):
    draw = np.random.default_rng(1)
    files = {}
    for number in range(40):
        data = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (300, 300), dtype=np.uint8)).save(data, "PNG")
        files[f"{number:02d}.png"] = data.getvalue()
    batch = batches.from_upload(workspace, "parts", upload(workspace, files).id, who="tester")
    key = batches.job_key(batch.id)
    batching.start_scoring(workspace.settings, batch.id)
    while len(read_results(batch.folder)) < 3:
        assert jobs.status(workspace.settings, key).state is JobState.RUNNING
        time.sleep(0.005)
    with pytest.raises(BatchBusy, match="is being scored"):
        batches.delete(workspace, batch.id)
    kill_job("dashboard.batching", "score", batch.id)
    assert ended(workspace, key).state is JobState.INTERRUPTED
    done = read_results(batch.folder)
    assert 3 <= len(done) < 40
    maps = batch.folder / "maps" / "parts" / str(model.version)
    stamps = {one.pixel_digest: (maps / f"{one.pixel_digest}.npz").stat().st_mtime_ns for one in done}
    batching.start_scoring(workspace.settings, batch.id)
    job = ended(workspace, key)
    assert (job.state, job.result["pictures"]) == (JobState.DONE, 40), job.error
    assert {key: (maps / f"{key}.npz").stat().st_mtime_ns for key in stamps} == stamps


def test_batch_needs_a_champion_and_pictures(workspace, parts, make_spec, run_to_end):
    sent = upload(workspace, {"notes.txt": b"hello"})
    with pytest.raises(NoChampion):
        batches.from_upload(workspace, "parts", sent.id, who="tester")
    run_to_end(make_spec(trials=1))
    batch = batches.from_upload(workspace, "parts", sent.id, who="tester")
    batching.start_scoring(workspace.settings, batch.id)
    job = ended(workspace, batches.job_key(batch.id))
    assert job.state is JobState.FAILED
    assert "There is no picture in 'notes.txt'" in job.error


def test_damaged_archive_is_refused_with_its_name(workspace, model, pictures):
    broken = zipped(pictures)[:-200]
    batch = batches.from_upload(workspace, "parts", upload(workspace, {"line.zip": broken}).id, who="tester")
    with pytest.raises(BadArchive, match=r"line\.zip"):
        batches.score(workspace, batch, lambda *_: None)


def test_pictures_of_a_batch_touch_neither_the_store_nor_the_maps_of_the_datasets(workspace, model):
    def files(folder):
        return {file for file in folder.rglob("*") if file.is_file()}

    settings = workspace.settings
    before = files(settings.blobs_folder), files(settings.maps_folder)
    batch = scored_batch(workspace, noise(3))
    assert (files(settings.blobs_folder), files(settings.maps_folder)) == before
    for one in batches.results(batch).pictures:
        assert one.digest == sha256(noise(3)[one.name]).hexdigest()


def test_same_picture_twice_is_in_the_batch_twice(workspace, model):
    one = noise(1)["0.png"]
    found = batches.results(scored_batch(workspace, {"a.png": one, "b.png": one})).pictures
    assert [picture.name for picture in found] == ["a.png", "b.png"]
    assert len({picture.id for picture in found}) == 2
    assert len({picture.pixel_digest for picture in found}) == 1


def test_lost_map_is_computed_again_when_it_is_asked_for(workspace, model):
    batch = scored_batch(workspace, noise(1))
    inside, (picture,) = batches.within(workspace, batch), batches.results(batch).pictures
    kept = map_of(inside, model, picture)
    (file,) = (batch.folder / "maps").rglob("*.npz")
    file.write_bytes(bytes(file.stat().st_size))  # as a power cut leaves it
    again = map_of(inside, model, picture)
    assert again[0] == kept[0]
    assert np.array_equal(again[1], kept[1])


def test_batch_that_another_version_is_scoring_is_not_deleted(workspace, model):
    batch = scored_batch(workspace, noise(1))
    key = scoring.job_key(model, f"{batches.PREFIX}{batch.id}")

    def refused(progress):
        with pytest.raises(BatchBusy, match="is being scored"):
            batches.delete(workspace, batch.id)

    jobs.work(workspace.settings, key, refused)
    batches.delete(workspace, batch.id)
    assert jobs.status(workspace.settings, key) is None


def test_deleting_a_batch_takes_its_open_marks_and_no_others(workspace, model):
    batch = scored_batch(workspace, noise(3))
    pictures, inside = batches.results(batch).pictures, batches.within(workspace, batch)
    options = {"model": model, "uploaded": True, "who": "ada"}
    reviewing.mark(workspace, "parts", pictures[0], Label.NORMAL, **options)
    reviewing.add_marked(workspace, "parts", pictures, store=inside.blobs, source="batch", who="ada")
    reviewing.mark(workspace, "parts", pictures[1], Label.ANOMALOUS, **options)
    with workspace.session() as session:
        image = datasets.list_images(session, model.dataset_version_id)[0]
    reviewing.mark(workspace, "parts", image, Label.ANOMALOUS, who="ada")
    assert [one.pixel_digest for one in batches.open_marks(workspace, batch)] == [pictures[1].pixel_digest]
    batches.delete(workspace, batch.id)
    with workspace.session() as session:
        left = reviews.list_reviews(session, "parts")
    assert set(left) == {pictures[0].pixel_digest, image.pixel_digest}
    # What went into the dataset lies there: it does not need the batch.
    assert workspace.blobs.has(pictures[0].digest)


@pytest.mark.parametrize("asked", ["../../etc", "0123456789abcdef", "", "ABC"])
def test_unknown_batch_is_told(workspace, asked):
    with pytest.raises(BatchNotFound):
        batches.find(workspace.settings, asked)
