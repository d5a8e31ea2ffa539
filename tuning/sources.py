"""A folder, an archive or a manifest on this machine, as the command line names it, ready to be ingested."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.archives import is_archive, unpack
from storage.atomic_files import TEMPORARY_PREFIX
from storage.errors import UnknownLayout
from storage.layouts import Layout, understand
from storage.listing import SourceFile, survey
from storage.records import Skipped
from storage.workspace import Workspace
from tuning.errors import BadDataset
from tuning.ingest import IngestReport, ingest_layout
from tuning.jobs import Progress


@dataclass(frozen=True, kw_only=True)
class Source:
    """What was recognised in a path."""

    origin: str  # for people
    layouts: tuple[Layout, ...]  # one per dataset
    refused: tuple[Skipped, ...]  # what was not even unpacked, and names that can't be kept


@contextmanager
def open_source(
    workspace: Workspace, path: Path, *, normal: str | None = None, progress: Progress | None = None
) -> Iterator[Source]:
    """Recognise what lies at a path; an archive is unpacked for as long as the source is open.

    Args:
        path: a folder, an archive, or the file of a manifest: it alone says which pictures of its folder are taken.
        normal: name of the folder with the normal parts, where the folders' names don't say it.
    Raises:
        BadArchive, UnknownLayout: it can't be unpacked, or not be understood.
    """
    path = path.expanduser().resolve()
    if path.is_dir():
        files, refused = survey(path)
        layouts = understand(files, str(path), normal=normal)
        yield Source(origin=str(path), layouts=layouts, refused=tuple(refused))
    elif not path.is_file():
        raise UnknownLayout(
            f"'{path}' doesn't exist. Give a folder of pictures, a zip or tar file, or a manifest."
        )
    elif is_archive(path.name):
        # The name is one that the sweep knows as a leftover, should this process be killed.
        with tempfile.TemporaryDirectory(
            prefix=TEMPORARY_PREFIX, dir=workspace.settings.staging_folder
        ) as folder:
            found = unpack(path, Path(folder), progress=progress)
            yield Source(
                origin=str(path),
                layouts=understand(found.files, str(path), normal=normal),
                refused=tuple(Skipped(name=one.name, reason=one.reason) for one in found.refused),
            )
    else:
        the_list = SourceFile(name=path.name, path=path)
        files, _ = survey(path.parent)  # a list names none of the others: it is UTF-8
        layouts = understand(files, str(path), normal=normal, only_list=the_list)
        yield Source(origin=str(path), layouts=layouts, refused=())


def ingest_source(
    workspace: Workspace,
    source: Source,
    name: str | None,
    *,
    add: bool,
    mask_threshold: int,
    who: str,
    progress: Progress | None = None,
) -> list[IngestReport]:
    """Make a version of every dataset of a source.

    Args:
        name: of the dataset; of several, what stands before each one's own name. None: as their folders are called.
    Raises:
        StorageError: see `tuning.ingest.ingest_layout`; datasets that were made before stay.
        BadDataset: see there; of several datasets all others are made first.
    """
    several = len(source.layouts) > 1
    reports: list[IngestReport] = []
    failed: dict[str, str] = {}  # name of the dataset → why
    refused = source.refused
    for layout in source.layouts:
        own = layout.name if name is None else f"{name}-{layout.name}" if several else name
        if not own:
            raise BadDataset(
                f"'{source.origin}' has no name that a dataset could have. Give one with --name."
            )
        try:
            report = ingest_layout(
                workspace,
                layout,
                own,
                source=source.origin,
                add=add,
                mask_threshold=mask_threshold,
                refused=refused,
                who=who,
                progress=progress,
            )
        except BadDataset as error:
            if not several:
                raise
            failed[own] = str(error)
            continue
        reports.append(report)
        refused = ()  # told once
    if failed:
        taken = ", ".join(f"'{report.version.dataset_name}'" for report in reports) or "none"
        told = "".join(f"\n- '{own}': {error}" for own, error in failed.items())
        raise BadDataset(
            f"{len(failed)} of the {len(source.layouts)} categories of '{source.origin}' were not taken in; those "
            f"taken in: {taken}.{told}"
        )
    return reports
