"""Heatmaps of some validation pictures under a trial's model, for people who look through the trials of a study."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from engine import heatmap
from engine.config import SimpleNetConfig
from tuning.pictures import Picture
from tuning.trial import TrialData, TrialResult, maps_of

EXAMPLES = 4  # validation pictures whose heatmaps every trial keeps
OPACITY = 0.6  # of their overlays
SIDE = 256  # pixels of their longer side


def examples(data: TrialData) -> list[Picture]:
    """The validation pictures whose heatmaps every trial keeps: one of each kind of defect, then normal ones.

    The same for all trials of a dataset version, so that they can be seen side by side.
    """
    kinds: dict[str, Picture] = {}
    for picture in data.pictures.validation:
        if picture.defect_type is not None:
            kinds.setdefault(picture.defect_type, picture)
    normal = [picture for picture in data.pictures.validation if not picture.anomalous]
    return [*list(kinds.values())[: EXAMPLES - 1], *normal][:EXAMPLES]


def draw_examples(
    data: TrialData, config: SimpleNetConfig, result: TrialResult
) -> Iterator[tuple[str, Image.Image]]:
    """Overlays on the trial's own absolute scale, each with the name that the image grids of MLflow show it under."""
    shown = examples(data)
    small = []
    for picture in shown:
        drawn = Image.fromarray(picture.read(data.workspace.blobs)[0])
        drawn.thumbnail((SIDE, SIDE))
        small.append(np.asarray(drawn))
    maps = maps_of(data, config, result.head, shown, [(one.shape[0], one.shape[1]) for one in small])
    for number, (picture, pixels, anomaly_map) in enumerate(zip(shown, small, maps, strict=True), start=1):
        what = picture.defect_type or "normal"
        safe = "".join(sign if sign.isascii() and sign.isalnum() else " " for sign in what)
        yield f"validation {number} {safe}", heatmap.overlay(pixels, anomaly_map, result.calibration, OPACITY)
