"""One file of a source, read once: decoded, digested, measured, and kept with its mask and a small copy."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import EngineError
from engine.images import MAX_FILE_BYTES, decode, page, pages, pixel_digest, thumbnail
from engine.inspection import measure
from engine.masks import Mask, encode_mask, fit_mask, merge_masks, read_mask
from storage.layouts import Entry
from storage.records import Label, NewImage, Remark, Role, Skipped
from storage.workspace import Workspace
from tuning.errors import BadPicture

MAX_PAGES = 1000  # of one file
KEPT_BYTES = 32 * 1024**2 - 65_536  # the largest block that glibc learns from is a little below 32 MiB


@dataclass(frozen=True, kw_only=True)
class ReadPicture:
    """A picture whose file, mask and small copy are in the store, not settled yet."""

    image: NewImage  # its role is still to be given
    measures: Mapping[str, Any]
    signature: bytes
    remarks: tuple[Remark, ...]

    @property
    def blobs(self) -> tuple[str, ...]:
        """Digests of the files to settle."""
        return tuple(digest for digest in (self.image.digest, self.image.mask_digest) if digest is not None)


def read_entry(
    workspace: Workspace, entry: Entry, mask_threshold: int
) -> tuple[list[ReadPicture], list[Skipped]]:
    """Read a file; of several pages, each is a picture, called `name#2` and so on.

    Returns:
        Its pictures, and those pages that can't be used with their reason.
    Raises:
        EngineError, BadPicture: the whole file, or a mask of it, can't be used.
    """
    data = file_bytes(entry.path, entry.name)
    count = pages(data, entry.name)
    if count == 1:
        return [_read_picture(workspace, entry, data, entry.name, mask_threshold)], []
    if count > MAX_PAGES:
        raise BadPicture(f"File '{entry.name}' has {count} pages; at most {MAX_PAGES} are read. Split it.")
    read: list[ReadPicture] = []
    skipped: list[Skipped] = []
    for number in range(1, count + 1):
        name = f"{entry.name}#{number}"
        try:
            read.append(_read_picture(workspace, entry, page(data, entry.name, number), name, mask_threshold))
        except EngineError as error:
            skipped.append(Skipped(name=name, reason=str(error)))
    return read, skipped


def keep_freed_memory() -> None:
    """Let the C library use the memory of one picture for the next, rather than give it back to the system.

    Each page of memory that comes back from the system costs a fault, thousands of them per picture: a sixth of the
    time. glibc raises its thresholds to the size of the largest block that was ever freed (see mallopt(3), dynamic
    mmap threshold), so one large block, never touched, is taken and freed. Elsewhere this does nothing.
    """
    bytearray(KEPT_BYTES)


def file_bytes(path: Path, name: str | None = None) -> bytes:
    """All bytes of a file.

    Args:
        name: how messages call it; by default as it is called on the disk.
    Raises:
        BadPicture: it can't be read, or is larger than any picture may be.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:  # else it would first fill the memory
            raise BadPicture(
                f"File '{name or path.name}' has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read. Cut or shrink "
                "the picture, or leave it out."
            )
        return path.read_bytes()
    except OSError as error:
        raise BadPicture(
            f"File '{name or path}' can not be read: {error.strerror}. Check its permissions."
        ) from error


def _read_picture(
    workspace: Workspace, entry: Entry, data: bytes, name: str, mask_threshold: int
) -> ReadPicture:
    image = decode(data, name)
    pixels = pixel_digest(image)
    measures = asdict(measure(image))
    height, width = image.shape[:2]
    mask_digest: str | None = None
    said: list[tuple[str, str]] = []
    if entry.masks and entry.label is Label.ANOMALOUS:
        mask_digest, said = _keep_mask(workspace, entry, name, height, width, mask_threshold)
    digest = workspace.blobs.put(data, settled=False)
    if workspace.thumbnails.get(digest) is None:
        workspace.thumbnails.put(digest, thumbnail(image))
    return ReadPicture(
        image=NewImage(
            digest=digest,
            pixel_digest=pixels,
            name=name,
            height=height,
            width=width,
            role=Role.TRAIN,
            label=entry.label,
            defect_type=entry.defect_type,
            mask_digest=mask_digest,
        ),
        signature=measures.pop("signature"),
        measures=measures,
        remarks=tuple(Remark(pixel_digest=pixels, kind=kind, text=text) for kind, text in said),
    )


def _keep_mask(
    workspace: Workspace, entry: Entry, name: str, height: int, width: int, threshold: int
) -> tuple[str | None, list[tuple[str, str]]]:
    """Merge the masks of a picture into one file; answers its digest and what a person should know of it."""
    said: list[tuple[str, str]] = []

    def fitted() -> Iterator[Mask]:
        for file in entry.masks:
            read = read_mask(
                file_bytes(file.path, file.name),
                file.name,
                white_is_background=entry.white_is_background,
                threshold=threshold,
            )
            if not read.binary and not entry.white_is_background:
                values = ", ".join(map(str, read.values))
                said.append(
                    ("grey mask", f"the mask holds the values {values}; above {threshold} counts as defect")
                )
            if read.mask.shape != (height, width):
                said.append(
                    ("scaled mask", f"the mask of {read.mask.shape[0]}×{read.mask.shape[1]} px was scaled")
                )
            yield fit_mask(read.mask, height, width, file.name, name)

    mask = merge_masks(fitted())
    if not mask.any():  # it marks nothing: the picture stays anomalous, without pixel truth
        said.append(("empty mask", "the mask marks nothing; the picture counts as anomalous without a mask"))
        return None, said
    return workspace.blobs.put(encode_mask(mask), settled=False), said
