"""Exports as jobs of their own, their certificates, and the examples of the guide, run as their readers would."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from dashboard.examples import example
from engine import exporting
from engine.errors import ExportUnavailable
from storage import datasets, models
from storage.errors import DiskFull
from storage.records import Role
from storage.settings import Settings
from storage.workspace import open_workspace
from tuning import jobs, model_exports
from tuning.errors import ExportFailed
from tuning.jobs import JobState
from tuning.model_exports import Format, export, find_export, start_export
from tuning.predictor import score_images

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[2] / "docs" / "models.md"
GUIDES_FILES = {
    "onnx": "magnetic-tile-model-1-onnx.onnx",
    "openvino": "magnetic-tile-model-1-openvino.zip",
    "safetensors": "magnetic-tile-model-1-safetensors.zip",
}


def needs(form):
    missing = [name for name in exporting.PACKAGES.get(form, ()) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture
def model(workspace, parts, make_spec, run_to_end):
    run_to_end(make_spec(trials=1))
    with workspace.session() as session:
        return models.champion(session, "parts")


def exported(workspace, model, form, seconds=180.0):
    start_export(workspace, model, form)
    key, deadline = model_exports.job_key(model.id, form), time.monotonic() + seconds
    while (job := jobs.status(workspace.settings, key)) and job.state is JobState.RUNNING:
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


@pytest.mark.parametrize("form", ["onnx", "openvino", "safetensors"])
def test_export_is_certified_and_the_guides_example_runs(workspace, model, form, tmp_path):
    needs(form)
    job = exported(workspace, model, Format(form))
    assert job.state is JobState.DONE, job.error
    found = find_export(workspace, model, Format(form))
    with workspace.session() as session:
        images = datasets.list_images(session, model.dataset_version_id)
    certificate = found.certificate
    assert (certificate.pictures, certificate.flipped) == (len(images), 0)
    assert certificate.largest_score_difference < 0.01 * certificate.score_spread
    assert certificate.export_p50_ms > 0
    if form == "safetensors":
        assert certificate.largest_score_difference == 0

    # The guide's own lines, in an empty folder, by a process that knows nothing of the product.
    guide = GUIDE.read_text()
    assert example(form, GUIDES_FILES[form]) in guide
    picture = next(image for image in images if image.role is Role.TEST)
    (tmp_path / GUIDES_FILES[form]).write_bytes(found.file.read_bytes())
    (tmp_path / "part.png").write_bytes(workspace.blobs.get(picture.digest))
    (tmp_path / "example.py").write_text(
        f"import sys\nsys.path = [one for one in sys.path if one != {str(GUIDE.parents[1])!r}]\n"
        + example(form, GUIDES_FILES[form])
    )
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    scored = next(iter(score_images(workspace, model, [picture])))
    said = done.stdout.split()
    assert said[0] == scored.decision
    assert float(said[1]) == pytest.approx(scored.score, abs=0.01 * certificate.score_spread)
    if form == "safetensors":
        assert float(said[1]) == scored.score


def test_threshold_just_below_a_score_flips_nothing(workspace, model):
    """Where rounding would decide, the threshold inside lies between the pictures that are accepted and rejected."""
    needs("onnx")
    with workspace.session() as session:
        images = datasets.list_images(session, model.dataset_version_id)
    scores = sorted(one.score for one in score_images(workspace, model, images))
    figures = json.loads(json.dumps(dict(model.figures)))
    figures["calibration"]["threshold"] = float(np.nextafter(scores[len(scores) // 2], -np.inf))
    with workspace.session() as session:
        session.execute(
            text("UPDATE models SET figures = :figures WHERE id = :id"),
            {"figures": json.dumps(figures), "id": model.id},
        )
    with workspace.session() as session:
        model = models.get_model(session, model.id)
    assert exported(workspace, model, Format.ONNX).state is JobState.DONE
    found = find_export(workspace, model, Format.ONNX)
    assert found.certificate.flipped == 0
    assert found.certificate.threshold_inside < scores[len(scores) // 2]


def test_failed_certificate_withholds_the_file_and_says_why(workspace, model, monkeypatch):
    monkeypatch.setattr("engine.certificate.TOLERANCE", -1.0)
    with pytest.raises(ExportFailed, match="Scores of the export differ"):
        export(workspace, model, Format.SAFETENSORS, lambda *_: None)
    assert find_export(workspace, model, Format.SAFETENSORS) is None
    assert not list(workspace.settings.exports_folder.glob("*.zip"))


def test_export_of_another_threshold_is_not_given_out(workspace, model):
    assert exported(workspace, model, Format.SAFETENSORS).state is JobState.DONE
    assert find_export(workspace, model, Format.SAFETENSORS) is not None
    figures = json.loads(json.dumps(dict(model.figures)))
    figures["calibration"]["threshold"] += 1
    with workspace.session() as session:
        session.execute(
            text("UPDATE models SET figures = :figures WHERE id = :id"),
            {"figures": json.dumps(figures), "id": model.id},
        )
    with workspace.session() as session:
        changed = models.get_model(session, model.id)
    assert find_export(workspace, changed, Format.SAFETENSORS) is None


def test_killed_export_leaves_nothing_to_give_out_and_can_be_started_again(workspace, model, kill_job):
    start_export(workspace, model, Format.SAFETENSORS)
    key = model_exports.job_key(model.id, Format.SAFETENSORS)
    deadline = time.monotonic() + 60
    while not (job := jobs.status(workspace.settings, key)).text.startswith(
        ("loading", "writing", "comparing")
    ):
        assert job.state is JobState.RUNNING, job.error
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_job(model_exports.MODULE, model.id, "safetensors")
    while jobs.is_running(workspace.settings, key):
        time.sleep(0.01)
    assert jobs.status(workspace.settings, key).state is JobState.INTERRUPTED
    assert find_export(workspace, model, Format.SAFETENSORS) is None
    assert exported(workspace, model, Format.SAFETENSORS).state is JobState.DONE


def test_missing_extra_is_told_before_anything_starts(workspace, model, monkeypatch):
    monkeypatch.setitem(exporting.PACKAGES, "openvino", ("openvino_of_nobody",))
    with pytest.raises(ExportUnavailable, match="openvino_of_nobody, which is not installed"):
        start_export(workspace, model, Format.OPENVINO)
    assert jobs.status(workspace.settings, model_exports.job_key(model.id, Format.OPENVINO)) is None


def test_full_disk_is_told_before_anything_is_computed(workspace, model, small_disk):
    folder = small_disk(64)
    # The installation stays where it is; only what is exported would go to the small disk.
    workspace.settings.exports_folder.rmdir()
    workspace.settings.exports_folder.symlink_to(folder)
    job = exported(workspace, model, Format.SAFETENSORS)
    assert job.state is JobState.FAILED
    assert "that stay free" in job.error
    assert "Free some space there" in job.error
    assert list(folder.iterdir()) == []


def test_room_is_asked_of_the_disk_that_exports_go_to(tmp_path, small_disk):
    (tmp_path / "weights").write_bytes(b"x")
    with pytest.raises(DiskFull, match="needs about"):
        model_exports._check_room(small_disk(8), tmp_path)


def test_export_of_an_empty_installation_names_the_model(tmp_path):
    opened = open_workspace(Settings(home=tmp_path / "home", device="cpu"))
    try:
        jobs.start(opened.settings, "model-export-7-safetensors", model_exports.MODULE, ["7", "safetensors"])
        while (job := jobs.status(opened.settings, "model-export-7-safetensors")).state is JobState.RUNNING:
            time.sleep(0.05)
        assert job.state is JobState.FAILED
        assert "There is no model with id 7" in job.error
    finally:
        opened.close()
