"""Archives of versions to be downloaded: packed in the background, and kept for a day.

`python -m tuning.exports VERSION_ID` packs a version as a job.
"""

import logging
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from storage import datasets
from storage.atomic_files import TEMPORARY_PREFIX
from storage.records import DatasetVersion, now
from storage.room import RESERVE_BYTES
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tuning import jobs
from tuning.export import export_version
from tuning.jobs import Job, Progress

logger = logging.getLogger(__name__)

MODULE = "tuning.exports"
PREFIX = "export-"  # of the keys of the jobs
KEPT = timedelta(days=1)  # it can be packed again at any time


def archive(settings: Settings, version: DatasetVersion) -> Path:
    """Where the archive of a version lies, once it is packed: what lies there is whole."""
    return settings.exports_folder / f"{version.dataset_name}-version-{version.number}.zip"


def job_key(version_id: int) -> str:
    """Key of the job that packs a version."""
    return f"{PREFIX}{version_id}"


def start_export(workspace: Workspace, version_id: int) -> Job:
    """Pack a version in the background; an archive of it that is there already is kept for another day.

    Raises:
        DiskFull: no room for the job's status.
    """
    sweep(workspace.settings)
    return jobs.start(workspace.settings, job_key(version_id), MODULE, [str(version_id)])


def pack(workspace: Workspace, version_id: int, progress: Progress) -> Any:
    """Pack a version, unless that was done.

    Raises:
        VersionNotFound: there is no such version.
        DiskFull, ExportFailed, BlobMissing: see `tuning.export.export_version`.
    """
    with workspace.session() as session:
        version = datasets.get_version(session, version_id)
    file = archive(workspace.settings, version)
    try:
        os.utime(file)  # a version never changes, so neither does its archive
    except FileNotFoundError:
        export_version(workspace, version, file, reserve_bytes=RESERVE_BYTES, progress=progress)
    return {"file": file.name, "bytes": file.stat().st_size}


def sweep(settings: Settings) -> list[str]:
    """Delete exports that are older than a day, what dead processes left of some, and what was told of their jobs.

    Fails never: what can't go is logged.

    Returns:
        Names of the files that were deleted.
    """
    swept = []
    oldest = (now() - KEPT).timestamp()
    for file in settings.exports_folder.glob("*"):
        try:
            ours = file.suffix in (".zip", ".onnx", ".json") or file.name.startswith(TEMPORARY_PREFIX)
            if ours and file.is_file() and file.stat().st_mtime < oldest:
                file.unlink()
                swept.append(file.name)
        except FileNotFoundError:  # by another process
            continue
        except OSError:
            logger.warning("export can not be removed", extra={"path": str(file)}, exc_info=True)
    jobs.sweep(settings, PREFIX, older_than=KEPT)
    return swept


def main(arguments: Sequence[str]) -> None:
    """Pack a version in this process."""
    (version_id,) = map(int, arguments)
    logging.basicConfig(level=logging.INFO)
    settings = Settings()
    jobs.work(
        settings,
        job_key(version_id),
        lambda progress: pack(open_workspace(settings), version_id, progress),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
