"""Scoring with a registered model: pictures of a dataset (cached on disk) or any files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.calibration import Calibration
from engine.checkpoint import load
from engine.errors import BadImage
from engine.images import decode
from engine.scoring import Detector
from storage import datasets, models
from storage.errors import ModelNotFound
from storage.records import ImageRecord, Model
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning import serving_client
from tuning.errors import NoChampion
from tuning.map_cache import map_cache
from tuning.operating_points import threshold_of

# What can compute the scores of files, with its precision: the champion was judged by torch in fp32.
RUNTIMES = {"torch": "fp32", "openvino": "fp32", "openvino-bf16": "bf16"}


class StoredPicture(Protocol):
    """A picture whose bytes lie in the store, whether or not a dataset holds it; an `ImageRecord` is one."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the file's bytes: the key of its blob."""
        ...

    @property
    def pixel_digest(self) -> str:
        """SHA-256 (hex) of shape and pixels: the name of its map in the cache."""
        ...

    @property
    def name(self) -> str:
        """How messages call it."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScoredImage:
    """A dataset's image under a model."""

    image: ImageRecord
    score: float
    decision: str  # accept or reject
    anomaly_map: NDArray[np.float32]  # (H, W) in the image's own pixels


@dataclass(frozen=True, kw_only=True)
class UnscoredFile:
    """A file that could not be scored."""

    path: Path
    error: str


@dataclass(frozen=True, kw_only=True)
class ScoredFile:
    """A file under a model."""

    path: Path
    score: float
    threshold: float
    decision: str  # accept or reject
    anomaly_map: NDArray[np.float32]  # (H, W) in the picture's own pixels


def champion(workspace: Workspace, dataset_name: str) -> Model:
    """The dataset's champion.

    Raises:
        DatasetNotFound: there is no such dataset.
        NoChampion: it has none yet.
    """
    with workspace.session() as session:
        datasets.get_dataset(session, dataset_name)
        found = models.champion(session, dataset_name)
    if found is None:
        raise NoChampion(
            f"Dataset '{dataset_name}' has no champion yet. Run a study: simplenet study {dataset_name}"
        )
    return found


def chosen_model(workspace: Workspace, dataset_name: str, version: int | None) -> Model:
    """The dataset's model of this version; its champion for None.

    Raises:
        DatasetNotFound, ModelNotFound: there is no such dataset or version.
        NoChampion: none was named, and the dataset has no champion.
    """
    if version is None:
        return champion(workspace, dataset_name)
    with workspace.session() as session:
        datasets.get_dataset(session, dataset_name)
        known = models.list_models(session, dataset_name)
    found = next((model for model in known if model.version == version), None)
    if found is None:
        have = ", ".join(str(model.version) for model in known) or "none: run a study first"
        raise ModelNotFound(f"Dataset '{dataset_name}' has no model version {version}. It has {have}.")
    return found


def calibration_of(model: Model) -> Calibration:
    """Absolute colour scale of a model, and the threshold it was made with, without loading its weights.

    What decides by now tells `tuning.operating_points.threshold_of`.
    """
    return Calibration.from_json(model.figures["calibration"])


def decision(score: float, threshold: float) -> str:
    """`reject` above the threshold, else `accept`."""
    return "reject" if score > threshold else "accept"


def score_images(
    workspace: Workspace,
    model: Model,
    images: Sequence[ImageRecord],
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> Iterator[ScoredImage]:
    """Score images of the model's dataset one by one, from the cache where they were scored before.

    The model server computes what is not cached, where it runs and serves this model; else the model is loaded here.
    """
    threshold = threshold_of(workspace, model)
    for done, image in enumerate(images):
        if progress is not None:
            progress(done, len(images), image.name)
        score, anomaly_map = map_of(workspace, model, image)
        yield ScoredImage(
            image=image, score=score, decision=decision(score, threshold), anomaly_map=anomaly_map
        )
    if progress is not None:
        progress(len(images), len(images), "done")


def map_of(workspace: Workspace, model: Model, image: StoredPicture) -> tuple[float, NDArray[np.float32]]:
    """Score and (H, W) anomaly map of a picture in the store, from the cache where it was scored before.

    Raises:
        BlobMissing: the picture is not in the store.
    """
    cache = map_cache(workspace, model)
    kept = cache.get(image.pixel_digest)
    if kept is None:
        data = workspace.blobs.get(image.digest)
        # The model server computes it where it runs and serves this model; else the model is loaded here.
        scored = serving_client.score(workspace.settings, model, data)
        if scored is None:
            scored = detector(workspace, model).score([decode(data, image.name)])[0]
        cache.put(image.pixel_digest, scored.score, scored.anomaly_map)
        kept = scored.score, scored.anomaly_map
    return kept


def score_files(
    workspace: Workspace,
    dataset_name: str,
    paths: Sequence[Path],
    *,
    runtime: str = "torch",
    progress: Callable[[int, int, str], None] | None = None,
) -> Iterator[ScoredFile | UnscoredFile]:
    """Score files with the dataset's champion, one by one; a file that is no picture does not stop the others.

    Args:
        runtime: one of RUNTIMES.
    Raises:
        NoChampion: there is no model to score with.
        DeviceUnavailable: OpenVINO is not installed.
    """
    model = champion(workspace, dataset_name)
    loaded = (
        detector(workspace, model) if runtime == "torch" else _compiled(workspace, model, RUNTIMES[runtime])
    )
    threshold = threshold_of(workspace, model)
    for done, path in enumerate(paths):
        if progress is not None:
            progress(done, len(paths), path.name)
        try:
            pixels = decode(path.read_bytes(), path.name)
        except OSError as error:
            yield UnscoredFile(
                path=path, error=f"File '{path}' can not be read: {error.strerror}. Check the path."
            )
            continue
        except BadImage as error:
            yield UnscoredFile(path=path, error=str(error))
            continue
        scored = loaded.score([pixels])[0]
        yield ScoredFile(
            path=path,
            score=scored.score,
            threshold=threshold,
            decision=decision(scored.score, threshold),
            anomaly_map=scored.anomaly_map,
        )
    if progress is not None:
        progress(len(paths), len(paths), "done")


def detector(workspace: Workspace, model: Model) -> Detector:
    """The model itself, loaded from MLflow's registry and kept in memory (the two used last)."""
    folder = Tracking(workspace.settings).checkpoint_folder(model.dataset_name, model.version)
    return _load(folder, workspace.settings.device)


def _compiled(workspace: Workspace, model: Model, precision: str) -> Detector:
    from engine.openvino import OpenVinoDetector

    folder = Tracking(workspace.settings).checkpoint_folder(model.dataset_name, model.version)
    return OpenVinoDetector(_load(folder, "cpu"), precision)


@lru_cache(maxsize=2)
def _load(folder: Path, device: str) -> Detector:
    return load(folder, device=device)
