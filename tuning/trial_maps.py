"""Scores and anomaly maps of trials and models on pictures side by side, made when they are first asked for."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.checkpoint import load_head
from engine.devices import resolve_device
from engine.features import FeatureExtractor
from engine.scoring import Detector
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning.compare import MOST, Subject, head_of
from tuning.errors import NoWeights
from tuning.map_cache import MapCache, map_cache
from tuning.pictures import Picture
from tuning.predictor import detector as detector_of_model
from tuning.reproduce import recorded_backbone
from tuning.run_files import RECIPE


def maps(
    workspace: Workspace, subject: Subject, shown: Sequence[Picture]
) -> Iterator[tuple[Picture, float, NDArray[np.float32]]]:
    """Score and anomaly map, (H, W) in the picture's own pixels, of each picture; from the cache where they were made.

    Raises:
        NoWeights: a trial's weights are not kept.
        BackboneChanged: the backbone is not the one that it was trained on.
    """
    cache = _cache(workspace, subject)
    for picture in shown:
        kept = cache.get(picture.key)
        if kept is None:
            pixels = picture.read(workspace.blobs)[0]
            scored = _detector(workspace, subject).score([pixels])[0]
            cache.put(picture.key, scored.score, scored.anomaly_map)
            kept = scored.score, scored.anomaly_map
        yield picture, kept[0], kept[1]


def _cache(workspace: Workspace, subject: Subject) -> MapCache:
    if subject.model is not None:
        return map_cache(workspace, subject.model)
    return MapCache(workspace.maps_folder / "trials" / subject.run_id)


def _detector(workspace: Workspace, subject: Subject) -> Detector:
    if subject.model is not None:
        return detector_of_model(workspace, subject.model)
    folder = head_of(workspace, subject)
    if folder is None:
        raise NoWeights(
            f"{subject.title} has no weights any more: they are kept of the best of a study. Make them again: "
            f"simplenet reproduce {subject.key} --keep"
        )
    return _of_trial(workspace, subject.run_id, folder)


@lru_cache(maxsize=MOST)
def _of_trial(workspace: Workspace, run_id: str, folder: Path) -> Detector:
    """A trial's model as a candidate would run: in float32, whatever its study ran in."""
    settings = workspace.settings
    recipe = Tracking(settings).read_dict(run_id, RECIPE)
    if recipe is None:
        raise NoWeights(
            f"Run '{run_id}' holds no {RECIPE}, so its backbone is not known. Run the study again."
        )
    head, config = load_head(folder)
    device = resolve_device(settings.device)
    backbone = recorded_backbone(settings, recipe, device)
    extractor = FeatureExtractor(backbone, config.layers, device, torch.float32)
    return Detector(extractor, head.to(device), config, None)
