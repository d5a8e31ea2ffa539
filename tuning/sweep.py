"""Removing what processes that were killed left behind."""

import logging
import shutil
import time
from datetime import timedelta

from storage.workspace import Workspace
from tuning import arrivals, exports, jobs

logger = logging.getLogger(__name__)

EXAMINATIONS_KEPT = timedelta(days=7)  # what was told of their jobs; what they found is in the database
OLD_SECONDS = 24 * 3600.0  # younger leftovers may belong to a process that is still at work
LEFTOVERS = (
    "checkpoints/*/.*",
    "maps/study-*",
    "maps/**/.tmp-*",
    "demo-*",
    "blobs/*/.tmp-*",
    "thumbnails/*/.tmp-*",
    "jobs/*/.tmp-*",
    ".tmp-*",
)  # below the installation's folder


def sweep(workspace: Workspace) -> None:
    """Delete temporary files that nobody has touched for a day, old exports, and what arrived and was left for a week.

    Jobs that examined a dataset are forgotten after a week, too.

    Fails never: what can't go is logged.
    """
    workspace.features.sweep()
    try:
        arrivals.sweep(workspace.settings)
    except OSError:
        logger.warning("old uploads can not be removed", exc_info=True)
    exports.sweep(workspace.settings)
    jobs.sweep(workspace.settings, "doctor-", older_than=EXAMINATIONS_KEPT)
    for pattern in LEFTOVERS:
        for path in workspace.settings.home.glob(pattern):
            try:
                if time.time() - path.stat().st_mtime < OLD_SECONDS:
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            except OSError:
                logger.warning("leftover can not be removed", extra={"path": str(path)}, exc_info=True)
