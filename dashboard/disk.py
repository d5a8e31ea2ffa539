"""What an installation takes on disk, by kind."""

import os
from pathlib import Path

from storage.settings import Settings


def usage(settings: Settings) -> dict[str, int]:
    """Kind → bytes, the largest first, and the total last."""
    folders = {
        "Copies of pictures" if settings.blobs_in_bucket else "Pictures and masks": settings.blobs_folder,
        "Features": settings.features_folder,
        "Models and run artifacts": settings.artifacts_folder,
        "Checkpoints": settings.checkpoints_folder,
        "Anomaly maps": settings.maps_folder,
        "Thumbnails": settings.thumbnails_folder,
        "Uploads in progress": settings.staging_folder,
        "Exports": settings.exports_folder,
        "Scored batches": settings.batches_folder,
        "Logs": settings.logs_folder,
    }
    found = {kind: _bytes_below(folder) for kind, folder in folders.items()}
    found["Databases"] = sum(file.stat().st_size for file in settings.home.glob("*.db*"))
    ordered = dict(sorted(found.items(), key=lambda item: -item[1]))
    return {**ordered, "Total": sum(ordered.values())}


def _bytes_below(folder: Path) -> int:
    """Sum of the sizes of all files; those that vanish meanwhile count nothing."""
    total = 0
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += _size(entry)
        except FileNotFoundError:
            continue
    return total


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0
