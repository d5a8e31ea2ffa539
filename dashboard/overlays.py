"""The heatmap over a picture as a file, for results that lie in a folder."""

import io

from dashboard.scales import scale_of, seen_by
from engine.heatmap import Map, Pixels, overlay, veil
from storage.records import Model
from tuning.batch_scoring import Draw

OPACITY = 0.6


def drawer(model: Model) -> Draw:
    """What draws the overlays of a model: pixels (H, W, 3) and map (H, W) → the bytes of a PNG."""
    scale = scale_of(model)

    def draw(pixels: Pixels, anomaly_map: Map) -> bytes:
        drawn = overlay(pixels, anomaly_map, scale, OPACITY)
        out = io.BytesIO()
        veil(drawn, seen_by(model, *pixels.shape[:2])).save(out, "PNG")
        return out.getvalue()

    return draw
