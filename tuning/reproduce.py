"""Training a trial again from what its MLflow run holds, and comparing what comes of it with what was recorded.

Nothing of the study's database is read: the run names the dataset version by its digest, the backbone by the digest of
its weights, the configuration, the seed, and where it ran. Equal means equal to the last bit: value, figures and
weights. On another processor, in another precision or with other threads the sums are rounded in another order; then
the difference is told, and what may be the reason.
"""

import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.backbones.resolve import Backbone, resolve_backbone
from engine.checkpoint import save_head
from engine.config import SimpleNetConfig
from engine.devices import resolve_device, resolve_precision
from engine.errors import DeviceUnavailable, EngineError
from engine.features import FeatureExtractor
from storage import datasets
from storage.errors import BlobMissing, DatasetNotFound
from storage.records import DatasetVersion
from storage.settings import Settings
from storage.tracking import RunRecord, Tracking
from storage.workspace import Workspace, open_workspace
from tuning import jobs, queries
from tuning.backbones import wanted_backbone
from tuning.errors import BackboneChanged, DatasetChanged, NotRepeatable, TrialNotFound
from tuning.features import cached_features
from tuning.jobs import Progress
from tuning.pictures import Picture, StudyPictures, study_pictures
from tuning.provenance import surroundings, weights_digest
from tuning.repeating import job_key
from tuning.run_files import FIGURES, MADE_AGAIN, RECIPE, WEIGHTS
from tuning.spec import StudySpec
from tuning.trial import TrialData, TrialResult, run_trial

COMPARED = ("image_auroc", "average_precision", "f1", "pixel_auroc", "aupro", "false_rejects", "escapes")

# What of the surroundings changes sums, in words.
_REASONS = {
    "code_version": "another version of the code",
    "torch": "another version of torch",
    "device": "another device",
    "device_name": "another processor",
    "precision": "another precision of the backbone",
    "threads": "another number of threads",
}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One number of a trial, as recorded and as it came out again."""

    name: str
    recorded: float | None
    repeated: float | None

    @property
    def difference(self) -> float | None:
        """Repeated minus recorded; None where one of them is missing."""
        if self.recorded is None or self.repeated is None:
            return None
        return self.repeated - self.recorded

    @property
    def equal(self) -> bool:
        """To the last bit."""
        return self.recorded == self.repeated


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What came of training a trial again."""

    run_id: str
    run_name: str
    dataset: str
    value: Compared  # the objective on the validation pictures
    figures: tuple[Compared, ...]
    recorded_weights: str  # SHA-256 of the head
    repeated_weights: str
    reasons: tuple[str, ...]  # what is different here, and so may be the reason of a difference
    seconds: float
    kept: bool  # whether the head was put into the run

    @property
    def equal(self) -> bool:
        """Whether value, figures and weights are the recorded ones to the last bit."""
        same = self.value.equal and all(figure.equal for figure in self.figures)
        return same and self.recorded_weights == self.repeated_weights

    @property
    def verdict(self) -> str:
        """One or two sentences for people."""
        if self.equal:
            return "Equal: value, figures and weights are the recorded ones to the last bit."
        off = self.value.difference
        how_far = "has no value to compare" if off is None else f"is off by {off:+.2g}"
        why = (
            f"What differs here: {'; '.join(self.reasons)}."
            if self.reasons
            else "Device, precision, threads and versions are the recorded ones; training is not repeatable here."
        )
        return f"Not equal: the value {how_far}. {why}"


def reproduce(
    workspace: Workspace, run: str, *, keep: bool = False, progress: Progress | None = None
) -> Reproduction:
    """Train a trial again and compare.

    Args:
        run: id of the trial's run in MLflow, or study and trial such as '3.7'.
        keep: put the head into the run, where other pages and machines find it.
    Raises:
        RunNotFound: MLflow has no such run.
        NotRepeatable: the run is of no completed trial, or does not hold what it takes.
        DatasetChanged: the pictures are not here as they were.
        BackboneChanged: the backbone's weights are not those that the trial had.
        EngineError: training diverged, or a figure is undefined.
    """
    tracking = Tracking(workspace.settings)
    record = tracking.run(find_run(workspace, run))
    recipe, recorded = _recorded(tracking, record)
    version, pictures = _pictures(workspace, recipe)
    device, dtype = _processor(workspace.settings, recipe["surroundings"])
    backbone = recorded_backbone(workspace.settings, recipe, device)
    config = SimpleNetConfig.from_json(recipe["config"])
    with _threads(int(recipe["surroundings"]["threads"])):
        extractor = FeatureExtractor(backbone, [int(stage) for stage in recipe["stages"]], device, dtype)
        here = surroundings(device, dtype)
        data = _data(workspace, version, pictures, extractor, config, recipe, progress)
        result = _train(data, config, StudySpec.from_json(recipe["spec"]).seeds, progress)
    repeated = result.figures.to_json()
    found = Reproduction(
        run_id=record.id,
        run_name=record.name,
        dataset=record.experiment,
        value=Compared(name="value", recorded=record.metrics.get("value"), repeated=result.value),
        figures=tuple(
            Compared(name=name, recorded=recorded.get(name), repeated=repeated.get(name))
            for name in COMPARED
            if recorded.get(name) is not None or repeated.get(name) is not None
        ),
        recorded_weights=record.tags.get("head_digest", ""),
        repeated_weights=weights_digest(result.head),
        reasons=tuple(
            f"{_REASONS[name]}, {here[name]} instead of {was}"
            for name, was in recipe["surroundings"].items()
            if name in here and here[name] != was
        ),
        seconds=result.seconds,
        kept=keep,
    )
    if keep:
        _keep(tracking, record.id, result, config, equal=found.equal)
    return found


def find_run(workspace: Workspace, run: str) -> str:
    """The id of the run that a person means.

    Raises:
        TrialNotFound: a trial is named that there is not.
        NotRepeatable: it has no run.
    """
    study, dot, trial = run.partition(".")
    if not (dot and study.isdecimal() and trial.isdecimal()):
        return run
    search = queries.opened(workspace, int(study))
    records = {record.number: record for record in queries.records(search)} if search is not None else {}
    record = records.get(int(trial) - 1)
    if record is None:
        has = f"it has trials {min(records) + 1} to {max(records) + 1}" if records else "it has none"
        raise TrialNotFound(f"Study {study} has no trial {trial}; {has}. See them: simplenet studies")
    if record.run_id is None:
        raise NotRepeatable(
            f"Trial {trial} of study {study} is {record.state} and has no run yet. Wait until it has ended."
        )
    return record.run_id


def _recorded(tracking: Tracking, record: RunRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    kind = record.tags.get("kind")
    if kind != "trial":
        raise NotRepeatable(
            f"Run '{record.id}' ({record.name}) is {'a study' if kind == 'study' else 'no trial'}; only a trial can be "
            "repeated. Name one of its trials, by its run's id or such as 3.7."
        )
    figures = tracking.read_dict(record.id, FIGURES)
    if "value" not in record.metrics or figures is None:
        raise NotRepeatable(
            f"Run '{record.id}' ({record.name}) did not complete ({record.status.lower()}), so there is nothing to "
            "compare with. Name a trial that completed."
        )
    recipe = tracking.read_dict(record.id, RECIPE)
    if recipe is None:
        raise NotRepeatable(
            f"Run '{record.id}' ({record.name}) holds no {RECIPE}: an older version of this program made it, or the "
            "file was deleted. Repeat a newer run."
        )
    return recipe, figures


def _pictures(workspace: Workspace, recipe: Mapping[str, Any]) -> tuple[DatasetVersion, StudyPictures]:
    """The dataset version of the recorded digest, its rows and files looked through."""
    name, digest = str(recipe["dataset"]), str(recipe["dataset_digest"])
    with workspace.session() as session:
        try:
            versions = datasets.list_versions(session, name)
        except DatasetNotFound as error:
            raise DatasetChanged(f"The trial is of dataset '{name}', which is not here. {error}") from error
        version = next((one for one in versions if one.digest == digest), None)
        if version is None:
            have = ", ".join(f"{one.number} ({one.digest[:12]})" for one in versions)
            raise DatasetChanged(
                f"The trial is of version {recipe['dataset_version']} of dataset '{name}' with digest {digest[:12]}; "
                f"here it has versions {have}. Ingest the same pictures with the same labels again, or repeat the "
                "trial where they are."
            )
        images = datasets.list_images(session, version.id)
    if (now := datasets.content_digest(images)) != digest:
        raise DatasetChanged(
            f"The pictures of version {version.number} of dataset '{name}' have digest {now[:12]} and had "
            f"{digest[:12]} when the trial ran: the database was changed. Restore it, or ingest the pictures again."
        )
    pictures = study_pictures(images)
    for picture in pictures.unsealed:
        _check_file(workspace, picture)
    return version, pictures


def _check_file(workspace: Workspace, picture: Picture) -> None:
    image = picture.image
    for digest in filter(None, (image.digest, image.mask_digest)):
        try:
            workspace.blobs.get(digest)
        except BlobMissing as error:  # or damaged
            raise DatasetChanged(f"Picture '{image.name}' is not as it was: {error}") from error


def _processor(settings: Settings, was: Mapping[str, str]) -> tuple[torch.device, torch.dtype]:
    """The recorded device and precision; the setting's device where this machine lacks the recorded one."""
    try:
        device = resolve_device(was["device"])
    except DeviceUnavailable:
        device = resolve_device(settings.device)
    return device, resolve_precision(was["precision"], device)


def recorded_backbone(settings: Settings, recipe: Mapping[str, Any], device: torch.device) -> Backbone:
    """The backbone that a trial's recipe names.

    Raises:
        BackboneChanged: it is not to be had here, or has other weights.
    """
    had, spec = recipe["backbone"], StudySpec.from_json(recipe["spec"])
    named = spec.weights_of(had["name"]) if had["name"] in spec.backbones else spec.weights
    file = Path(named) if named and Path(named).is_file() else None
    name, weights = wanted_backbone(settings, had["name"], file)
    try:
        backbone = resolve_backbone(name, weights, device)
    except EngineError as error:
        raise BackboneChanged(
            f"The trial had backbone {had['name']} from {had['origin']}, which is not to be had here: {error}"
        ) from error
    if backbone.digest != had["digest"]:
        raise BackboneChanged(
            f"The trial had backbone {had['name']} from {had['origin']} (weights {had['digest'][:12]}); here is "
            f"{backbone.name} from {backbone.origin} (weights {backbone.digest[:12]}). Name the file with the former "
            "weights: SIMPLENET_WEIGHTS."
        )
    return backbone


def _data(
    workspace: Workspace,
    version: DatasetVersion,
    pictures: StudyPictures,
    extractor: FeatureExtractor,
    config: SimpleNetConfig,
    recipe: Mapping[str, Any],
    progress: Progress | None,
) -> TrialData:
    spec = StudySpec.from_json(recipe["spec"])

    def on_batch(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, "computing features")

    cached = cached_features(
        workspace,
        version,
        pictures.unsealed,
        extractor,
        height=config.height,
        width=config.width,
        resize=config.resize,
        on_batch=on_batch,
    )
    return TrialData(
        workspace=workspace,
        pictures=pictures,
        cached=cached,
        objective=spec.objective,
        false_reject_rate=spec.false_reject_rate,
        backbone=extractor.backbone,
        device=extractor.device,
    )


def _train(data: TrialData, config: SimpleNetConfig, seeds: int, progress: Progress | None) -> TrialResult:
    def on_epoch(epoch: int, epochs: int, _loss: float, _value: float | None) -> None:
        if progress is not None:
            progress(epoch, epochs, "training")

    return run_trial(data, config, seeds=seeds, on_epoch=on_epoch)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with as many threads as the trial did: sums are cut into as many parts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _keep(
    tracking: Tracking, run_id: str, result: TrialResult, config: SimpleNetConfig, *, equal: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        head = Path(folder) / "head"
        save_head(head, result.head, config)
        tracking.log_folder(run_id, head, WEIGHTS)
    how = "equal to the recorded ones" if equal else "not equal to the recorded ones"
    tracking.set_tags(run_id, {"weights": f"{MADE_AGAIN}, {how}"})


def main(arguments: Sequence[str]) -> None:
    """Train a run's trial again in this process, as the dashboard starts it."""
    (run_id,) = arguments
    logging.basicConfig(level=logging.INFO)
    settings = Settings()

    def do(progress: Progress) -> Any:
        found = reproduce(open_workspace(settings), run_id, keep=True, progress=progress)
        return {"equal": found.equal, "verdict": found.verdict}

    jobs.work(settings, job_key(run_id), do)


if __name__ == "__main__":
    main(sys.argv[1:])
