"""Plain values that storage hands out: frozen, without a session behind them, safe to keep and to pass on.

All datetimes are timezone-aware UTC. All mappings are to be read, never written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


def now() -> datetime:
    """The present moment in UTC; the one clock of production code, passed in wherever time matters."""
    return datetime.now(UTC)


class Role(StrEnum):
    """What an image of a dataset version is used for; fixed when the version is made."""

    TRAIN = "train"
    """Normal images that the adaptor and the discriminator are fitted on."""
    CALIBRATION = "calibration"
    """Normal images never trained on, for thresholds and the scale of scores."""
    VALIDATION = "validation"
    """Normal images and labelled defects that every choice of a study is made on."""
    TEST = "test"
    """Normal images and labelled defects, sealed: read once for a champion candidate."""


class Label(StrEnum):
    """Whether the part on an image is as it should be."""

    NORMAL = "normal"
    """Nothing on it should be rejected."""
    ANOMALOUS = "anomalous"
    """It shows a defect; `defect_type` says which kind, where known."""


@dataclass(frozen=True, kw_only=True)
class NewImage:
    """One image of a version that is about to be made."""

    digest: str  # SHA-256 (hex) of the file's bytes: the key of its blob
    pixel_digest: str  # SHA-256 (hex) of shape and pixels: equal for one picture in two files
    name: str  # where it came from, for people: "test/scratch/007.png"
    height: int  # pixels
    width: int  # pixels
    role: Role
    label: Label
    defect_type: str | None = None  # None for normal images and for anomalies of unknown kind
    mask_digest: str | None = None  # key of the ground truth's blob; None where there is none


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """One image of a dataset version."""

    id: int
    digest: str  # SHA-256 (hex) of the file's bytes: the key of its blob
    pixel_digest: str  # SHA-256 (hex) of shape and pixels
    name: str
    height: int  # pixels
    width: int  # pixels
    role: Role
    label: Label
    defect_type: str | None
    mask_digest: str | None


@dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """An immutable state of a dataset."""

    id: int
    dataset_id: int
    dataset_name: str
    number: int  # counts from 1 within the dataset
    digest: str  # SHA-256 (hex) over all that its images' rows say, whatever their order
    source: str  # where the pictures came from, for people
    source_split: bool  # the source said itself what is for training and what for testing
    created_at: datetime
    counts: Mapping[Role, Mapping[Label, int]]  # every role and label is a key, with 0 where there is none
    mask_count: int  # images with a ground-truth mask
    title: str | None  # what people call it
    change: str | None  # what it changed in the version before it, in words
    who: str | None  # made it; None for what older programs made

    def count(self, *, role: Role | None = None, label: Label | None = None) -> int:
        """Number of images, of one role or label where given."""
        return sum(
            number
            for of_role, labels in self.counts.items()
            for of_label, number in labels.items()
            if role in (None, of_role) and label in (None, of_label)
        )

    @property
    def has_defects(self) -> bool:
        """Whether any image is labelled anomalous; if not, studies judge by synthetic defects."""
        return self.count(label=Label.ANOMALOUS) > 0

    @property
    def has_masks(self) -> bool:
        """Whether any image has a ground-truth mask; if not, pixel figures don't exist."""
        return self.mask_count > 0


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Pictures of one product."""

    id: int
    name: str
    created_at: datetime
    latest: DatasetVersion | None
    deleted_at: datetime | None  # set aside by a person, to be restored or forgotten


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A picture that did not become part of a version."""

    name: str  # relative to where it came from
    reason: str


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something to know of a picture that was taken all the same."""

    pixel_digest: str
    kind: str  # empty mask, scaled mask, grey mask
    text: str


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """What came of reading the pictures of a version, besides the version."""

    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[Remark, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A correction of one picture that waits to become part of the next version; None leaves a thing as it is."""

    pixel_digest: str
    label: Label | None = None
    defect_type: str | None = None  # of a picture that `label` makes or leaves anomalous
    mask_digest: str | None = None  # "" takes the mask away
    remove: bool = False


@dataclass(frozen=True, kw_only=True)
class Event:
    """What somebody did to a dataset."""

    dataset_name: str
    who: str
    what: str
    created_at: datetime


class StudyState(StrEnum):
    """Where a study is in its life."""

    QUEUED = "queued"
    """It waits for a worker."""
    RUNNING = "running"
    """A worker holds its lease; when the lease runs out, another may take it."""
    PAUSED = "paused"
    """No worker holds it, by a person's wish, until its wanted state is `run` again."""
    COMPLETED = "completed"
    """All its trials were run."""
    FAILED = "failed"
    """It stopped by itself; `error` says why."""
    CANCELLED = "cancelled"
    """A person ended it before all its trials were run."""

    @property
    def finished(self) -> bool:
        """Whether no worker will ever touch the study again."""
        return self in (StudyState.COMPLETED, StudyState.FAILED, StudyState.CANCELLED)


class Wanted(StrEnum):
    """What a person wants of a study; its worker reads it at every heartbeat."""

    RUN = "run"
    """Go on."""
    PAUSE = "pause"
    """Stop after the present step, keeping what is done."""
    CANCEL = "cancel"
    """Stop after the present step, for good."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A search for the best model of a dataset version."""

    id: int
    name: str
    dataset_name: str
    dataset_version_id: int
    state: StudyState
    wanted: Wanted
    spec: Mapping[str, Any]  # what to search, as tuning wrote it
    created_at: datetime
    started_at: datetime | None  # first claim
    finished_at: datetime | None
    attempt: int  # claims so far; the fence that keeps a worker that lost its lease from writing
    worker_id: str | None  # who holds the lease
    lease_until: datetime | None
    error: str | None
    parent_run_id: str | None  # MLflow run above the runs of its trials
    progress: Mapping[str, Any]  # what its worker last said of itself
    priority: int = 0  # higher is claimed first, then the older
    archived_at: datetime | None = None  # left out of lists since


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A process that runs studies."""

    id: str
    hostname: str
    pid: int
    device: str
    started_at: datetime
    heartbeat_at: datetime
    study_id: int | None  # what it works on
    threads: int | None = None  # of the processor that its training uses; None: not told
    trial_number: int | None = None  # that it trains, Optuna's


@dataclass(frozen=True, kw_only=True)
class TrialSlot:
    """One trial of a study's budget that is not done: a worker has it, or it was given back."""

    id: int
    study_id: int
    number: int  # from 1 within the study
    worker_id: str | None  # None: free
    attempt: int  # how often it was taken; the fence of its holder's writes
    trial_number: int | None  # Optuna's, once its holder has begun it
    progress: Mapping[str, Any]  # what its holder last said: epoch, epochs, device


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """What a worker logged of a study at one moment."""

    at: datetime  # by the worker's clock
    worker_id: str
    hostname: str  # where the worker runs, as `Worker` has it
    text: str  # one line or several


class ModelState(StrEnum):
    """Whether a model serves."""

    CANDIDATE = "candidate"
    """It could serve."""
    CHAMPION = "champion"
    """It serves; each dataset has at most one."""
    RETIRED = "retired"
    """It served once."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model that is registered in MLflow."""

    id: int
    dataset_name: str
    dataset_version_id: int
    study_id: int
    trial_number: int
    run_id: str  # MLflow run
    version: int  # MLflow's number of it under the dataset's registered model
    state: ModelState
    config: Mapping[str, Any]  # the SimpleNetConfig it was trained with
    figures: Mapping[str, Any]  # figures of merit, validation and test
    created_at: datetime
    promoted_at: datetime | None  # last promotion


class ThresholdSource(StrEnum):
    """How a model's threshold was chosen."""

    CALIBRATION = "calibration"
    """By the study that made the model, on its calibration pictures."""
    FALSE_REJECT = "false_reject"
    """By a wanted false-reject rate, on the calibration pictures."""
    COST = "cost"
    """By what an escape and a false reject cost, on the validation pictures."""
    F1 = "f1"
    """By the highest F1 on the validation pictures."""
    VALUE = "value"
    """By a person, as a number."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """The threshold that a model decides with from a moment on; the newest one counts."""

    id: int | None  # None for what the model was made with, while nobody has chosen another one
    model_id: int
    threshold: float  # a picture with a higher score is rejected
    source: ThresholdSource
    parameters: Mapping[str, Any]  # what was wished: a rate, costs and a defect rate
    figures: Mapping[str, Any]  # what followed of it for known pictures when it was set, by role
    who: str
    why: str
    created_at: datetime
    restores_id: int | None  # the earlier point that it went back to


@dataclass(frozen=True, kw_only=True)
class Review:
    """A person's word on a picture: that the part on it is fine, or that it has a defect."""

    id: int
    pixel_digest: str
    label: Label
    model_id: int | None  # whose heatmap the person looked at
    before: Edit | None  # the correction that waited before
    after: Edit | None  # the one that waited afterwards; None where the picture was labelled so already
    who: str
    created_at: datetime
    version_id: int | None  # of the dataset, that it became part of; None while it can be undone


class PromotionRule(StrEnum):
    """Who makes a study's model the champion of its dataset."""

    MANUAL = "manual"
    """A person, always; also the first one."""
    AUTOMATIC = "automatic"
    """The study, where its model is better on validation and not clearly worse on the sealed test."""


@dataclass(frozen=True, kw_only=True)
class PromotionPolicy:
    """The rule of a dataset, and who set it."""

    rule: PromotionRule
    who: str | None  # None: nobody has set it, the default holds
    set_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A change of champion: who, when, why, and what it replaced."""

    id: int
    model_id: int
    dataset_name: str
    who: str
    why: str
    created_at: datetime
    replaced_model_id: int | None
    figures: Mapping[str, Any] | None  # what both were worth then; None for what older programs recorded


@dataclass(frozen=True, kw_only=True)
class SealedReading:
    """One look at the sealed test images: every one is recorded, because each makes them less sealed."""

    id: int
    dataset_name: str
    dataset_version_id: int
    study_id: int
    trial_number: int
    run_id: str | None
    figures: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key of the model server, without what must stay secret."""

    id: int
    name: str
    hint: str  # how it begins, to tell keys apart
    who: str  # made it
    created_at: datetime
    last_used_at: datetime | None  # to about half a minute
    revoked_at: datetime | None  # from then on it opens nothing
