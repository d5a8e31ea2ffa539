"""What the steps of one running study share."""

from dataclasses import dataclass
from pathlib import Path

from engine.config import SimpleNetConfig
from engine.features import FeatureExtractor
from storage.records import DatasetVersion
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning.lease import Lease
from tuning.pictures import StudyPictures
from tuning.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """A claimed study and everything it runs with."""

    workspace: Workspace
    tracking: Tracking
    lease: Lease
    spec: StudySpec
    version: DatasetVersion
    pictures: StudyPictures
    extractor: FeatureExtractor
    base: SimpleNetConfig  # every trial's configuration but for what is searched
    parent_run_id: str


def head_folder(workspace: Workspace, study_id: int, trial_number: int) -> Path:
    """Where the head of a trial is kept while it is its study's best."""
    return workspace.settings.checkpoints_folder / f"study-{study_id}" / f"trial-{trial_number}"
