"""From patch scores to image scores and anomaly maps, and the detector that does all of it for a picture.

The map is the paper's: patch scores upsampled bilinearly to the network's size and blurred. Each step is a
linear map of rows and of columns, so together with the resize to the picture's own pixels they are one matrix
on either side of
the small grid of scores: exact, and hundreds of times less work than blurring the large map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from engine.calibration import Calibration
from engine.config import SimpleNetConfig
from engine.errors import ShapeMismatch
from engine.features import FeatureExtractor, aggregate, extract, feature_count, fitted
from engine.geometry import place, seen
from engine.images import RGB
from engine.simplenet import SimpleNet

BATCH_IMAGES = {"cpu": 8, "cuda": 64}  # pictures per pass through the backbone


def image_scores(patch_scores: Tensor, top_patches: int = 1) -> Tensor:
    """Reduce patch scores to one score per image: the mean of the `top_patches` highest, all of them if
    fewer.

    Args:
        patch_scores: (B, h, w) float32, unbounded; higher is more anomalous.
    Returns:
        (B,) float32, on the same scale.
    Raises:
        ShapeMismatch: not three-dimensional, or h or w is 0.
    Source: SimpleNet, Liu et al., CVPR 2023 (scoring function) for top_patches = 1.
    """
    _require_scores(patch_scores)
    flat = patch_scores.flatten(1)
    return flat.topk(min(top_patches, flat.shape[1]), dim=1).values.mean(dim=1)


def anomaly_maps(
    patch_scores: Tensor,
    height: int,
    width: int,
    smoothing_std: float,
    *,
    picture_size: tuple[int, int] | None = None,
    resize: str = "squash",
) -> Tensor:
    """Upsample patch scores to the network's canvas, blur them, and bring them to the picture where its size is
    given.

    Args:
        patch_scores: (B, h, w) float32.
        height, width: of the network's input, pixels.
        smoothing_std: of the Gaussian, pixels at height × width; cut off at 4 σ, mirrored at the border.
        picture_size: (H, W) of the maps wanted, default (height, width).
        resize: how pictures of that size were laid on the canvas.
    Returns:
        (B, H, W) float32, on the scale of patch scores. What a crop cut away gets the lowest value of its map:
        nothing is known of it.
    Raises:
        ShapeMismatch: as `image_scores`.
    Source: SimpleNet's published code: bilinear upsampling, then a Gaussian of σ = 4.
    """
    _require_scores(patch_scores)
    picture, canvas = picture_size or (height, width), (height, width)
    placed = place(picture, canvas, resize if picture_size else "squash")
    device = patch_scores.device
    left = _expansion(patch_scores.shape[1], height, smoothing_std, picture[0], placed.top, placed.height).to(
        device
    )
    right = _expansion(patch_scores.shape[2], width, smoothing_std, picture[1], placed.left, placed.width).to(
        device
    )
    maps = left @ patch_scores.float() @ right.T
    if resize == "crop" and picture_size:
        inside = seen(picture, canvas, resize)
        known = maps[:, inside[0], inside[1]].clone()
        maps = known.amin((1, 2), keepdim=True).expand_as(maps).clone()
        maps[:, inside[0], inside[1]] = known
    return maps


def _require_scores(patch_scores: Tensor) -> None:
    if patch_scores.ndim != 3 or 0 in patch_scores.shape[1:]:
        raise ShapeMismatch(
            f"Patch scores are of shape {tuple(patch_scores.shape)}; they must be (B, h, w) with h and w "
            "above 0. "
            "Score at least one patch per image."
        )


@lru_cache(maxsize=64)
def _expansion(patches: int, size: int, std: float, picture: int, start: int, length: int) -> Tensor:
    """Give the (picture, patches) matrix that upsamples to `size`, blurs, and resizes to `picture`.

    Args:
        start, length: where on the canvas the picture's side lies, pixels.
    """
    matrix = _bilinear(size, picture, start, length) @ upsampling(patches, size, std)
    return torch.from_numpy(matrix.astype(np.float32))


def upsampling(patches: int, size: int, std: float) -> npt.NDArray[np.float64]:
    """Give the (size, patches) matrix that upsamples bilinearly and blurs."""
    matrix = _bilinear(patches, size)
    if std > 0:
        matrix = ndimage.gaussian_filter1d(matrix, std, axis=0, mode="reflect", truncate=4.0)
    return matrix


def _bilinear(
    inputs: int, outputs: int, start: int = 0, length: int | None = None
) -> npt.NDArray[np.float64]:
    """Give the (outputs, inputs) matrix of bilinear resizing with pixel centres aligned.

    Args:
        start, length: the part of the inputs that the outputs cover, default all; beyond it the border is repeated.
    """
    length = inputs if length is None else length
    position = np.clip(start + (np.arange(outputs) + 0.5) * length / outputs - 0.5, 0, inputs - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, inputs - 1)
    matrix = np.zeros((outputs, inputs))
    np.add.at(matrix, (np.arange(outputs), low), 1 - (position - low))
    np.add.at(matrix, (np.arange(outputs), high), position - low)
    return matrix


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a detector says of one picture."""

    score: float  # unbounded, higher is more anomalous; compare with calibration.threshold
    anomaly_map: npt.NDArray[np.float32]  # (H, W) in the picture's own pixels, on the scale of patch scores


class Detector:
    """A trained model with its backbone: pictures in, scores and anomaly maps out.

    Args:
        extractor: its stages must include the configuration's layers.
        model: trained with `config`.
        config: how pictures are prepared, features aggregated and maps made.
        calibration: thresholds and colour scale, or None before calibration.
    Raises:
        ShapeMismatch: the extractor's features do not fit the model.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        model: SimpleNet,
        config: SimpleNetConfig,
        calibration: Calibration | None = None,
    ) -> None:
        absent = [layer for layer in config.layers if layer not in extractor.stages]
        length = feature_count(extractor.channels, config.layers, config.feature_dim) if not absent else 0
        if absent or length != model.feature_dim:
            raise ShapeMismatch(
                f"Stages {list(extractor.stages)} of {extractor.backbone.name!r} give features of length "
                f"{length} for "
                f"layers {list(config.layers)}; the model takes {model.feature_dim}. Use the backbone it "
                "was trained on."
            )
        if fitted(config, extractor) != config:
            raise ShapeMismatch(
                f"The canvas is {config.height}×{config.width} px; {extractor.backbone.name!r} takes whole patches of "
                f"{extractor.patch} px. Train with the configuration that `fitted` gives."
            )
        self.extractor = extractor
        self.model = model.eval()
        self.config = config
        self.calibration = calibration
        self._head = model.fused(extractor.dtype).to(extractor.device)

    def score(self, images: Sequence[RGB]) -> list[Scored]:
        """Score pictures of any sizes; a picture's result does not depend on the others.

        Args:
            images: (H, W, 3) uint8 each.
        """
        scored: list[Scored] = []
        size = BATCH_IMAGES.get(self.extractor.device.type, BATCH_IMAGES["cpu"])
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            patch_scores = self.patch_scores(batch)
            scores = image_scores(patch_scores, self.config.top_patches).tolist()
            maps = self._maps(patch_scores, [(image.shape[0], image.shape[1]) for image in batch])
            scored += [Scored(score=score, anomaly_map=one) for score, one in zip(scores, maps, strict=True)]
        return scored

    def _maps(self, patch_scores: Tensor, sizes: Sequence[tuple[int, int]]) -> list[npt.NDArray[np.float32]]:
        """Make the maps of pictures of one size together: one way from the device instead of many."""
        maps: dict[int, npt.NDArray[np.float32]] = {}
        for size in dict.fromkeys(sizes):
            own = [index for index, other in enumerate(sizes) if other == size]
            made = anomaly_maps(
                patch_scores[own],
                self.config.height,
                self.config.width,
                self.config.smoothing_std,
                picture_size=size,
                resize=self.config.resize,
            )
            # Copies: a map that is kept must not keep the others.
            maps |= {index: one.copy() for index, one in zip(own, made.cpu().numpy(), strict=True)}
        return [maps[index] for index in range(len(sizes))]

    @torch.inference_mode()
    def patch_scores(self, images: Sequence[RGB]) -> Tensor:
        """Score the patches of a batch of pictures: (B, h, w) float32 on the extractor's device."""
        config = self.config
        maps = extract(self.extractor, images, config.height, config.width, config.resize)
        scores: Tensor = self._head(aggregate(maps, config.layers, config.patch_size, config.feature_dim))
        return scores
