"""Which image is for training, which for calibration, validation and test, as one pure function.

The choice depends on the pixels alone: neither on the order of the images, nor on their file names, nor on
chance.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
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


def assign_roles(entries: Sequence[RoleInput], known: Mapping[str, Role] | None = None) -> list[Role]:
    """Give every image exactly one role.

    - An image that has a role keeps it, but for one that was trained on or calibrated with and turns out anomalous:
      it goes to validation, for models of the past have seen it. The rules below are about the others.
    - The source's train images become train and calibration, its test images validation and test.
    - Normal images without split: 15 % validation, 15 % test, the rest train and calibration.
    - Calibration takes 20 %, at least 19 images, never more than half of what train and calibration share.
    - Validation and test share their images half and half within every defect type (normal is one too), by the
      rank of a hash of the pixels. Odd ones go to the role that has fewer by then, so that the halves of the
      whole differ by at most one too.

    Args:
        entries: each picture once, in any order.
        known: role by pixel digest, of images that have or had one in the same dataset.
    Returns:
        One role per entry, in the order of the entries.
    Raises:
        DuplicateImage: a pixel digest stands twice.
        BadVersion: an anomalous image is marked for training.
        TooFewImages: a role would have no normal image; needed are 2 of train/good and 2 of test/good,
            or 4 without split.
    """
    known = known or {}
    _check(entries)
    roles = {entry.pixel_digest: _kept(entry, known) for entry in entries if entry.pixel_digest in known}
    labels = {entry.pixel_digest: (entry.label, entry.defect_type or "") for entry in entries}
    have = Counter(roles.values())
    normals = Counter(role for digest, role in roles.items() if labels[digest][0] is Label.NORMAL)
    pool: list[str] = []
    held_out: dict[tuple[Label, str], list[str]] = defaultdict(list)
    loose: list[str] = []
    for entry in entries:
        if entry.pixel_digest in roles:
            continue
        if entry.split == "train":
            pool.append(entry.pixel_digest)
        elif entry.split is None and entry.label is Label.NORMAL:
            loose.append(entry.pixel_digest)
        else:
            held_out[entry.label, entry.defect_type or ""].append(entry.pixel_digest)

    share = max(1, _percent(HELD_OUT_PERCENT, len(loose) + normals.total())) if loose else 0
    missing = max(0, 2 * share - normals[Role.VALIDATION] - normals[Role.TEST])
    loose.sort(key=_rank)
    held_out[Label.NORMAL, ""] += loose[:missing]
    pool += loose[missing:]
    trainable = len(pool) + normals[Role.TRAIN] + normals[Role.CALIBRATION]
    judged = len(held_out[Label.NORMAL, ""]) + normals[Role.VALIDATION] + normals[Role.TEST]
    _check_enough(trainable, judged, split=not loose)

    wanted = max(_percent(CALIBRATION_PERCENT, trainable + 2 * share), CALIBRATION_MINIMUM)
    calibration = min(wanted, trainable // 2) - normals[Role.CALIBRATION]
    for position, digest in enumerate(sorted(pool, key=_rank)):
        roles[digest] = Role.CALIBRATION if position < calibration else Role.TRAIN

    strata = Counter((labels[digest], role) for digest, role in roles.items())
    for stratum in sorted(held_out):
        for digest in sorted(held_out[stratum], key=_rank):
            # The role with fewer images of the stratum, then with fewer of all, then validation.
            role = min((Role.VALIDATION, Role.TEST), key=lambda role: (strata[stratum, role], have[role]))
            roles[digest] = role
            strata[stratum, role] += 1
            have[role] += 1
    return [roles[entry.pixel_digest] for entry in entries]


def _kept(entry: RoleInput, known: Mapping[str, Role]) -> Role:
    role = known[entry.pixel_digest]
    if entry.label is Label.ANOMALOUS and role in (Role.TRAIN, Role.CALIBRATION):
        # Not to test: a champion that was trained on it as normal would be compared there.
        return Role.VALIDATION
    return role


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
