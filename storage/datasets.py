"""Datasets and their immutable versions: making them, finding them, listing their images.

Every function works in the session it is given and leaves committing to it.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from storage.errors import (
    BadDatasetName,
    BadVersion,
    DatasetDeleted,
    DatasetInUse,
    DatasetNotFound,
    DuplicateImage,
    ImageNotFound,
    VersionChanged,
    VersionNotFound,
)
from storage.records import (
    Dataset,
    DatasetVersion,
    ImageRecord,
    Label,
    ModelState,
    NewImage,
    Role,
    StudyState,
)
from storage.schema import DatasetRow, ImageRow, ModelRow, StudyRow, VersionRow

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
TITLE_LENGTH = 80  # of a version: what fits into a list

_DIGEST = re.compile(r"[0-9a-f]{64}")
_IMAGE_FIELDS = [field.name for field in fields(ImageRecord)]
_IMAGE_COLUMNS = [getattr(ImageRow, name) for name in _IMAGE_FIELDS]
_VALUES_AT_ONCE = 500  # a database takes only so many values in one statement


def check_dataset_name(name: str) -> None:
    """Refuse a name that breaks the rule, before any work is done for it.

    Raises:
        BadDatasetName: it isn't 1 to 63 lowercase letters, digits and hyphens, beginning with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        suggestion = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-")
        remedy = f"Take for instance '{suggestion}'." if suggestion else "Take for instance 'brackets-2'."
        raise BadDatasetName(
            f"Dataset name '{name}' must be 1 to 63 lowercase letters, digits and hyphens, "
            f"beginning with a letter or a digit. {remedy}"
        )


def create_version(
    session: Session,
    *,
    name: str,
    source: str,
    source_split: bool,
    images: Sequence[NewImage],
    now: datetime,
    after: int | None = None,
    change: str | None = None,
    who: str | None = None,
) -> DatasetVersion:
    """Make the next version of a dataset, and the dataset where it is new.

    Images with the same content as the latest version make no new one: the latest is the answer.

    Args:
        name: of the dataset; see `check_dataset_name`.
        source: where the pictures came from, for people.
        source_split: whether the source said itself what is for training and what for testing.
        images: at least one, each picture (by `pixel_digest`) once; their order is that of their ids.
        after: number of the version that the images were made from, 0 for none; None where it doesn't matter.
        change: what is other than in the version before, for people.
        who: made it.
    Raises:
        BadDatasetName: the name breaks its rule.
        DatasetDeleted: a deleted dataset has this name.
        VersionChanged: the latest version isn't `after`.
        BadVersion: there are no images, or one contradicts itself.
        DuplicateImage: two images have the same pixels.
    """
    check_dataset_name(name)
    _check_images(images)
    digest = content_digest(images)
    dataset_id = _lock_or_make_dataset(session, name, now)
    latest = session.scalar(
        select(VersionRow)
        .where(VersionRow.dataset_id == dataset_id)
        .order_by(VersionRow.number.desc())
        .limit(1)
    )
    number = 0 if latest is None else latest.number
    if after not in (None, number):
        raise VersionChanged(
            f"Dataset '{name}' has version {number} by now; the pictures were put together for version {after}. "
            "Nothing is lost: look at the new version and save again."
        )
    if latest is not None and latest.digest == digest:
        return _version(latest)
    counts = Counter((image.role, image.label) for image in images)
    version = VersionRow(
        dataset_id=dataset_id,
        number=number + 1,
        digest=digest,
        source=source,
        source_split=source_split,
        created_at=now,
        counts={role.value: {label.value: counts[role, label] for label in Label} for role in Role},
        mask_count=sum(image.mask_digest is not None for image in images),
        change=change,
        who=who,
    )
    session.add(version)
    session.flush()
    session.execute(insert(ImageRow), [{"version_id": version.id, **vars(image)} for image in images])
    return _version(version)


def list_datasets(session: Session, *, deleted: bool = False) -> list[Dataset]:
    """All datasets with their latest versions, by name; or, instead, those that were deleted."""
    newest = (
        select(VersionRow.dataset_id, func.max(VersionRow.number).label("number"))
        .group_by(VersionRow.dataset_id)
        .subquery()
    )
    rows = session.execute(
        select(DatasetRow, VersionRow)
        .outerjoin(newest, newest.c.dataset_id == DatasetRow.id)
        .outerjoin(
            VersionRow, (VersionRow.dataset_id == DatasetRow.id) & (VersionRow.number == newest.c.number)
        )
        .where(DatasetRow.deleted_at.is_not(None) if deleted else DatasetRow.deleted_at.is_(None))
        .order_by(DatasetRow.name)
    )
    return [_dataset(dataset, version) for dataset, version in rows]


def get_dataset(session: Session, name: str) -> Dataset:
    """The dataset of this name.

    Raises:
        DatasetNotFound: there is none; the message names the nearest and lists all.
        DatasetDeleted: it was deleted.
    """
    dataset = session.scalar(select(DatasetRow).where(DatasetRow.name == name))
    if dataset is None:
        known = session.scalars(select(DatasetRow.name).where(DatasetRow.deleted_at.is_(None)))
        raise DatasetNotFound(_no_such_dataset(name, known.all()))
    if dataset.deleted_at is not None:
        raise _deleted(dataset)
    version = session.scalar(
        select(VersionRow)
        .where(VersionRow.dataset_id == dataset.id)
        .order_by(VersionRow.number.desc())
        .limit(1)
    )
    return _dataset(dataset, version)


def get_version(session: Session, version_id: int) -> DatasetVersion:
    """The version of this id.

    Raises:
        VersionNotFound: there is none.
    """
    version = session.get(VersionRow, version_id)
    if version is None:
        raise VersionNotFound(
            f"There is no dataset version with id {version_id}. Take one from the list of a dataset."
        )
    return _version(version)


def list_versions(session: Session, name: str) -> list[DatasetVersion]:
    """All versions of a dataset, the latest first.

    Raises:
        DatasetNotFound: there is no such dataset.
    """
    dataset_id = get_dataset(session, name).id
    rows = session.scalars(
        select(VersionRow).where(VersionRow.dataset_id == dataset_id).order_by(VersionRow.number.desc())
    )
    return [_version(row) for row in rows]


def latest_version(session: Session, name: str) -> DatasetVersion:
    """The latest version of a dataset.

    Raises:
        DatasetNotFound: there is no such dataset.
        VersionNotFound: it has no version yet.
    """
    latest = get_dataset(session, name).latest
    if latest is None:
        raise VersionNotFound(f"Dataset '{name}' has no version yet. Ingest pictures into it.")
    return latest


def numbered_version(session: Session, name: str, number: int) -> DatasetVersion:
    """The version of this number of a dataset.

    Raises:
        DatasetNotFound, VersionNotFound: there is no such dataset, or it has no such version.
    """
    versions = list_versions(session, name)
    for version in versions:
        if version.number == number:
            return version
    have = ", ".join(str(version.number) for version in reversed(versions)) or "none"
    raise VersionNotFound(f"Dataset '{name}' has no version {number}; it has {have}. Give one of them.")


def name_version(session: Session, version_id: int, title: str) -> DatasetVersion:
    """Call a version something that people remember; an empty title takes the name away.

    Raises:
        VersionNotFound: there is no such version.
        BadVersion: the title is longer than 80 characters.
    """
    get_version(session, version_id)
    title = " ".join(title.split())
    if len(title) > TITLE_LENGTH:
        raise BadVersion(
            f"Title '{title}' has {len(title)} characters; at most {TITLE_LENGTH} fit. Shorten it."
        )
    row = session.get_one(VersionRow, version_id)
    row.title = title or None
    session.flush()
    return _version(row)


def known_masks(session: Session, name: str) -> set[tuple[str, str]]:
    """Pixel digest and mask digest of every mask that a picture of the dataset has, or had in some version."""
    query = (
        select(ImageRow.pixel_digest, ImageRow.mask_digest)
        .join(VersionRow, VersionRow.id == ImageRow.version_id)
        .join(DatasetRow, DatasetRow.id == VersionRow.dataset_id)
        .where(DatasetRow.name == name, ImageRow.mask_digest.is_not(None))
        .distinct()
    )
    return {(pixels, mask) for pixels, mask in session.execute(query) if mask is not None}


def known_roles(session: Session, name: str) -> dict[str, Role]:
    """The role that each picture has or last had in any version of a dataset, by pixel digest.

    A picture that was taken out and comes back must not move from test to train.
    """
    last = (
        select(ImageRow.pixel_digest, VersionRow.dataset_id, func.max(VersionRow.number).label("number"))
        .join(VersionRow, VersionRow.id == ImageRow.version_id)
        .join(DatasetRow, DatasetRow.id == VersionRow.dataset_id)
        .where(DatasetRow.name == name)
        .group_by(ImageRow.pixel_digest, VersionRow.dataset_id)
        .subquery()
    )
    query = (
        select(ImageRow.pixel_digest, ImageRow.role)
        .join(VersionRow, VersionRow.id == ImageRow.version_id)
        .join(
            last,
            (last.c.dataset_id == VersionRow.dataset_id)
            & (last.c.number == VersionRow.number)
            & (last.c.pixel_digest == ImageRow.pixel_digest),
        )
    )
    return {row.pixel_digest: row.role for row in session.execute(query)}


def delete_dataset(session: Session, name: str, *, now: datetime) -> None:
    """Set a dataset aside: nobody sees it until `restore_dataset`, and nothing of it is lost.

    Raises:
        DatasetNotFound: there is no such dataset.
        DatasetInUse: it has a champion, or a study that has not ended; says how to end that.
    """
    dataset = get_dataset(session, name)
    lock_dataset(session, dataset.id)
    serving = session.scalar(
        select(ModelRow.version).where(
            ModelRow.dataset_id == dataset.id, ModelRow.state == ModelState.CHAMPION
        )
    )
    if serving is not None:
        raise DatasetInUse(
            f"Dataset '{name}' can't be deleted: model version {serving} is its champion and serves. "
            f"Withdraw the champion first, on the page Models or with `simplenet withdraw {name}`."
        )
    at_work = session.scalars(
        select(StudyRow.id)
        .join(VersionRow, VersionRow.id == StudyRow.dataset_version_id)
        .where(
            VersionRow.dataset_id == dataset.id,
            StudyRow.state.in_([StudyState.QUEUED, StudyState.RUNNING, StudyState.PAUSED]),
        )
    ).all()
    if at_work:
        studies = ", ".join(map(str, at_work))
        raise DatasetInUse(
            f"Dataset '{name}' can't be deleted: study {studies} has not ended. "
            f"Cancel it first, on its page or with `simplenet cancel {at_work[0]}`."
        )
    session.execute(update(DatasetRow).where(DatasetRow.id == dataset.id).values(deleted_at=now))


def restore_dataset(session: Session, name: str) -> Dataset:
    """Bring a deleted dataset back as it was; one that isn't deleted stays as it is.

    Raises:
        DatasetNotFound: there never was such a dataset.
    """
    session.execute(update(DatasetRow).where(DatasetRow.name == name).values(deleted_at=None))
    session.expire_all()
    return get_dataset(session, name)


def list_images(
    session: Session, version_id: int, *, role: Role | None = None, label: Label | None = None
) -> list[ImageRecord]:
    """Images of a version, of one role or label where given, in the order they were given in; one query.

    Raises:
        VersionNotFound: there is no such version.
    """
    query = select(*_IMAGE_COLUMNS).where(ImageRow.version_id == version_id).order_by(ImageRow.id)
    if role is not None:
        query = query.where(ImageRow.role == role)
    if label is not None:
        query = query.where(ImageRow.label == label)
    images = _image_records(session.execute(query))
    if not images:
        get_version(session, version_id)  # tells a version without such images from one that doesn't exist
    return images


def find_images(session: Session, version_id: int, pixel_digests: Iterable[str]) -> dict[str, ImageRecord]:
    """Those images of a version that have these pixels, by pixel digest; what the version lacks is left out."""
    wanted = list(pixel_digests)
    found: dict[str, ImageRecord] = {}
    for start in range(0, len(wanted), _VALUES_AT_ONCE):
        query = select(*_IMAGE_COLUMNS).where(
            ImageRow.version_id == version_id,
            ImageRow.pixel_digest.in_(wanted[start : start + _VALUES_AT_ONCE]),
        )
        found |= {image.pixel_digest: image for image in _image_records(session.execute(query))}
    return found


def first_images(session: Session, version_id: int, each: int) -> list[ImageRecord]:
    """The first few images of every role, label and defect type of a version, in the order of `list_images`.

    Args:
        each: how many of a kind, at most.
    """
    kind = (ImageRow.role, ImageRow.label, ImageRow.defect_type)
    place = func.row_number().over(partition_by=kind, order_by=ImageRow.id)
    numbered = (
        select(*_IMAGE_COLUMNS, place.label("place")).where(ImageRow.version_id == version_id).subquery()
    )
    query = (
        select(*(numbered.c[name] for name in _IMAGE_FIELDS))
        .where(numbered.c.place <= each)
        .order_by(numbered.c.id)
    )
    return _image_records(session.execute(query))


def _image_records(rows: Iterable[Row[Any]]) -> list[ImageRecord]:
    return [ImageRecord(**dict(zip(_IMAGE_FIELDS, row, strict=True))) for row in rows]


def get_image(session: Session, image_id: int) -> ImageRecord:
    """The image of this id.

    Raises:
        ImageNotFound: there is none.
    """
    row = session.execute(select(*_IMAGE_COLUMNS).where(ImageRow.id == image_id)).mappings().one_or_none()
    if row is None:
        raise ImageNotFound(
            f"There is no image with id {image_id}. Take one from the list of a dataset version."
        )
    return ImageRecord(**row)


def lock_dataset(session: Session, dataset_id: int) -> None:
    """Make other sessions that want the same lock wait until this one ends.

    Raises:
        DatasetDeleted: the dataset was deleted, perhaps while this session waited.
    """
    # A write that changes nothing: on PostgreSQL it locks the row, on SQLite, which has no FOR UPDATE, the database.
    row = session.scalar(
        update(DatasetRow)
        .where(DatasetRow.id == dataset_id)
        .values(name=DatasetRow.name)
        .returning(DatasetRow),
        execution_options={"synchronize_session": False, "populate_existing": True},
    )
    if row is not None and row.deleted_at is not None:
        raise _deleted(row)


def _lock_or_make_dataset(session: Session, name: str, now: datetime) -> int:
    lock = update(DatasetRow).where(DatasetRow.name == name).values(name=name).returning(DatasetRow)
    found = session.scalar(lock)
    if found is None:
        try:
            with session.begin_nested():
                dataset = DatasetRow(name=name, created_at=now)
                session.add(dataset)
                session.flush()
            return dataset.id
        except IntegrityError:  # made by another process in between
            found = session.scalars(lock).one()
    if found.deleted_at is not None:
        raise _deleted(found)
    return found.id


def _check_images(images: Sequence[NewImage]) -> None:
    if not images:
        raise BadVersion(
            "A dataset version needs at least one image; 0 were given. Check the folder they come from."
        )
    names: dict[str, str] = {}  # by pixel digest
    for image in images:
        if image.label is Label.NORMAL and image.defect_type is not None:
            raise BadVersion(
                f"Image '{image.name}' is labelled normal and has the defect type '{image.defect_type}'; "
                "only anomalous images have one. Correct its label."
            )
        if image.label is Label.ANOMALOUS and image.role in (Role.TRAIN, Role.CALIBRATION):
            raise BadVersion(
                f"Image '{image.name}' is labelled anomalous and has the role {image.role}; "
                "anomalous images may only be validation or test. Assign roles with storage.roles."
            )
        if image.height < 1 or image.width < 1:
            raise BadVersion(
                f"Image '{image.name}' is {image.height}×{image.width} px; "
                "both sides must be at least 1 px. Leave it out."
            )
        for digest in (image.digest, image.pixel_digest, image.mask_digest):
            if digest is not None and not _DIGEST.fullmatch(digest):
                raise BadVersion(
                    f"Image '{image.name}' has the digest {digest!r}; "
                    "digests are 64 lowercase hexadecimal digits. Take those that BlobStore.put and the decoder return."
                )
        if image.pixel_digest in names:
            raise DuplicateImage(
                f"Images '{names[image.pixel_digest]}' and '{image.name}' have the same pixels; "
                "a picture stands in a version once, so that it has one role. Leave one of them out."
            )
        names[image.pixel_digest] = image.name


def content_digest(images: Sequence[NewImage] | Sequence[ImageRecord]) -> str:
    """The digest of a version of these images: SHA-256 (hex) over all that is said of each, whatever their order."""
    content = sha256(b"simplenet dataset version 1\n")
    for image in sorted(images, key=lambda image: image.pixel_digest):
        said = {field.name: getattr(image, field.name) for field in fields(NewImage)}
        content.update(json.dumps(said, sort_keys=True).encode())
        content.update(b"\n")
    return content.hexdigest()


def _version(row: VersionRow) -> DatasetVersion:
    return DatasetVersion(
        id=row.id,
        dataset_id=row.dataset_id,
        dataset_name=row.dataset.name,
        number=row.number,
        digest=row.digest,
        source=row.source,
        source_split=row.source_split,
        created_at=row.created_at,
        counts={role: {label: row.counts[role][label] for label in Label} for role in Role},
        mask_count=row.mask_count,
        title=row.title,
        change=row.change,
        who=row.who,
    )


def _dataset(row: DatasetRow, latest: VersionRow | None) -> Dataset:
    return Dataset(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        latest=None if latest is None else _version(latest),
        deleted_at=row.deleted_at,
    )


def _deleted(row: DatasetRow) -> DatasetDeleted:
    return DatasetDeleted(
        f"Dataset '{row.name}' was deleted on {row.deleted_at:%Y-%m-%d at %H:%M} UTC. "
        f"Restore it on the page Datasets or with `simplenet dataset restore {row.name}`, or take another name."
    )


def _no_such_dataset(name: str, existing: Sequence[str]) -> str:
    if not existing:
        return (
            f"There is no dataset '{name}', nor any other yet. Ingest a folder of pictures, or load the demo."
        )
    nearest = difflib.get_close_matches(name, existing, n=1)
    question = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return f"There is no dataset '{name}'.{question} There are: {', '.join(sorted(existing))}."
