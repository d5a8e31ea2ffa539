"""Scoring with a registered model: pictures of a dataset (cached on disk) or any files."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.calibration import Calibration
from engine.checkpoint import load
from engine.errors import BadImage
from engine.images import decode, page, pages
from engine.scoring import Detector
from storage import datasets, models
from storage.errors import ModelNotFound
from storage.listing import SourceFile
from storage.records import ImageRecord, Model
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning import serving_client
from tuning.errors import BadPicture, NoChampion
from tuning.map_cache import map_cache
from tuning.operating_points import threshold_of
from tuning.reading import file_bytes

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
    """A file, or a page of one, that could not be scored."""

    name: str
    error: str


@dataclass(frozen=True, kw_only=True)
class ScoredFile:
    """A file, or a page of one, under a model."""

    name: str
    score: float
    threshold: float
    decision: str  # accept or reject
    page: int | None  # from 1; None where the file has no other
    data: bytes  # of the file, or of this page of it alone
    pixels: NDArray[np.uint8]  # (H, W, 3) RGB
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


def score_file(
    scorer: Detector, file: SourceFile, threshold: float, *, known: Container[str] = ()
) -> Iterator[ScoredFile | UnscoredFile]:
    """Score a file; of several pages, each is a picture, called `name#2` and so on.

    A file or page that is no picture comes with its reason, and stops nothing.

    Args:
        known: names of pictures to leave out.
    """
    try:
        data = file_bytes(file.path, file.name)
        count = pages(data, file.name)
    except (BadImage, BadPicture) as error:
        yield UnscoredFile(name=file.name, error=str(error))
        return
    for number in range(1, count + 1):
        name = file.name if count == 1 else f"{file.name}#{number}"
        if name in known:
            continue
        try:
            alone = data if count == 1 else page(data, file.name, number)
            pixels = decode(alone, name)
        except BadImage as error:
            yield UnscoredFile(name=name, error=str(error))
            continue
        scored = scorer.score([pixels])[0]
        yield ScoredFile(
            name=name,
            score=scored.score,
            threshold=threshold,
            decision=decision(scored.score, threshold),
            page=None if count == 1 else number,
            data=alone,
            pixels=pixels,
            anomaly_map=scored.anomaly_map,
        )


def scorer(workspace: Workspace, model: Model, runtime: str = "torch") -> Detector:
    """What scores files with a model.

    Args:
        runtime: one of RUNTIMES.
    Raises:
        DeviceUnavailable: OpenVINO is not installed.
    """
    if runtime == "torch":
        return detector(workspace, model)
    return _compiled(workspace, model, RUNTIMES[runtime])


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
