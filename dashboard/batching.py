"""The jobs of batches: `python -m dashboard.batching score ID` and `python -m dashboard.batching pack ID`.

They belong to the dashboard and not to `tuning`, because overlays are drawn here.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from dashboard.overlays import drawer
from storage.settings import Settings
from storage.workspace import open_workspace
from tuning import batches, jobs
from tuning.jobs import Job, Progress

MODULE = "dashboard.batching"
PACKING = "pack-"  # of the keys of the jobs that pack


def start_scoring(settings: Settings, batch_id: str) -> Job:
    """Score a batch in the background, or go on with what is left of it.

    Raises:
        BatchNotFound: there is none.
        DiskFull: no room for the job's status.
    """
    batches.find(settings, batch_id)
    return jobs.start(settings, batches.job_key(batch_id), MODULE, ["score", batch_id])


def start_packing(settings: Settings, batch_id: str) -> Job:
    """Pack everything of a batch in the background.

    Raises:
        BatchNotFound, DiskFull: as `start_scoring`.
    """
    batches.find(settings, batch_id)
    return jobs.start(settings, packing_key(batch_id), MODULE, ["pack", batch_id])


def packing_key(batch_id: str) -> str:
    """Key of the job that packs a batch."""
    return f"{PACKING}{batch_id}"


def main(arguments: Sequence[str]) -> None:
    """Do one of the jobs in this process."""
    verb, batch_id = arguments
    logging.basicConfig(level=logging.INFO)
    settings = Settings()

    def score(progress: Progress) -> Any:
        return batches.score(open_workspace(settings), batches.find(settings, batch_id), progress)

    def pack(progress: Progress) -> Any:
        return batches.pack(open_workspace(settings), batches.find(settings, batch_id), drawer, progress)

    if verb == "score":
        jobs.work(settings, batches.job_key(batch_id), score)
    else:
        jobs.work(settings, packing_key(batch_id), pack)


if __name__ == "__main__":
    main(sys.argv[1:])
