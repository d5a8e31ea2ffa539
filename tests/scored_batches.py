"""Batches of pictures for tests: uploaded as a browser would, and scored in the test's own process."""

import io
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
from PIL import Image

from storage import staging
from storage.staging import Limits, Position, Upload
from storage.workspace import Workspace
from tuning import batches, jobs
from tuning.batches import Batch
from tuning.jobs import JobState

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def noise(count: int, height: int = 48, width: int = 64) -> dict[str, bytes]:
    """Files of pictures that differ: '0.png' and so on."""
    draw = np.random.default_rng(0)
    files = {}
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (height, width), dtype=np.uint8)).save(file, "PNG")
        files[f"{number}.png"] = file.getvalue()
    return files


def upload(workspace: Workspace, files: Mapping[str, bytes], dataset: str = "parts") -> Upload:
    """What a browser sends: complete, and meant to be scored."""
    made = staging.create(
        workspace.settings.staging_folder,
        files=[(name, len(data)) for name, data in files.items()],
        dataset=f"{staging.TO_SCORE}{dataset}",
        limits=Limits(max_bytes=1e9, reserve_bytes=0),
        now=NOW,
    )
    for place, data in enumerate(files.values()):
        staging.append(made, Position(place, 0), place, data)
    return staging.complete(made, NOW)


def score(workspace: Workspace, batch: Batch) -> None:
    """Do the job that scores a batch."""
    key = batches.job_key(batch.id)
    jobs.work(workspace.settings, key, lambda progress: batches.score(workspace, batch, progress))


def scored_batch(workspace: Workspace, files: Mapping[str, bytes]) -> Batch:
    """A batch that the champion of `parts` has scored."""
    batch = batches.from_upload(workspace, "parts", upload(workspace, files).id, who="tester")
    score(workspace, batch)
    job = jobs.status(workspace.settings, batches.job_key(batch.id))
    assert job is not None
    assert job.state is JobState.DONE, job.error
    return batch
