"""Which pictures a study works on, and what is true of each: its label and, where known, its anomalous pixels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.geometry import MIRRORS, mirrored
from engine.images import decode, decode_mask
from engine.synthetic import plant_defect
from storage.blobs import BlobStore
from storage.records import ImageRecord, Label, Role
from tuning.errors import BadSpec, DatasetTooSmall
from tuning.spec import StudySpec

MIN_VALIDATION_NORMALS = 2  # with fewer, no ranking of normal against anomalous pictures means anything


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image of a dataset version, as it is or with a synthetic defect planted in it."""

    image: ImageRecord
    planted: bool = False
    mirrored: str = ""  # how it is turned over: a way of engine.geometry.MIRRORS

    @property
    def key(self) -> str:
        """What tells it from every other picture: the name of its row in the feature cache."""
        turned = f"+mirrored {self.mirrored}" if self.mirrored else ""
        return self.image.pixel_digest + ("+planted" if self.planted else "") + turned

    @property
    def anomalous(self) -> bool:
        """Whether its decision should be `reject`."""
        return self.planted or self.image.label is Label.ANOMALOUS

    @property
    def defect_type(self) -> str | None:
        """Kind of its defect; None for normal ones."""
        if self.planted:
            return "synthetic"
        return (self.image.defect_type or "anomalous") if self.anomalous else None

    def read(self, blobs: BlobStore) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Decode it.

        Returns:
            (H, W, 3) RGB pixels, and the (H, W) mask of its anomalous pixels: all False for a normal picture, None for
            an anomalous one whose pixels nobody has marked.
        """
        pixels, mask = self._as_photographed(blobs)
        return mirrored(pixels, self.mirrored), None if mask is None else mirrored(mask, self.mirrored)

    def _as_photographed(self, blobs: BlobStore) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        pixels = decode(blobs.get(self.image.digest), self.image.name)
        if self.planted:
            return plant_defect(pixels, seed=int(self.image.pixel_digest[:8], 16))
        if not self.anomalous:
            return pixels, np.zeros(pixels.shape[:2], dtype=bool)
        if self.image.mask_digest is None:
            return pixels, None
        return pixels, decode_mask(blobs.get(self.image.mask_digest), f"mask of {self.image.name}")


@dataclass(frozen=True, kw_only=True)
class StudyPictures:
    """A version's pictures by what a study uses them for; `test` is sealed until a champion candidate exists."""

    train: tuple[Picture, ...]
    calibration: tuple[Picture, ...]
    validation: tuple[Picture, ...]
    test: tuple[Picture, ...]
    synthetic_validation: bool  # no labelled defect among the validation images: defects are planted
    synthetic_test: bool

    def training(self, mirror: str) -> tuple[Picture, ...]:
        """The training pictures, then each turned over as `mirror`, one of MIRRORS, says."""
        return (*self.train, *self.turned([mirror]))

    def turned(self, mirrors: Iterable[str]) -> tuple[Picture, ...]:
        """The training pictures turned over in every way that some of `mirrors` asks for."""
        ways = dict.fromkeys(way for mirror in mirrors for way in MIRRORS[mirror])
        return tuple(replace(one, mirrored=way) for way in ways for one in self.train)

    @property
    def unsealed(self) -> tuple[Picture, ...]:
        """All that a study may look at while it makes choices."""
        return (*self.train, *self.calibration, *self.validation)


def study_pictures(images: Sequence[ImageRecord]) -> StudyPictures:
    """Sort a version's images by role, and plant defects where an evaluated role has none.

    Raises:
        DatasetTooSmall: no image to train, calibrate or validate on.
    """
    by_role = {role: [Picture(image=image) for image in images if image.role is role] for role in Role}
    for role in (Role.TRAIN, Role.CALIBRATION):
        if not by_role[role]:
            raise DatasetTooSmall(
                f"The dataset version has no {role} pictures; at least 1 is needed. Add normal pictures."
            )
    normals = sum(not picture.anomalous for picture in by_role[Role.VALIDATION])
    if normals < MIN_VALIDATION_NORMALS:
        raise DatasetTooSmall(
            f"The dataset version has {normals} normal validation pictures; at least {MIN_VALIDATION_NORMALS} "
            "are needed to compare models. Add normal pictures (in the MVTec layout: under test/good)."
        )
    validation, synthetic_validation = _with_defects(by_role[Role.VALIDATION])
    test, synthetic_test = _with_defects(by_role[Role.TEST])
    return StudyPictures(
        train=tuple(by_role[Role.TRAIN]),
        calibration=tuple(by_role[Role.CALIBRATION]),
        validation=tuple(validation),
        test=tuple(test),
        synthetic_validation=synthetic_validation,
        synthetic_test=synthetic_test,
    )


def check_objective(spec: StudySpec, pictures: StudyPictures, dataset_name: str) -> None:
    """Refuse an objective on pixels where no validation picture has a mask.

    Raises:
        BadSpec: it would be undefined in every trial.
    """
    marked = any(picture.planted or picture.image.mask_digest for picture in pictures.validation)
    if spec.objective.needs_masks and not marked:
        raise BadSpec(
            f"Objective '{spec.objective.formula}' needs masks, and none of the {len(pictures.validation)} validation "
            f"pictures of dataset '{dataset_name}' has one. Choose image_auroc, or ingest the dataset with more masks."
        )


def _with_defects(pictures: list[Picture]) -> tuple[list[Picture], bool]:
    """The pictures, and a planted twin of each normal one where none is anomalous."""
    if any(picture.anomalous for picture in pictures) or not pictures:
        return pictures, False
    return pictures + [Picture(image=picture.image, planted=True) for picture in pictures], True
