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
from tuning import jobs
from tuning.jobs import Job, Progress
from tuning.map_cache import map_cache
from tuning.operating_points import added_since, images_of
from tuning.predictor import map_of
from tuning.uploaded import UploadedPicture, find_set

ADDED = "added"  # instead of a role: the pictures that the dataset got after the model was made
UPLOADED = "uploaded-"  # and the id of a set: pictures of no dataset


def pictures_of(
    workspace: Workspace, model: Model, which: str
) -> tuple[ImageRecord, ...] | tuple[UploadedPicture, ...]:
    """The pictures of a role of the model's version, those that were added since, or a set of uploaded ones.

    Args:
        which: the value of a `Role`, or `ADDED`, or `UPLOADED` with an id.
    Raises:
        BadPicture: there is no such set.
    """
    if which.startswith(UPLOADED):
        return find_set(workspace, model, which.removeprefix(UPLOADED)).pictures
    if which == ADDED:
        return added_since(workspace, model)
    return tuple(image for image in images_of(workspace, model) if image.role.value == which)


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
        cache = map_cache(workspace, model)
        known = cache.scores(picture.pixel_digest for picture in pictures)
        missing = [picture for picture in pictures if picture.pixel_digest not in known]
        for done, picture in enumerate(missing):
            progress(done, len(missing), f"scoring {picture.name}")
            map_of(workspace, model, picture)
        cache.scores(picture.pixel_digest for picture in pictures)
        return {"scored": len(missing)}

    jobs.work(settings, job_key(model, which), do)


if __name__ == "__main__":
    main(sys.argv[1:])
