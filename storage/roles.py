"""Which image is for training, which for calibration, validation and test, as one pure function.

The choice depends on the pixels alone: neither on the order of the images, nor on their file names, nor on
chance.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from storage.errors import BadVersion, DuplicateImage, TooFewImages
from storage.records import Label, Role

# A conformal threshold that rejects at most 5 % of normal parts needs 19 calibration images: ceil(20 ×
# 0.95) = 19.
CALIBRATION_MINIMUM = 19
CALIBRATION_PERCENT = 20  # of the normal images that may be trained on or were held out of them
HELD_OUT_PERCENT = 15  # of the normal images of a source without split, for validation and again for test


@dataclass(frozen=True, kw_only=True)
class RoleInput:
    """What decides the role of an image."""

    pixel_digest: str  # SHA-256 (hex) of shape and pixels
    # What the source says the image is for; None where it says nothing.
    split: Literal["train", "test"] | None
    label: Label
    defect_type: str | None


def assign_roles(entries: Sequence[RoleInput]) -> list[Role]:
    """Give every image exactly one role.

    - The source's train images become train and calibration, its test images validation and test.
    - Normal images without split: 15 % validation, 15 % test, the rest train and calibration.
    - Calibration takes 20 %, at least 19 images, never more than half of what train and calibration share.
    - Validation and test share their images half and half within every defect type (normal is one too), by the
      rank of a hash of the pixels. Odd ones go to the role that has fewer by then, so that the halves of the
      whole differ by at most one too.

    Args:
        entries: each picture once, in any order.
    Returns:
        One role per entry, in the order of the entries.
    Raises:
        DuplicateImage: a pixel digest stands twice.
        BadVersion: an anomalous image is marked for training.
        TooFewImages: a role would have no normal image; needed are 2 of train/good and 2 of test/good,
            or 4 without split.
    """
    _check(entries)
    pool: list[str] = []
    held_out: dict[tuple[Label, str], list[str]] = defaultdict(list)
    loose: list[str] = []
    for entry in entries:
        if entry.split == "train":
            pool.append(entry.pixel_digest)
        elif entry.split is None and entry.label is Label.NORMAL:
            loose.append(entry.pixel_digest)
        else:
            held_out[entry.label, entry.defect_type or ""].append(entry.pixel_digest)

    share = max(1, _percent(HELD_OUT_PERCENT, len(loose))) if loose else 0
    loose.sort(key=_rank)
    held_out[Label.NORMAL, ""] += loose[: 2 * share]
    pool += loose[2 * share :]
    _check_enough(len(pool), len(held_out[Label.NORMAL, ""]), split=not loose)

    roles: dict[str, Role] = {}
    calibration = min(
        max(_percent(CALIBRATION_PERCENT, len(pool) + 2 * share), CALIBRATION_MINIMUM), len(pool) // 2
    )
    for position, digest in enumerate(sorted(pool, key=_rank)):
        roles[digest] = Role.CALIBRATION if position < calibration else Role.TRAIN

    behind, ahead = Role.VALIDATION, Role.TEST  # the one with fewer images by then comes first
    for stratum in sorted(held_out):
        digests = sorted(held_out[stratum], key=_rank)
        for position, digest in enumerate(digests):
            roles[digest] = behind if position % 2 == 0 else ahead
        if len(digests) % 2:
            behind, ahead = ahead, behind
    return [roles[entry.pixel_digest] for entry in entries]


def _rank(pixel_digest: str) -> str:
    # Hashed once more, so that nothing that sorts or shards by the digest itself is tied to the roles.
    return sha256(pixel_digest.encode()).hexdigest()


def _percent(percent: int, number: int) -> int:
    return (number * percent + 50) // 100


def _check(entries: Sequence[RoleInput]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.pixel_digest in seen:
            raise DuplicateImage(
                f"Pixel digest {entry.pixel_digest} stands twice among {len(entries)} images; "
                "each picture must be given once. Leave out the copies first."
            )
        seen.add(entry.pixel_digest)
        if entry.split == "train" and entry.label is Label.ANOMALOUS:
            raise BadVersion(
                f"An anomalous image (defect type {entry.defect_type!r}) is marked for training; "
                "training pictures must be normal. Move it to the test pictures."
            )


def _check_enough(pool: int, held_out: int, *, split: bool) -> None:
    if pool >= 2 and held_out >= 2:
        return
    if not split:
        raise TooFewImages(
            f"There are {pool + held_out} pictures of normal parts; at least 4 are needed, so that each of the roles "
            "train, calibration, validation and test has one. Add some."
        )
    name, number = ("train/good", pool) if pool < 2 else ("test/good", held_out)
    raise TooFewImages(
        f"There are {number} pictures of normal parts in {name}; at least 2 are needed, because two roles share them. "
        "Add some."
    )
