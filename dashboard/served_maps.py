"""How the model server draws maps: as the heatmap pages do, on the same scale."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dashboard.scales import scale_of, seen_by
from engine.heatmap import colours, overlay, positions, veil
from engine.images import RGB
from storage.records import Model

OPACITY = 0.6  # of overlays


def draw(kind: str, pixels: RGB, anomaly_map: NDArray[np.float32], model: Model) -> Image.Image:
    """Draw a map.

    Args:
        kind: `overlay` lays the heatmap over the picture; `png` gives its colours alone.
        pixels: (H, W, 3) uint8.
        anomaly_map: (H, W).
        model: whose scale the colours follow.
    """
    scale = scale_of(model)
    drawn = (
        overlay(pixels, anomaly_map, scale, OPACITY)
        if kind == "overlay"
        else Image.fromarray(colours(positions(anomaly_map, scale)))
    )
    return veil(drawn, seen_by(model, *pixels.shape[:2]))
