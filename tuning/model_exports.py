"""Models as files for other programs: written, certified against the original, and kept for a day.

`python -m tuning.model_exports MODEL_ID FORMAT` does it as a job, in a process of its own: OpenVINO and onnxruntime are
loaded into no process that trains or serves. The file appears under its name only once its certificate is granted.
"""

import dataclasses
import json
import logging
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import engine
from engine.calibration import Calibration
from engine.certificate import Certificate, Comparison, certificate, compare
from engine.checkpoint import load
from engine.exported import Scorer, open_onnx, open_openvino, open_safetensors
from engine.exporting import (
    describe,
    onnx_model,
    openvino_zip,
    pass_order,
    require,
    set_threshold,
)
from engine.images import RGB, decode
from engine.scoring import Detector
from storage import datasets, models
from storage.atomic_files import temporary_beside, write_file
from storage.errors import DiskFull
from storage.records import ImageRecord, Model, now
from storage.room import RESERVE_BYTES, free_bytes, size_text
from storage.settings import Settings
from storage.tracking import Tracking
from storage.workspace import Workspace, open_workspace
from tuning import jobs
from tuning.errors import ExportFailed
from tuning.exports import KEPT, sweep
from tuning.jobs import Job, Progress
from tuning.operating_points import threshold_of
from tuning.predictor import calibration_of

logger = logging.getLogger(__name__)

MODULE = "tuning.model_exports"
PREFIX = "model-export-"  # of the keys of the jobs
CHECKED_AGAIN = 32  # pictures nearest to the threshold, decided once more by the finished file


class Format(StrEnum):
    """What a model can be exported to."""

    ONNX = "onnx"
    """One .onnx file for onnxruntime and others."""
    OPENVINO = "openvino"
    """A zip of OpenVINO's model.xml and model.bin, which its `read_model` takes as they are."""
    SAFETENSORS = "safetensors"
    """A zip of weights and JSON as they were trained, with the code that reads them; needs torch and timm."""

    @property
    def suffix(self) -> str:
        """Of the file's name."""
        return ".onnx" if self is Format.ONNX else ".zip"


@dataclass(frozen=True, kw_only=True)
class ModelExport:
    """A file that may be given out, and why it may."""

    file: Path
    format: Format
    certificate: Certificate


def export_file(settings: Settings, model: Model, form: Format) -> Path:
    """Where the export of a model lies, once it is certified: what lies there is whole."""
    return settings.exports_folder / f"{model.dataset_name}-model-{model.version}-{form.value}{form.suffix}"


def find_export(workspace: Workspace, model: Model, form: Format) -> ModelExport | None:
    """The certified export of a model with its present threshold; None where there is none."""
    file = export_file(workspace.settings, model, form)
    try:
        told = json.loads(_certificate_file(file).read_text(encoding="utf-8"))
        granted = Certificate.from_json(told)
        os.stat(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if granted.threshold != threshold_of(workspace, model):
        return None
    return ModelExport(file=file, format=form, certificate=granted)


def job_key(model_id: int, form: Format) -> str:
    """Key of the job that exports a model."""
    return f"{PREFIX}{model_id}-{form.value}"


def start_export(workspace: Workspace, model: Model, form: Format) -> Job:
    """Export a model in the background.

    Raises:
        ExportUnavailable: a package that the format needs is not installed.
        DiskFull: no room for the job's status.
    """
    if form is not Format.SAFETENSORS:
        require(form.value)
    sweep(workspace.settings)
    return jobs.start(workspace.settings, job_key(model.id, form), MODULE, [str(model.id), form.value])


def export(workspace: Workspace, model: Model, form: Format, progress: Progress) -> ModelExport:
    """Write the file, compare it with the original on every picture of the model's dataset version, and certify it.

    Raises:
        ExportUnavailable: the format can't be written here, or can't hold this network.
        ExportFailed: the certificate is not granted; the file is withheld.
        DiskFull: no room for the file.
        JobCancelled: from `progress`.
    """
    if form is not Format.SAFETENSORS:
        require(form.value)
    progress(0, 0, "loading the model")
    folder = Tracking(workspace.settings).checkpoint_folder(model.dataset_name, model.version)
    # On the CPU in fp32, whatever serves here: that is what an export can be held against on any machine.
    original = load(folder, device="cpu", precision="fp32")
    calibration = calibration_of(model)
    threshold = threshold_of(workspace, model)
    if threshold != calibration.threshold:
        calibration = dataclasses.replace(calibration, threshold=threshold)
    with workspace.session() as session:
        images = datasets.list_images(session, model.dataset_version_id)
        version = datasets.get_version(session, model.dataset_version_id)
    facts = {
        "dataset": model.dataset_name,
        "dataset_version": version.number,
        "model_version": model.version,
        "backbone": dict(model.figures["backbone"]),
        "calibration": calibration.to_json(),
        "exported_at": now().isoformat(),
    }
    target = export_file(workspace.settings, model, form)
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_room(target.parent, folder)
    draft = temporary_beside(target)
    try:
        with tempfile.TemporaryDirectory(prefix="export-", dir=workspace.settings.home) as scratch:
            writer = _Writer(
                original, calibration, facts, images, form=form, checkpoint=folder, scratch=Path(scratch)
            )
            granted = _certified(workspace, writer, images, draft, threshold, progress)
        if not granted.granted:
            raise ExportFailed(str(granted.reason))
        _certificate_file(target).unlink(missing_ok=True)  # never a certificate beside another file
        draft.replace(target)
        write_file(_certificate_file(target), json.dumps(granted.to_json(), indent=2).encode())
    finally:
        draft.unlink(missing_ok=True)
    return ModelExport(file=target, format=form, certificate=granted)


class _Writer:
    """Writes an export with a threshold, and opens it as its user would."""

    def __init__(
        self,
        original: Detector,
        calibration: Calibration,
        facts: Mapping[str, Any],
        images: Sequence[ImageRecord],
        *,
        form: Format,
        checkpoint: Path,
        scratch: Path,
    ) -> None:
        self.original = original
        self._calibration = calibration
        self._facts = facts
        self._form = form
        self._checkpoint = checkpoint
        self._scratch = scratch
        if form is not Format.SAFETENSORS:
            config = original.config
            sizes = [(image.height, image.width) for image in images]
            order = pass_order(sizes, (config.height, config.width), config.resize)
            self._model = onnx_model(original, order=order, by_matrix=form is Format.OPENVINO)

    def write(self, file: Path, threshold: float) -> float:
        """Write the file; answers the threshold that stands in it."""
        if self._form is Format.SAFETENSORS:
            _pack_checkpoint(file, self._checkpoint, self._calibration, self._facts)
            return self._calibration.threshold
        inside = set_threshold(self._model, threshold)
        facts = {**self._facts, "threshold_inside": inside}
        describe(self._model, facts)
        file.write_bytes(
            openvino_zip(self._model, facts)
            if self._form is Format.OPENVINO
            else self._model.SerializeToString()
        )
        return inside

    def open(self, file: Path) -> Scorer:
        """Open what was written."""
        if self._form is Format.OPENVINO:
            return open_openvino(file)
        if self._form is Format.ONNX:
            return open_onnx(file)
        return open_safetensors(file, Path(tempfile.mkdtemp(dir=self._scratch)))


def _certified(
    workspace: Workspace,
    writer: _Writer,
    images: Sequence[ImageRecord],
    draft: Path,
    threshold: float,
    progress: Progress,
) -> Certificate:
    """Write the export with a threshold under which all decisions stay, if there is one, and certify it.

    The picture that set the threshold scores exactly that, and must be accepted though the export's last digits differ:
    the threshold inside lies between the pictures that the original accepts and those that it rejects.
    """
    progress(0, len(images), "writing the file")
    writer.write(draft, threshold)

    def on_picture(done: int) -> None:
        progress(done, len(images), "comparing scores")

    pictures = [(image.name, _reader(workspace, image)) for image in images]
    found = compare(writer.original, writer.open(draft), pictures, on_picture=on_picture)
    inside = writer.write(draft, found.threshold_between(threshold))
    granted = certificate(found, threshold=threshold, threshold_inside=inside)
    if granted.granted:
        _check_again(found, writer.open(draft), pictures, granted)
    return granted


def _check_again(
    found: Comparison,
    finished: Scorer,
    pictures: Sequence[tuple[str, Callable[[], RGB]]],
    granted: Certificate,
) -> None:
    """Ask the finished file itself about the pictures that a wrong threshold would flip first.

    Raises:
        ExportFailed: it answers otherwise than the comparison says.
    """
    for place in found.near(granted.threshold, CHECKED_AGAIN):
        name, read = pictures[place]
        answer = finished(read())
        if answer.reject != (found.export_scores[place] > granted.threshold_inside):
            raise ExportFailed(
                f"The finished file decides picture '{name}' otherwise than its own score and threshold say "
                f"({answer.score} and {answer.threshold}). Export again; if it stays, use the safetensors export."
            )


def _reader(workspace: Workspace, image: ImageRecord) -> Callable[[], RGB]:
    return lambda: decode(workspace.blobs.get(image.digest), image.name)


def _pack_checkpoint(
    file: Path, checkpoint: Path, calibration: Calibration, facts: Mapping[str, Any]
) -> None:
    """Weights and settings with the engine's code: what an empty environment with torch and timm can run."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for part in sorted(checkpoint.iterdir()):
            if part.name != "calibration.json":
                archive.write(part, f"checkpoint/{part.name}")
        archive.writestr("checkpoint/calibration.json", json.dumps(calibration.to_json(), indent=2))
        archive.writestr("about.json", json.dumps(facts, indent=2))
        for source in _engine_files():
            archive.write(source, f"engine/{source.relative_to(Path(engine.__file__).parent)}")


def _engine_files() -> Iterator[Path]:
    return (file for file in sorted(Path(engine.__file__).parent.rglob("*.py")))


def _check_room(folder: Path, checkpoint: Path) -> None:
    """Refuse before anything is computed, where the file would not fit.

    Raises:
        DiskFull: there is less room than twice the weights beside the reserve.
    """
    needed = 2 * sum(part.stat().st_size for part in checkpoint.iterdir())
    free = free_bytes(folder)
    if free < needed + RESERVE_BYTES:
        raise DiskFull(
            f"The export needs about {size_text(needed)} beside {size_text(RESERVE_BYTES)} that stay free, and the "
            f"disk of {folder} has {size_text(free)}. Free some space there, then export again."
        )


def _certificate_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.certificate.json")


def main(arguments: Sequence[str]) -> None:
    """Export a model in this process."""
    model_id, form = int(arguments[0]), Format(arguments[1])
    logging.basicConfig(level=logging.INFO)
    settings = Settings()

    def do(progress: Progress) -> Any:
        workspace = open_workspace(settings)
        with workspace.session() as session:
            model = models.get_model(session, model_id)
        done = find_export(workspace, model, form)
        if done is not None:
            for file in (done.file, _certificate_file(done.file)):
                os.utime(file)  # kept for another day
        else:
            done = export(workspace, model, form, progress)
        return {"file": done.file.name, "bytes": done.file.stat().st_size}

    jobs.work(settings, job_key(model_id, form), do)


__all__ = ["KEPT", "Format", "ModelExport", "export", "export_file", "find_export", "job_key", "start_export"]

if __name__ == "__main__":
    main(sys.argv[1:])
