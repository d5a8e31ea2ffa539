"""The features of a study's pictures: computed once per version, backbone and size, then read from the cache."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import SimpleNetConfig
from engine.features import FeatureExtractor, aggregate, extract
from engine.images import PREPROCESSING
from engine.synthetic import PLANTING
from storage.atomic_files import TEMPORARY_PREFIX
from storage.errors import FeaturesDoNotFit
from storage.feature_cache import CachedFeatures, FeatureKey
from storage.records import DatasetVersion
from storage.workspace import Workspace
from tuning.pictures import Picture

BATCH = 8  # images per forward pass; more gains nothing on a CPU
AGGREGATE_BATCH = 2  # images whose maps are held in float32 at once; with stage 1 each takes 30 MB on the way


def cached_features(
    workspace: Workspace,
    version: DatasetVersion,
    pictures: Sequence[Picture],
    extractor: FeatureExtractor,
    *,
    height: int,
    width: int,
    resize: str = "squash",
    on_batch: Callable[[int, int], None],
) -> CachedFeatures:
    """Features of `pictures` at every stage of the extractor, from the cache or computed into it.

    Args:
        pictures: what the key's dataset version holds for studies; its order is the order of the rows.
        height, width: pixels of the canvas that the pictures are laid on.
        resize: how, one of `engine.geometry.RESIZES`.
        on_batch: called with (done, total) pictures; may raise to stop, and nothing is left behind then.
    """
    # An entry of its own: studies with turned pictures and without would replace each other's.
    turned = sorted({picture.mirrored for picture in pictures if picture.mirrored})
    key = FeatureKey(
        version_digest=version.digest,
        backbone=extractor.backbone.name,
        weights_digest=extractor.weights_digest,
        height=height,
        width=width,
        # Whatever else changes the numbers: how pictures become tensors, in which precision, which stages are kept.
        preprocessing=f"{PREPROCESSING} {resize} {extractor.dtype} stages {extractor.stages} {PLANTING}"
        + (f" mirrored {turned}" if turned else ""),
    )
    found = workspace.features.open(key)
    if found is not None and all(picture.key in found.rows for picture in pictures):
        return found
    # What the strides round to is the backbone's affair: one empty picture tells.
    empty = extractor(torch.zeros(1, 3, height, width))
    shapes = {stage: tuple(values.shape[1:]) for stage, values in empty.items()}

    def batches() -> Iterator[Mapping[int, NDArray[np.float32]]]:
        for start in range(0, len(pictures), BATCH):
            on_batch(start, len(pictures))
            chosen = pictures[start : start + BATCH]
            images = [picture.read(workspace.blobs)[0] for picture in chosen]
            maps = extract(extractor, images, height, width, resize)
            yield {stage: values.cpu().numpy() for stage, values in maps.items()}
        on_batch(len(pictures), len(pictures))

    return workspace.features.write(key, [picture.key for picture in pictures], shapes, batches())


def patch_features(
    workspace: Workspace, cached: CachedFeatures, pictures: Sequence[Picture], config: SimpleNetConfig
) -> Tensor:
    """Aggregate the cached maps of `pictures` to the patch features that `config` asks for.

    Returns:
        (N, h, w, D) float16 on the CPU: half the memory, and no finer than the cache they come from. More than the
        setting `features_gb` lie in a file.
    Raises:
        FeaturesDoNotFit: the disk has no room for that file.
    """
    rows = [cached.rows[picture.key] for picture in pictures]
    features = torch.empty(0)
    for start in range(0, len(rows), AGGREGATE_BATCH):
        chosen = rows[start : start + AGGREGATE_BATCH]
        maps = {
            stage: torch.from_numpy(np.ascontiguousarray(cached.stage(stage)[chosen])).float()
            for stage in config.layers
        }
        batch = aggregate(maps, config.layers, config.patch_size, config.feature_dim)
        if (
            start == 0
        ):  # the backbone decides the shape; one allocation, because joining parts would hold them twice
            features = room(torch.Size((len(rows), *batch.shape[1:])), workspace)
        features[start : start + len(chosen)] = batch
    return features


def room(shape: torch.Size, workspace: Workspace) -> Tensor:
    """Room for half-precision features: in memory, or in a file that the system reads and writes in parts."""
    size, folder = 2 * shape.numel(), workspace.features.folder
    if size <= workspace.settings.features_gb * 1e9:
        return torch.empty(shape, dtype=torch.float16)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=TEMPORARY_PREFIX) as file:
        try:
            if hasattr(os, "posix_fallocate"):  # macOS lacks it
                os.posix_fallocate(
                    file.fileno(), 0, size
                )  # a full disk is an error now, a crash when written to
        except OSError as error:
            raise FeaturesDoNotFit(
                f"Patch features of {shape[0]} pictures need {size / 1e9:.1f} GB in {folder} ({error.strerror}). Free "
                "some space, move SIMPLENET_HOME to a larger disk, or raise SIMPLENET_FEATURES_GB "
                f"({workspace.settings.features_gb:g}) if memory allows."
            ) from error
        # The mapping outlives the name, so that nothing is left behind when the process ends; what is killed before
        # it lost its name is swept as an unfinished entry of the cache.
        return torch.from_file(file.name, shared=True, size=shape.numel(), dtype=torch.float16).reshape(shape)
