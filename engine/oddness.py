"""How odd each place of a picture looks beside the normal pictures of its product, before anything is trained.

The distance to the nearest of some thousand remembered patches is a poor man's anomaly detector, good enough to ask a
person about a label or a mask. It needs no label to be right: a few wrong ones among many hardly move it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from engine.features import FeatureExtractor, aggregate, extract
from engine.images import RGB
from engine.masks import Mask

LAYERS = (2, 3)
SIDE = 256  # pixels of the canvas that pictures are laid on
_PATCHES = 4096  # remembered; twice as many find nothing more
_DIM = 128  # numbers of a remembered patch; distances hardly notice the projection
_TOP = 20  # patches that make a picture's score: a small defect covers as many

Oddness = npt.NDArray[np.float32]

TURNS = {
    "mirrored left to right": (1,),
    "mirrored top to bottom": (0,),
    "turned by 180°": (0, 1),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchBank:
    """Remembered patches of normal pictures."""

    patches: Tensor  # (M, _DIM) float32
    owners: Tensor  # (M,) int64: number of the picture that each comes from
    mean: Tensor  # (D,) of the features
    scale: Tensor  # (D,)
    projection: Tensor  # (D, _DIM)


@dataclass(frozen=True, kw_only=True)
class MaskFit:
    """How well a mask covers what looks odd: 1 exactly, 0.5 no better than anywhere, 0 its opposite."""

    fit: float
    best_turn: str  # of TURNS
    turned_fit: float


@torch.inference_mode()
def patches_of(extractor: FeatureExtractor, image: RGB) -> Tensor:
    """Features of a picture's patches.

    Args:
        extractor: with LAYERS.
        image: (H, W, 3) uint8.
    Returns:
        (h, w, D) float32 on the CPU.
    """
    return aggregate(extract(extractor, [image], SIDE, SIDE), LAYERS)[0].cpu()


def remember(pictures: Iterable[tuple[int, Tensor]], count: int, *, seed: int = 0) -> PatchBank | None:
    """Remember random patches of normal pictures.

    Args:
        pictures: the number of each, and its (h, w, D) features; read one by one.
        count: how many there are, about.
    Returns:
        None where there was no picture.
    """
    draw = torch.Generator().manual_seed(seed)
    each = -(-_PATCHES // max(1, count))
    rows, owners = [], []
    for owner, features in pictures:
        flat = features.flatten(0, 1)
        rows.append(flat[torch.randperm(len(flat), generator=draw)[:each]])
        owners += [owner] * len(rows[-1])
    if not rows:
        return None
    joined = torch.cat(rows)
    mean, scale = joined.mean(0), joined.std(0) + 1e-6
    projection = torch.randn(joined.shape[1], _DIM, generator=draw) / _DIM**0.5
    return PatchBank(
        patches=(joined - mean) / scale @ projection,
        owners=torch.tensor(owners),
        mean=mean,
        scale=scale,
        projection=projection,
    )


def oddness(bank: PatchBank, features: Tensor, owner: int) -> Oddness:
    """Distance of each patch to the nearest remembered one of another picture.

    Args:
        features: (h, w, D).
        owner: number of the picture.
    Returns:
        (h, w) float32, 0 or more; infinite where all remembered patches are the picture's own.
    """
    flat = (features.flatten(0, 1) - bank.mean) / bank.scale @ bank.projection
    others = bank.owners != owner
    remembered = bank.patches if others.all() else bank.patches[others]
    if not len(remembered):
        return np.full(features.shape[:2], np.inf, dtype=np.float32)
    # |a − b|² = |a|² + |b|² − 2ab; the root only of what is nearest, which saves a fifth of the time of `cdist`.
    squares = remembered.square().sum(dim=1)
    nearest = torch.addmm(squares, flat, remembered.T, alpha=-2).amin(dim=1) + flat.square().sum(dim=1)
    found: Oddness = nearest.clamp(min=0).sqrt().reshape(features.shape[:2]).numpy()
    return found


def picture_oddness(places: Oddness) -> float:
    """Score of a picture: the logarithm of the mean over its oddest places, the log because scores have a long tail."""
    return float(np.log(np.sort(places, axis=None)[-_TOP:].mean() + 1e-6))


def deviations(scores: npt.NDArray[np.float64], normal: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Scores as robust standard deviations from the median of the normal pictures.

    Args:
        scores: (N,) of `picture_oddness`.
        normal: (N,) which are said to be normal; at least one.
    Returns:
        (N,)
    """
    reference = scores[normal]
    middle = np.median(reference)
    spread = 1.4826 * np.median(np.abs(reference - middle)) + 1e-9
    return np.asarray((scores - middle) / spread)


def too_far(count: int) -> float:
    """The deviation beyond which half a picture of `count` would lie by chance (Chauvenet's criterion, one-sided)."""
    return NormalDist().inv_cdf(1 - 0.5 / max(2, count))


def mask_fit(places: Oddness, mask: Mask) -> MaskFit | None:
    """Compare a mask with what looks odd: the share of pairs of places, one in and one outside, ranked rightly.

    Args:
        places: (h, w) of `oddness`.
        mask: (H, W) bool of the whole picture.
    Returns:
        None where the mask leaves no place in or outside.
    """
    grid = F.adaptive_max_pool2d(torch.from_numpy(mask)[None, None].float(), places.shape)[0, 0].numpy() > 0
    if grid.all() or not grid.any():
        return None

    def fit(marked: Mask) -> float:
        return float(roc_auc_score(marked.ravel(), places.ravel()))

    turned = {name: fit(np.flip(grid, axes)) for name, axes in TURNS.items()}
    best = max(turned, key=lambda name: turned[name])
    return MaskFit(fit=fit(grid), best_turn=best, turned_fit=turned[best])
