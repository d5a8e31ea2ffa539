"""Scoring many pictures: folders, archives, uploads; what is broken is told, what is done survives."""

import csv
import io
import subprocess
import time
import zipfile
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from dashboard import batching
from dashboard.overlays import drawer
from storage import models, staging
from storage.errors import BadArchive, DiskFull, UploadNotFound
from storage.listing import SourceFile, walk
from storage.staging import Limits, Position
from tuning import batches, jobs
from tuning.batch_scoring import RESULTS, TABLE, read_results, score_batch
from tuning.errors import BatchBusy, BatchNotFound, NoChampion, OtherBatch
from tuning.jobs import JobState
from tuning.predictor import calibration_of, scorer

pytestmark = pytest.mark.slow

NOW = datetime(2030, 1, 1, tzinfo=UTC)


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


def scored(workspace, model, files, out, *, progress=lambda *_: None, draw=None):
    return score_batch(
        scorer(workspace, model),
        model,
        calibration_of(model).threshold,
        files,
        out,
        draw=draw or drawer(model),
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


def upload(workspace, files, dataset="parts"):
    """What a browser sends: complete, and meant to be scored."""
    folder = workspace.settings.staging_folder
    made = staging.create(
        folder,
        files=[(name, len(data)) for name, data in files.items()],
        dataset=f"{staging.TO_SCORE}{dataset}",
        limits=Limits(max_bytes=1e9, reserve_bytes=0),
        now=NOW,
    )
    for place, data in enumerate(files.values()):
        staging.append(made, Position(place, 0), place, data)
    return staging.complete(made, NOW)


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
    assert job.result["pictures"] == len(found) == 9
    assert job.result["failed"] == 1
    good = next(one for one in found if one.name == "line 2/0.png")
    assert good.file.read_bytes() == (pictures / "line 2" / "0.png").read_bytes()
    assert batches.anomaly_map(good).shape == (50, 70)
    assert next(one for one in found if one.name == "two.tif#2").page == 2
    assert [one.name for one in batches.left_out(batch)] == ["notes.txt"]
    assert len({one.id for one in found}) == 9

    batching.start_packing(workspace.settings, batch.id)
    job = ended(workspace, batching.packing_key(batch.id))
    assert job.state is JobState.DONE, job.error
    with zipfile.ZipFile(batches.archive(workspace.settings, batch)) as packed:
        assert len(packed.namelist()) == 1 + 2 * 8
        assert packed.read("scores.csv").decode() == batches.scores_table(batch)

    batches.delete(workspace.settings, batch.id)
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
        batches.delete(workspace.settings, batch.id)
    kill_job("dashboard.batching", "score", batch.id)
    assert ended(workspace, key).state is JobState.INTERRUPTED
    done = read_results(batch.folder)
    assert 3 <= len(done) < 40
    stamps = {one.map: (batch.folder / one.map).stat().st_mtime_ns for one in done}
    batching.start_scoring(workspace.settings, batch.id)
    job = ended(workspace, key)
    assert (job.state, job.result["pictures"]) == (JobState.DONE, 40), job.error
    assert {name: (batch.folder / name).stat().st_mtime_ns for name in stamps} == stamps


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
        batches.score(workspace, batch, drawer, lambda *_: None)


@pytest.mark.parametrize("asked", ["../../etc", "0123456789abcdef", "", "ABC"])
def test_unknown_batch_is_told(workspace, asked):
    with pytest.raises(BatchNotFound):
        batches.find(workspace.settings, asked)
