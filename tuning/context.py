"""What the steps of one running study share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from engine.backbones.resolve import Backbone
from engine.config import SimpleNetConfig
from engine.features import FeatureExtractor
from storage.outbox import PatientTracking
from storage.records import DatasetVersion, Study
from storage.settings import Settings
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning.lease import Lease
from tuning.pictures import StudyPictures
from tuning.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class ReadyBackbone:
    """A backbone of a study as the machine that computes has it."""

    backbone: Backbone
    stages: tuple[int, ...]  # that its features are kept of
    base: SimpleNetConfig  # every trial's configuration on it but for what is searched
    device: str
    surroundings: Mapping[str, str]  # what a result's last digits depend on


@dataclass(frozen=True, kw_only=True)
class StudySetup:
    """All that computing for a study needs to know; plain values, for it is sent to another process."""

    settings: Settings
    study_id: int
    spec: StudySpec
    version: DatasetVersion
    pictures: StudyPictures
    backbones: Mapping[str, Backbone]  # by the name that the specification gives


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """A study that this worker leads or helps with, and everything it runs with."""

    workspace: Workspace
    tracking: PatientTracking
    lease: Lease
    spec: StudySpec
    version: DatasetVersion
    pictures: StudyPictures
    backbones: Mapping[str, ReadyBackbone]  # by the name that the specification gives
    parent_run_id: str

    def backbone_of(self, params: Mapping[str, Any]) -> ReadyBackbone:
        """The backbone that a point of the search space names; the only one where there is one."""
        return self.backbones[str(params.get("backbone", self.spec.backbone))]


class Holder(Protocol):
    """Whoever holds a study, as seen by what is done for it."""

    @property
    def study(self) -> Study:
        """The study."""
        ...

    @property
    def hold(self) -> dict[str, Any]:
        """What every fenced write to the study names."""
        ...

    def check(self) -> None:
        """Unwind if it should not go on."""
        ...

    def report(self, progress: Mapping[str, Any], *, at_once: bool = False) -> None:
        """Show how far it is. Also checks."""
        ...


@dataclass(frozen=True, kw_only=True)
class CandidateContext:
    """What it takes to make a champion candidate of a study's best trial, where the computing is done."""

    workspace: Workspace
    tracking: Tracking
    lease: Holder
    spec: StudySpec
    version: DatasetVersion
    pictures: StudyPictures
    extractor: FeatureExtractor
