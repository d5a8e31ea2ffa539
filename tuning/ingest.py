"""From files to an immutable dataset version: each picture decoded once, given one role, kept by its digest.

Nothing becomes visible before every picture has been read: the version, its report and the measures of its pictures are
written in one transaction at the end. A crash before leaves files in the store that nobody sees.
"""

import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from engine.errors import EngineError
from storage import datasets
from storage.errors import DatasetDeleted, DatasetNotFound
from storage.events import record_event
from storage.ingests import put_ingest
from storage.layouts import Entry, Layout, scan
from storage.measures import Measured, put_measures
from storage.records import DatasetVersion, ImageRecord, Ingest, Label, NewImage, Remark, Role, Skipped, now
from storage.roles import RoleInput, assign_roles
from storage.room import told_when_full
from storage.workspace import Workspace
from tuning.errors import BadDataset, BadPicture
from tuning.jobs import Progress
from tuning.reading import ReadPicture, keep_freed_memory, read_entry

logger = logging.getLogger(__name__)

MIN_NORMAL = 10  # fewer normal pictures can neither train nor calibrate anything
COPY_OF = "the same pixels as"  # how the reason begins for which an exact copy is left out
MOST_THREADS = 8  # that read; each holds a picture of up to 200 MB, however many cores there are
AHEAD = 2  # files waiting per reading thread, so that only a few pictures are ever in memory
NOBODY = "unknown"

Reading = tuple[list[ReadPicture], list[Skipped]]


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What came of reading a folder."""

    version: DatasetVersion
    made: bool  # by this reading; else the pictures are those that the version held before
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """One picture of the version to be."""

    image: NewImage
    split: Literal["train", "test"] | None = None  # what the source says it is for
    read: ReadPicture | None = None  # None for a picture of the version before that stays as it was


@dataclass(frozen=True, kw_only=True)
class _Former:
    """What the dataset holds by now."""

    version: DatasetVersion | None
    images: Mapping[str, NewImage]  # of its latest version, by pixel digest
    roles: Mapping[str, Role]  # of all its versions
    masks: Set[tuple[str, str]]  # pixel digest and mask digest, of all its versions

    @property
    def number(self) -> int:
        return 0 if self.version is None else self.version.number


def ingest_folder(
    workspace: Workspace,
    folder: Path,
    name: str,
    *,
    add: bool = True,
    who: str = NOBODY,
    progress: Progress | None = None,
) -> IngestReport:
    """Make a dataset version of a folder that holds one dataset; see `ingest_layout`.

    Raises:
        StorageError: the folder's layout is not understood, or the dataset's name is not allowed.
        BadDataset: fewer than 10 usable normal pictures.
    """
    folder = folder.expanduser().resolve()
    datasets.check_dataset_name(name)
    return ingest_layout(
        workspace, scan(folder), name, source=str(folder), add=add, who=who, progress=progress
    )


def ingest_layout(
    workspace: Workspace,
    layout: Layout,
    name: str,
    *,
    source: str,
    add: bool = True,
    mask_threshold: int = 0,
    refused: Sequence[Skipped] = (),
    who: str = NOBODY,
    progress: Progress | None = None,
) -> IngestReport:
    """Read pictures into the next version of a dataset, and the dataset where it is new.

    A picture that can't be used is listed in the report and left out; the others go in.

    Args:
        source: where the pictures came from, for people.
        add: to the pictures of the latest version; otherwise the new ones replace them. Roles stay either way.
        mask_threshold: a grey value of a mask above it is a defect.
        refused: what was left out before, to be reported along; as is what the layout left out.
    Raises:
        StorageError: the dataset's name is not allowed, or it was deleted or changed meanwhile.
        BadDataset: fewer than 10 usable normal pictures.
        DiskFull: no room for the pictures; what was there before is unchanged.
    """
    datasets.check_dataset_name(name)
    former = _former(workspace, name)
    with told_when_full(workspace.settings.home):
        read, skipped = _read_entries(workspace, layout, mask_threshold, progress)
    read, duplicates = _without_duplicates(read)
    taken, conflicts, notes = _joined(former, read, add=add)
    skipped = [*refused, *layout.skipped, *skipped, *duplicates, *conflicts]
    _check_enough(taken, former.roles, source, layout, skipped)
    images = _with_roles(taken, former.roles)
    new = [item.read for item in taken if item.read is not None]
    with told_when_full(workspace.settings.home):
        workspace.blobs.settle({digest for picture in new for digest in picture.blobs})
    remarks = tuple(remark for picture in new for remark in picture.remarks)
    report = Ingest(skipped=tuple(skipped), remarks=remarks, notes=(*layout.notes, *notes))
    with workspace.session() as session:
        version = datasets.create_version(
            session,
            name=name,
            source=source,
            source_split=layout.source_split or (former.version is not None and former.version.source_split),
            images=images,
            now=now(),
            after=former.number,
            change=None if former.version is None else change_sentence(former.images, images),
            who=who,
        )
        put_measures(
            session,
            {
                picture.image.pixel_digest: Measured(values=picture.measures, signature=picture.signature)
                for picture in new
            },
        )
        if version.number > former.number:
            put_ingest(session, version.id, report)
            what = f"made version {version.number}: {version.count()} pictures, from {source}"
            record_event(session, version.dataset_id, what, who=who, now=now())
    logger.info(
        "dataset version made", extra={"dataset": name, "version": version.number, "images": len(images)}
    )
    return IngestReport(
        version=version,
        made=version.number > former.number,
        skipped=report.skipped,
        notes=report.notes,
        remarks=remarks,
    )


def change_sentence(former: Mapping[str, NewImage], images: Sequence[NewImage]) -> str:
    """Say in words what is other than in the version before: '12 pictures added, 3 labels changed'.

    Args:
        former: images of the version before, by pixel digest.
    """
    both = [(former[image.pixel_digest], image) for image in images if image.pixel_digest in former]
    counts = {
        "picture{} added": len(images) - len(both),
        "picture{} removed": len(former) - len(both),
        "label{} changed": sum(
            (old.label, old.defect_type) != (new.label, new.defect_type) for old, new in both
        ),
        "mask{} changed": sum(old.mask_digest != new.mask_digest for old, new in both),
    }
    said = [f"{count:,} {what.format('' if count == 1 else 's')}" for what, count in counts.items() if count]
    return ", ".join(said) or "nothing changed"


def as_new(image: ImageRecord) -> NewImage:
    """An image of a version as it goes into the next one."""
    return NewImage(**{field: value for field, value in vars(image).items() if field != "id"})


def _former(workspace: Workspace, name: str) -> _Former:
    with workspace.session() as session:
        try:
            version = datasets.get_dataset(session, name).latest
        except DatasetDeleted:
            raise
        except DatasetNotFound:
            version = None
        images = [] if version is None else datasets.list_images(session, version.id)
        return _Former(
            version=version,
            images={image.pixel_digest: as_new(image) for image in images},
            roles=datasets.known_roles(session, name),
            masks=datasets.known_masks(session, name),
        )


def _read_entries(
    workspace: Workspace, layout: Layout, mask_threshold: int, progress: Progress | None
) -> tuple[list[_Taken], list[Skipped]]:
    """Decode and keep every entry; the unusable ones come back with their reason."""
    taken: list[_Taken] = []
    skipped: list[Skipped] = []
    for done, (entry, future) in enumerate(_ahead(workspace, layout.entries, mask_threshold)):
        if progress is not None:
            progress(done, len(layout.entries), f"reading {entry.name}")
        try:
            pictures, unusable = future.result()
            taken += [_Taken(image=picture.image, split=entry.split, read=picture) for picture in pictures]
            skipped += unusable
        except (EngineError, BadPicture) as error:
            skipped.append(Skipped(name=entry.name, reason=str(error)))
    if progress is not None:
        progress(len(layout.entries), len(layout.entries), "checking all pictures")
    return taken, skipped


def _ahead(
    workspace: Workspace, entries: Sequence[Entry], mask_threshold: int
) -> Iterator[tuple[Entry, "Future[Reading]"]]:
    """Every entry with its reading, in order; a few are read ahead by threads, for decoders and hashes run beside."""
    keep_freed_memory()
    threads = min(os.cpu_count() or 1, MOST_THREADS)
    with ThreadPoolExecutor(threads, thread_name_prefix="reading") as pool:
        waiting: deque[tuple[Entry, Future[Reading]]] = deque()
        try:
            for entry in entries:
                waiting.append((entry, pool.submit(read_entry, workspace, entry, mask_threshold)))
                if len(waiting) > threads + AHEAD:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()


def _without_duplicates(read: Sequence[_Taken]) -> tuple[list[_Taken], list[Skipped]]:
    """Keep one of each set of pictures with the same pixels, so that none can stand in two roles.

    A copy in the source's test part wins over one in its training part: the model then never sees what judges it.
    Copies labelled both normal and anomalous are all left out: nobody can tell which label is right.
    """
    groups: dict[str, list[_Taken]] = {}
    for item in read:
        groups.setdefault(item.image.pixel_digest, []).append(item)
    kept: list[_Taken] = []
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
            Skipped(name=item.image.name, reason=f"{COPY_OF} {best.image.name}, which is kept")
            for item in others
        ]
    return kept, left_out


def _joined(
    former: _Former, read: Sequence[_Taken], *, add: bool
) -> tuple[list[_Taken], list[Skipped], list[str]]:
    """The pictures of the next version: those that stay, and those that were read.

    A picture that the version has already keeps its label, for a person may have corrected it. A mask that was read
    for it is taken, unless the dataset had that mask before and has it no more: then a person corrected it.
    """
    if not add:
        return list(read), [], []
    taken = {digest: _Taken(image=image) for digest, image in former.images.items()}
    conflicts: list[Skipped] = []
    known = 0
    for item in read:
        old = former.images.get(item.image.pixel_digest)
        if old is None:
            taken[item.image.pixel_digest] = item
        elif old.label is not item.image.label:
            conflicts.append(
                Skipped(
                    name=item.image.name,
                    reason=f"version {former.number} has this picture as {old.label} ('{old.name}'), here it is "
                    f"{item.image.label}; it stays {old.label}. Change its label on the page Datasets if that is wrong",
                )
            )
        elif item.image.mask_digest in (None, old.mask_digest):
            known += 1
        elif (old.pixel_digest, item.image.mask_digest) in former.masks:
            conflicts.append(
                Skipped(
                    name=item.image.name,
                    reason=f"the mask of this picture ('{old.name}') was corrected after this one; version "
                    f"{former.number} keeps it. Give the picture its mask on the page Datasets if that is wrong",
                )
            )
        else:
            image = replace(old, mask_digest=item.image.mask_digest)
            taken[old.pixel_digest] = _Taken(image=image, read=item.read)
    notes = [f"Pictures that version {former.number} has already: {known:,}."] if known else []
    return list(taken.values()), conflicts, notes


def _with_roles(taken: Sequence[_Taken], known: Mapping[str, Role]) -> list[NewImage]:
    roles = assign_roles(
        [
            RoleInput(
                pixel_digest=item.image.pixel_digest,
                # Whatever the source says: nothing anomalous is trained on.
                split=None if item.image.label is Label.ANOMALOUS else item.split,
                label=item.image.label,
                defect_type=item.image.defect_type,
            )
            for item in taken
        ],
        known,
    )
    return [replace(item.image, role=role) for item, role in zip(taken, roles, strict=True)]


def _check_enough(
    taken: Sequence[_Taken],
    known: Mapping[str, Role],
    source: str,
    layout: Layout,
    skipped: Sequence[Skipped],
) -> None:
    trainable = sum(
        item.image.label is Label.NORMAL
        and known.get(item.image.pixel_digest, Role.TEST if item.split == "test" else Role.TRAIN)
        in (Role.TRAIN, Role.CALIBRATION)
        for item in taken
    )
    if trainable < MIN_NORMAL:
        why = (
            f"; {len(skipped):,} {'was' if len(skipped) == 1 else 'were'} left out, the first: {skipped[0].name}: "
            f"{skipped[0].reason.removesuffix('.')}"
            if skipped
            else ""
        )
        raise BadDataset(
            f"'{source}' holds {trainable} usable normal pictures for training; at least {MIN_NORMAL} "
            f"are needed{why}. Add pictures of normal parts: {_where_to_add(layout)}."
            # What was made of a list is perhaps what is wrong; nobody would see it otherwise.
            + "".join(f" {note}" for note in layout.notes if layout.kind in ("manifest", "lookout"))
        )


def _where_to_add(layout: Layout) -> str:
    if layout.kind in ("two_folders", "folders"):
        normal = sorted({entry.group for entry in layout.entries if entry.label is Label.NORMAL})
        return f"into the folder {', '.join(normal)}" if normal else "in a folder of their own, called good"
    return {
        "mvtec": "under train/good",
        "btad": "under train/ok",
        "visa": "lines with the split train and the label normal in split_csv/1cls.csv",
        "flat": "into the folder",
        "manifest": "lines with a label that means normal, as good, and the split train or none",
        "lookout": "lines with the class-name normal",
    }[layout.kind]
