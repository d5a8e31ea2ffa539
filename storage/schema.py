"""Tables of our database, and nothing about how they are used.

Every rule that the database can hold by itself stands here as a constraint: one role per picture of a
version, one champion per dataset, a lease exactly while a study runs. Constraints are named by convention,
so that migrations can address them on every backend. `migrations/` must lead to exactly this schema; a test
compares them.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from storage.records import Label, ModelState, PromotionRule, Role, StudyState, ThresholdSource, Wanted

DIGEST_LENGTH = 64  # SHA-256 in hex
NAME_LENGTH = 63  # of a dataset: what a DNS label and an MLflow model name allow
ENUM_LENGTH = 16

_E = TypeVar("_E", bound=StrEnum)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, always timezone-aware UTC in Python.

    SQLite has no type for it and would silently drop the offset: what is stored there is UTC without one.
    Binding a naive datetime raises ValueError, because nobody can know which moment it means.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; without offset where the backend knows none."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(
                f"datetime {value.isoformat()} has no timezone; pass storage.records.now() or any aware one"
            )
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Back to timezone-aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _enum(enum: type[_E], name: str) -> Enum:
    # Text with a check constraint, because PostgreSQL's own enums can't lose a value in a migration.
    return Enum(
        enum,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=ENUM_LENGTH,
        values_callable=lambda members: [member.value for member in members],
    )


class Base(DeclarativeBase):
    """Common ground of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy declares it so)
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(),
        Role: _enum(Role, "role"),
        Label: _enum(Label, "label"),
        StudyState: _enum(StudyState, "state"),
        Wanted: _enum(Wanted, "wanted"),
        ModelState: _enum(ModelState, "state"),
        ThresholdSource: _enum(ThresholdSource, "source"),
        PromotionRule: _enum(PromotionRule, "rule"),
    }


# Without it SQLite gives the id of a deleted last row to the next one; an old link would show another study.
_IDS_ARE_NEVER_REUSED = {"sqlite_autoincrement": True}


class DatasetRow(Base):
    """Pictures of one product."""

    __tablename__ = "datasets"
    __table_args__ = _IDS_ARE_NEVER_REUSED

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]  # set aside; nothing of it is lost until it is restored


class VersionRow(Base):
    """An immutable state of a dataset; its counts are kept because its images never change."""

    __tablename__ = "dataset_versions"
    __table_args__ = (
        UniqueConstraint("dataset_id", "number"),
        CheckConstraint("number > 0", name="number"),
        CheckConstraint("mask_count >= 0", name="mask_count"),
        _IDS_ARE_NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    source: Mapped[str] = mapped_column(Text)
    source_split: Mapped[bool]
    created_at: Mapped[datetime]
    counts: Mapped[dict[str, Any]]  # {role: {label: number of images}}
    mask_count: Mapped[int]
    title: Mapped[str | None] = mapped_column(
        Text
    )  # what people call it; the one thing of it that may change
    change: Mapped[str | None] = mapped_column(Text)  # what it changed in the version before it, for people
    who: Mapped[str | None] = mapped_column(Text)

    dataset: Mapped[DatasetRow] = relationship(lazy="joined", innerjoin=True)


class ImageRow(Base):
    """One image of a version."""

    __tablename__ = "images"
    __table_args__ = (
        # One picture has one role by construction, under however many file names it came.
        UniqueConstraint("version_id", "pixel_digest"),
        CheckConstraint("height > 0 AND width > 0", name="size"),
        CheckConstraint("label = 'normal' OR role IN ('validation', 'test')", name="anomalous_is_held_out"),
        CheckConstraint("label = 'anomalous' OR defect_type IS NULL", name="normal_has_no_defect"),
        _IDS_ARE_NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("dataset_versions.id"))
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    pixel_digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    name: Mapped[str] = mapped_column(Text)
    height: Mapped[int]
    width: Mapped[int]
    role: Mapped[Role]
    label: Mapped[Label]
    defect_type: Mapped[str | None] = mapped_column(Text)
    mask_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))


class IngestRow(Base):
    """What reading the pictures of a version left out, and what a person should know of those that it took."""

    __tablename__ = "ingests"

    version_id: Mapped[int] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True)
    report: Mapped[dict[str, Any]]


class MeasuresRow(Base):
    """What was measured on a picture when it was read; true of its pixels, in whatever dataset they stand."""

    __tablename__ = "measures"

    pixel_digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH), primary_key=True)
    values: Mapped[dict[str, Any]]
    signature: Mapped[bytes]  # a small grey copy, by which copies of a picture are found


class EditRow(Base):
    """A correction of one picture that waits to become part of the next version."""

    __tablename__ = "edits"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    pixel_digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH), primary_key=True)
    edit: Mapped[dict[str, Any]]
    who: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class CheckupRow(Base):
    """What the dataset doctor found in a version."""

    __tablename__ = "checkups"

    version_id: Mapped[int] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True)
    findings: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class AcceptedRow(Base):
    """A finding that a person has accepted for a picture, in all versions of the dataset."""

    __tablename__ = "accepted"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    finding: Mapped[str] = mapped_column(String(NAME_LENGTH), primary_key=True)
    subject: Mapped[str] = mapped_column(String(2 * DIGEST_LENGTH + 1), primary_key=True)
    who: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class EventRow(Base):
    """What somebody did to a dataset, kept for ever."""

    __tablename__ = "events"
    __table_args__ = _IDS_ARE_NEVER_REUSED

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), index=True)
    who: Mapped[str] = mapped_column(Text)
    what: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class StudyRow(Base):
    """A search, and the lease of the worker that runs it."""

    __tablename__ = "studies"
    __table_args__ = (
        CheckConstraint("attempt >= 0", name="attempt"),
        CheckConstraint(
            "(state = 'running' AND worker_id IS NOT NULL AND lease_until IS NOT NULL)"
            " OR (state != 'running' AND worker_id IS NULL AND lease_until IS NULL)",
            name="lease_while_running",
        ),
        CheckConstraint(
            "(state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="finished_at"
        ),
        Index(None, "state", "wanted"),
        _IDS_ARE_NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    dataset_version_id: Mapped[int] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    state: Mapped[StudyState]
    wanted: Mapped[Wanted]
    spec: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    attempt: Mapped[int]
    worker_id: Mapped[str | None] = mapped_column(Text)  # no foreign key: a worker's row goes when it ends
    lease_until: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)
    parent_run_id: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[dict[str, Any]]
    priority: Mapped[int] = mapped_column(server_default="0")  # higher is claimed first, then the older
    archived_at: Mapped[datetime | None]  # left out of lists; nothing of it is lost
    beats: Mapped[int] = mapped_column(
        default=0
    )  # heartbeats so far; one number for long: its worker is dead
    slots: Mapped[int] = mapped_column(default=0)  # trials of the budget that were handed out so far
    open: Mapped[bool] = mapped_column(default=False)  # prepared: other workers may take trials of it

    version: Mapped[VersionRow] = relationship(lazy="joined", innerjoin=True)


class TrialSlotRow(Base):
    """One trial of a study's budget while it is not done: with a worker, or given back to be taken again."""

    __tablename__ = "trial_slots"
    __table_args__ = (
        UniqueConstraint("study_id", "number"),
        CheckConstraint("worker_id IS NOT NULL OR trial_number IS NULL", name="trial_while_held"),
        _IDS_ARE_NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    number: Mapped[int]  # from 1 within the study
    worker_id: Mapped[str | None] = mapped_column(Text)  # None: free
    attempt: Mapped[int]  # how often it was taken: the fence of its writes
    beats: Mapped[int]
    trial_number: Mapped[int | None]  # Optuna's, once its holder has begun it
    progress: Mapped[dict[str, Any]]


class WorkerRow(Base):
    """A process that runs studies; its row goes when it ends in good order."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    hostname: Mapped[str] = mapped_column(Text)
    pid: Mapped[int]
    device: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    study_id: Mapped[int | None] = mapped_column(ForeignKey("studies.id", ondelete="SET NULL"))
    threads: Mapped[int | None]  # of the processor that its training uses
    trial_number: Mapped[int | None]  # that it trains, Optuna's


class StudyLogRow(Base):
    """The end of what a worker logged of a study; it stays when the worker ends."""

    __tablename__ = "study_logs"

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), primary_key=True)
    worker_id: Mapped[str] = mapped_column(Text, primary_key=True)
    hostname: Mapped[str] = mapped_column(Text)
    entries: Mapped[list[Any]] = mapped_column(JSON)  # [seconds since 1970, text], the latest last
    written_at: Mapped[datetime]


class ModelRow(Base):
    """A trained model registered in MLflow."""

    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("dataset_id", "version"),
        CheckConstraint("state != 'champion' OR promoted_at IS NOT NULL", name="champion_was_promoted"),
        Index(
            "uq_models_champion",
            "dataset_id",
            unique=True,
            sqlite_where=text("state = 'champion'"),
            postgresql_where=text("state = 'champion'"),
        ),
        _IDS_ARE_NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    dataset_version_id: Mapped[int] = mapped_column(ForeignKey("dataset_versions.id"))
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    trial_number: Mapped[int]
    run_id: Mapped[str] = mapped_column(Text)
    version: Mapped[int]
    state: Mapped[ModelState]
    config: Mapped[dict[str, Any]]
    figures: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    promoted_at: Mapped[datetime | None]

    dataset: Mapped[DatasetRow] = relationship(lazy="joined", innerjoin=True)


class PromotionRow(Base):
    """A change of champion, kept for ever."""

    __tablename__ = "promotions"
    __table_args__ = _IDS_ARE_NEVER_REUSED

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), index=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    replaced_model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id"))
    who: Mapped[str] = mapped_column(Text)
    why: Mapped[str] = mapped_column(Text)
    figures: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime]

    dataset: Mapped[DatasetRow] = relationship(lazy="joined", innerjoin=True)


class PromotionPolicyRow(Base):
    """Whether the studies of a dataset may promote; the default holds for a dataset without a row."""

    __tablename__ = "promotion_policies"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    rule: Mapped[PromotionRule]
    who: Mapped[str] = mapped_column(Text)
    set_at: Mapped[datetime]


class SealedReadingRow(Base):
    """One look at the sealed test images, kept for ever."""

    __tablename__ = "test_readings"
    __table_args__ = _IDS_ARE_NEVER_REUSED

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_version_id: Mapped[int] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    trial_number: Mapped[int]
    run_id: Mapped[str | None] = mapped_column(Text)
    figures: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]

    version: Mapped[VersionRow] = relationship(lazy="joined", innerjoin=True)


class ApiKeyRow(Base):
    """A key of the model server; of the key itself only its digest is kept."""

    __tablename__ = "api_keys"
    __table_args__ = (
        Index(
            "uq_api_keys_name_in_use",
            "name",
            unique=True,
            sqlite_where=text("revoked_at IS NULL"),
            postgresql_where=text("revoked_at IS NULL"),
        ),
        _IDS_ARE_NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH), unique=True)
    hint: Mapped[str] = mapped_column(String(ENUM_LENGTH))  # how it begins
    who: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class OperatingPointRow(Base):
    """A threshold chosen for a model, kept for ever; the newest one of a model counts."""

    __tablename__ = "operating_points"
    __table_args__ = _IDS_ARE_NEVER_REUSED

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), index=True)
    threshold: Mapped[float]
    source: Mapped[ThresholdSource]
    parameters: Mapped[dict[str, Any]]
    figures: Mapped[dict[str, Any]]
    restores_id: Mapped[int | None] = mapped_column(ForeignKey("operating_points.id"))
    who: Mapped[str] = mapped_column(Text)
    why: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class ReviewRow(Base):
    """What a person said of a picture while looking at heatmaps."""

    __tablename__ = "reviews"
    __table_args__ = _IDS_ARE_NEVER_REUSED

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), index=True)
    pixel_digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    label: Mapped[Label]
    model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id"))
    before: Mapped[dict[str, Any]]  # the waiting correction before, empty for none
    after: Mapped[dict[str, Any]]  # and afterwards
    version_id: Mapped[int | None] = mapped_column(ForeignKey("dataset_versions.id"))
    who: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
