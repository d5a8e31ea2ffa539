"""Scoring many pictures of a dataset in the background, for pages that sort by score: `python -m tuning.scoring`."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from storage import models
from storage.records import ImageRecord, Model
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tuning import batches, jobs
from tuning.batches import BatchPicture
from tuning.jobs import Job, Progress
from tuning.map_cache import map_cache
from tuning.operating_points import added_since, images_of
from tuning.predictor import map_of

ADDED = "added"  # instead of a role: the pictures that the dataset got after the model was made


def pictures_of(
    workspace: Workspace, model: Model, which: str
) -> tuple[ImageRecord, ...] | tuple[BatchPicture, ...]:
    """The pictures of a role of the model's version, those that were added since, or those of a batch.

    Args:
        which: the value of a `Role`, or `ADDED`, or `batches.PREFIX` with the id of a batch.
    Raises:
        BatchNotFound: there is no such batch.
    """
    if which.startswith(batches.PREFIX):
        return batches.results(_batch(workspace, which)).pictures
    if which == ADDED:
        return added_since(workspace, model)
    return tuple(image for image in images_of(workspace, model) if image.role.value == which)


def where(workspace: Workspace, which: str) -> Workspace:
    """The workspace in which these pictures and their maps lie: a batch's, or that of all datasets.

    Raises:
        BatchNotFound: there is no such batch.
    """
    if which.startswith(batches.PREFIX):
        return batches.within(workspace, _batch(workspace, which))
    return workspace


def job_key(model: Model, which: str) -> str:
    """The key of the job that scores these pictures."""
    return f"scores-{model.id}-{which}"


def start(workspace: Workspace, model: Model, which: str) -> Job:
    """Score these pictures in a process of its own; what is scored already stays, so it goes on where it stopped."""
    key = job_key(model, which)
    return jobs.start(workspace.settings, key, "tuning.scoring", [str(model.id), which])


def main(arguments: Sequence[str]) -> None:
    """Score in this process."""
    model_id, which = arguments
    logging.basicConfig(level=logging.INFO)
    os.nice(10)  # studies come first
    settings = Settings()
    workspace = open_workspace(settings)
    with workspace.session() as session:
        model = models.get_model(session, int(model_id))

    def do(progress: Progress) -> Any:
        pictures = pictures_of(workspace, model, which)
        inside = where(workspace, which)
        cache = map_cache(inside, model)
        known = cache.scores(picture.pixel_digest for picture in pictures)
        missing = [picture for picture in pictures if picture.pixel_digest not in known]
        for done, picture in enumerate(missing):
            progress(done, len(missing), f"scoring {picture.name}")
            map_of(inside, model, picture)
        cache.scores(picture.pixel_digest for picture in pictures)
        return {"scored": len(missing)}

    jobs.work(settings, job_key(model, which), do)


def _batch(workspace: Workspace, which: str) -> batches.Batch:
    return batches.find(workspace.settings, which.removeprefix(batches.PREFIX))


if __name__ == "__main__":
    main(sys.argv[1:])
