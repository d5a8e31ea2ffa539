"""Removing what processes that were killed left behind."""

import logging
import shutil
import time
from datetime import timedelta

from storage.errors import StorageError
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning import arrivals, candidates, exports, jobs, model_exports
from tuning.champion import settle_aliases

logger = logging.getLogger(__name__)

JOBS_KEPT = timedelta(days=7)  # what was told of them; what came of them lies elsewhere
OLD_SECONDS = 24 * 3600.0  # younger leftovers may belong to a process that is still at work
LEFTOVERS = (
    "checkpoints/*/.*",
    "maps/study-*",
    "maps/**/.tmp-*",
    "demo-*",
    "export-*",
    "thumbnails/*/.tmp-*",
    "jobs/*/.tmp-*",
    ".tmp-*",
)  # below the installation's folder


def sweep(workspace: Workspace) -> None:
    """Delete temporary files that nobody has touched for a day, old exports, and what arrived and was left for a week.

    Jobs that examined a dataset, made a candidate or exported a model are forgotten after a week, too.

    Fails never: what can't go is logged.
    """
    workspace.features.sweep()
    try:
        arrivals.sweep(workspace.settings)
    except OSError:
        logger.warning("old uploads can not be removed", exc_info=True)
    exports.sweep(workspace.settings)
    try:
        settle_aliases(workspace, Tracking(workspace.settings))
    except StorageError:
        logger.warning("MLflow's champions can not be compared with the record", exc_info=True)
    for prefix in ("doctor-", candidates.PREFIX, model_exports.PREFIX):
        jobs.sweep(workspace.settings, prefix, older_than=JOBS_KEPT)
    for folder, pattern in (
        (workspace.blobs.folder, "*/.tmp-*"),
        *((workspace.settings.home, pattern) for pattern in LEFTOVERS),
    ):
        for path in folder.glob(pattern):
            try:
                if time.time() - path.stat().st_mtime < OLD_SECONDS:
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            except OSError:
                logger.warning("leftover can not be removed", extra={"path": str(path)}, exc_info=True)
