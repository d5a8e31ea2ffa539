"""From a folder of pictures to an immutable dataset version: each decoded once, given one role, kept by its digest."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from engine.errors import EngineError
from engine.images import decode, decode_mask, pixel_digest
from storage import datasets
from storage.layouts import Entry, Layout, scan
from storage.records import DatasetVersion, Label, NewImage, Role, now
from storage.roles import RoleInput, assign_roles
from storage.workspace import Workspace
from tuning.errors import BadDataset, BadPicture

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is being done now)."""

MIN_NORMAL = 10  # fewer normal pictures can neither train nor calibrate anything


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A picture that did not become part of the version."""

    name: str  # relative to the source folder
    reason: str


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What came of reading a folder."""

    version: DatasetVersion
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Read:
    """One decoded entry: its image record without a role, and the split of its source."""

    image: NewImage
    split: Literal["train", "test"] | None


def ingest_folder(
    workspace: Workspace, folder: Path, name: str, *, progress: Progress | None = None
) -> IngestReport:
    """Make a dataset version of a folder (MVTec layout, or a plain folder of normal pictures).

    Nothing becomes visible before every picture has been read: the version is written in one transaction at the end.
    A picture that can't be used is listed in the report and left out; the others go in.

    Raises:
        StorageError: the folder's layout is not understood, or the dataset's name is not allowed.
        BadDataset: fewer than 10 usable normal pictures.
    """
    folder = folder.expanduser().resolve()
    datasets.check_dataset_name(name)
    layout = scan(folder)
    read, skipped = _read_entries(workspace, layout, progress)
    read, duplicates = _without_duplicates(read)
    _check_enough(read, folder, [*skipped, *duplicates])
    roles = assign_roles(
        [
            RoleInput(
                pixel_digest=item.image.pixel_digest,
                split=item.split,
                label=item.image.label,
                defect_type=item.image.defect_type,
            )
            for item in read
        ]
    )
    images = [replace(item.image, role=role) for item, role in zip(read, roles, strict=True)]
    with workspace.session() as session:
        version = datasets.create_version(
            session,
            name=name,
            source=str(folder),
            source_split=any(item.split is not None for item in read),
            images=images,
            now=now(),
        )
    logger.info(
        "dataset version made", extra={"dataset": name, "version": version.number, "images": len(images)}
    )
    return IngestReport(version=version, skipped=(*skipped, *duplicates), notes=layout.notes)


def _read_entries(
    workspace: Workspace, layout: Layout, progress: Progress | None
) -> tuple[list[_Read], list[Skipped]]:
    """Decode and keep every entry; the unusable ones come back with their reason."""
    read: list[_Read] = []
    skipped: list[Skipped] = []
    for done, entry in enumerate(layout.entries):
        if progress is not None:
            progress(done, len(layout.entries), f"reading {entry.name}")
        try:
            read.append(_Read(image=_read_image(workspace, entry), split=entry.split))
        except (EngineError, BadPicture) as error:
            skipped.append(Skipped(name=entry.name, reason=str(error)))
    if progress is not None:
        progress(len(layout.entries), len(layout.entries), "all pictures read")
    return read, skipped


def _read_image(workspace: Workspace, entry: Entry) -> NewImage:
    data = _bytes(entry.path)
    image = decode(data, entry.name)
    height, width = image.shape[:2]
    mask_digest = None
    if entry.mask_path is not None:
        mask_data = _bytes(entry.mask_path)
        mask = decode_mask(mask_data, entry.mask_path.name)
        if mask.shape != (height, width):
            raise BadPicture(
                f"Mask '{entry.mask_path.name}' is {mask.shape[0]}×{mask.shape[1]} px but its picture "
                f"'{entry.name}' is {height}×{width} px; both must agree. Export the mask again at the picture's size."
            )
        if mask.any():  # an empty mask marks nothing: the picture stays anomalous, without pixel truth
            mask_digest = workspace.blobs.put(mask_data)
    return NewImage(
        digest=workspace.blobs.put(data),
        pixel_digest=pixel_digest(image),
        name=entry.name,
        height=height,
        width=width,
        role=Role.TRAIN,  # replaced once all pictures are known
        label=entry.label,
        defect_type=entry.defect_type,
        mask_digest=mask_digest,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadPicture(
            f"File '{path}' can not be read: {error.strerror}. Check its permissions."
        ) from error


def _without_duplicates(read: Sequence[_Read]) -> tuple[list[_Read], list[Skipped]]:
    """Keep one of each set of pictures with the same pixels, so that none can stand in two roles.

    A copy in the source's test part wins over one in its training part: the model then never sees what judges it.
    Copies labelled both normal and anomalous are all left out: nobody can tell which label is right.
    """
    groups: dict[str, list[_Read]] = {}
    for item in read:
        groups.setdefault(item.image.pixel_digest, []).append(item)
    kept: list[_Read] = []
    left_out: list[Skipped] = []
    for group in groups.values():
        if len({item.image.label for item in group}) > 1:
            names = ", ".join(sorted(item.image.name for item in group))
            reason = f"the same pixels are labelled normal and anomalous ({names}); keep one of them and ingest again"
            left_out += [Skipped(name=item.image.name, reason=reason) for item in group]
            continue
        best, *others = sorted(
            group, key=lambda item: (item.split != "test", item.image.mask_digest is None, item.image.name)
        )
        kept.append(best)
        left_out += [
            Skipped(name=item.image.name, reason=f"the same pixels as {best.image.name}, which is kept")
            for item in others
        ]
    return kept, left_out


def _check_enough(read: Sequence[_Read], folder: Path, skipped: Sequence[Skipped]) -> None:
    trainable = sum(item.image.label is Label.NORMAL and item.split != "test" for item in read)
    if trainable < MIN_NORMAL:
        why = (
            f"; {len(skipped)} were left out, the first: {skipped[0].name}: {skipped[0].reason}"
            if skipped
            else ""
        )
        raise BadDataset(
            f"Folder '{folder}' holds {trainable} usable normal pictures for training; at least {MIN_NORMAL} "
            f"are needed{why}. Add pictures of normal parts (in the MVTec layout: under train/good)."
        )
