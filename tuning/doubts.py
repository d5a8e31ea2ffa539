"""Labels and masks that do not agree with what a picture looks like beside the normal ones.

These are doubts, not verdicts: each is a picture for a person to look at. What they find, and how often they are
wrong, is measured in docs/datasets.md.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.backbones.resolve import SHIPPED, resolve_backbone
from engine.errors import EngineError
from engine.features import FeatureExtractor
from engine.images import decode, decode_mask
from engine.oddness import (
    LAYERS,
    MaskFit,
    PatchBank,
    deviations,
    mask_fit,
    oddness,
    patches_of,
    picture_oddness,
    remember,
    too_far,
)
from storage.errors import BlobMissing
from storage.records import ImageRecord, Label
from storage.workspace import Workspace
from tuning.findings import Finding, FindingPicture, found
from tuning.jobs import Progress

MIN_NORMAL = 20  # normal pictures, below which nobody can say what is usual
_REMEMBERED = 256  # normal pictures whose patches the others are compared with
_POOR_FIT = 0.4  # of 96 right masks none lies below
_BETTER_BY = 0.3  # of 96 right masks none would fit that much better mirrored


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What a look at one picture told."""

    image: ImageRecord
    score: float
    fit: MaskFit | None


def doubts(
    workspace: Workspace, images: Sequence[ImageRecord], progress: Progress | None = None
) -> list[Finding]:
    """Compare each picture with patches of the normal ones, and find labels and masks to be doubted.

    Reads every picture once and some twice, and never holds more than one.
    """
    normal = [image for image in images if image.label is Label.NORMAL]
    if len(normal) < MIN_NORMAL:
        return []
    remembered = random.Random(0).sample(normal, min(_REMEMBERED, len(normal)))
    total = len(remembered) + len(images)
    # The processor is enough for the shipped backbone, and a study may have the graphics card.
    extractor = FeatureExtractor(resolve_backbone(SHIPPED), LAYERS, torch.device("cpu"))

    def tell(done: int, image: ImageRecord) -> None:
        if progress is not None:
            progress(done, total, f"comparing {image.name} with normal pictures")

    number = {image.pixel_digest: index for index, image in enumerate(images)}
    bank = remember(
        (
            (number[image.pixel_digest], features)
            for image, features in _read(workspace, extractor, remembered, tell, 0)
        ),
        len(remembered),
    )
    if bank is None:
        return []
    looks = [
        _look(workspace, bank, image, features, number[image.pixel_digest])
        for image, features in _read(workspace, extractor, images, tell, len(remembered))
    ]
    return [*_labels(looks), *_masks(looks)]


def _read(
    workspace: Workspace,
    extractor: FeatureExtractor,
    images: Sequence[ImageRecord],
    tell: Callable[[int, ImageRecord], None],
    before: int,
) -> Iterator[tuple[ImageRecord, Tensor]]:
    """Features of the pictures that can be read, one by one."""
    for done, image in enumerate(images):
        tell(before + done, image)
        try:
            pixels = decode(workspace.blobs.get(image.digest), image.name)
        except (EngineError, BlobMissing):
            continue
        yield image, patches_of(extractor, pixels)


def _look(workspace: Workspace, bank: PatchBank, image: ImageRecord, features: Tensor, number: int) -> _Look:
    places = oddness(bank, features, number)
    fit = None
    if image.mask_digest is not None:
        try:
            fit = mask_fit(places, decode_mask(workspace.blobs.get(image.mask_digest), image.name))
        except (EngineError, BlobMissing):
            fit = None
    return _Look(image=image, score=picture_oddness(places), fit=fit)


def _labels(looks: Sequence[_Look]) -> list[Finding]:
    normal = np.array([look.image.label is Label.NORMAL for look in looks])
    scores = np.array([look.score for look in looks])
    if normal.sum() < MIN_NORMAL:
        return []
    off = deviations(scores, normal)
    limit = too_far(int(normal.sum()))
    odd = [index for index in np.argsort(-off).tolist() if normal[index] and off[index] > limit]
    usual = [
        index
        for index in np.argsort(off).tolist()
        if not normal[index] and off[index] < 0 and looks[index].image.mask_digest is None
    ]
    return [
        *found(
            [
                FindingPicture(
                    pixel_digest=looks[index].image.pixel_digest,
                    note=f"odder than {(scores[normal] < scores[index]).mean():.1%} of the normal pictures",
                )
                for index in odd
            ],
            kind="odd-normal",
            severity="look",
            title="normal pictures that look like defects",
            why="A defect that is trained on as normal is never found again; one that is judged by counts as a false "
            "alarm.",
            remedy="Label them anomalous where you see a defect; accept them where it is only a rare good part. Taking "
            "out hard test pictures that are good would make figures look better than they are.",
            fix="anomalous",
        ),
        *found(
            [
                FindingPicture(
                    pixel_digest=looks[index].image.pixel_digest,
                    note=f"{(scores[normal] > scores[index]).mean():.0%} of the normal pictures are odder",
                )
                for index in usual
            ],
            kind="usual-anomalous",
            severity="look",
            title="anomalous pictures that look normal",
            why="If a label is wrong, the model is chosen and judged by a defect that is not there.",
            remedy="Label them normal where there is no defect. One that is only too fine for this look is well "
            "labelled: accept it, and give it a mask.",
            fix="normal",
        ),
    ]


def _masks(looks: Sequence[_Look]) -> list[Finding]:
    beside = []
    for look in looks:
        fit = look.fit
        if fit is None:
            continue
        if fit.turned_fit - fit.fit > _BETTER_BY:
            note = f"would fit better {fit.best_turn}"
        elif fit.fit < _POOR_FIT:
            note = "what looks odd lies elsewhere"
        else:
            continue
        beside.append((fit.fit, FindingPicture(pixel_digest=look.image.pixel_digest, note=note)))
    beside.sort(key=lambda one: one[0])
    return found(
        [picture for _, picture in beside],
        kind="misplaced-mask",
        severity="look",
        title="masks that may lie beside the defect",
        why="Pixel figures reward the marked places, and a good model would be judged a bad one.",
        remedy="Look at the outline in the section Pictures. Replace the mask or take it away, or accept it.",
        fix="unmask",
    )
