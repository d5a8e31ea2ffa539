"""Datasets, studies, workers, models and their history."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "datasets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
        sa.UniqueConstraint("name", name="uq_datasets_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "dataset_versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_split", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("mask_count", sa.Integer(), nullable=False),
        sa.CheckConstraint("mask_count >= 0", name="ck_dataset_versions_mask_count"),
        sa.CheckConstraint("number > 0", name="ck_dataset_versions_number"),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_dataset_versions_dataset_id"),
        sa.PrimaryKeyConstraint("id", name="pk_dataset_versions"),
        sa.UniqueConstraint("dataset_id", "number", name="uq_dataset_versions_dataset_id_number"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "images",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("pixel_digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("label", sa.String(length=16), nullable=False),
        sa.Column("defect_type", sa.Text(), nullable=True),
        sa.Column("mask_digest", sa.String(length=64), nullable=True),
        sa.CheckConstraint(
            "label = 'anomalous' OR defect_type IS NULL", name="ck_images_normal_has_no_defect"
        ),
        sa.CheckConstraint(
            "label = 'normal' OR role IN ('validation', 'test')", name="ck_images_anomalous_is_held_out"
        ),
        sa.CheckConstraint("height > 0 AND width > 0", name="ck_images_size"),
        sa.ForeignKeyConstraint(["version_id"], ["dataset_versions.id"], name="fk_images_version_id"),
        sa.CheckConstraint("role IN ('train', 'calibration', 'validation', 'test')", name="ck_images_role"),
        sa.CheckConstraint("label IN ('normal', 'anomalous')", name="ck_images_label"),
        sa.PrimaryKeyConstraint("id", name="pk_images"),
        sa.UniqueConstraint("version_id", "pixel_digest", name="uq_images_version_id_pixel_digest"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dataset_version_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("wanted", sa.String(length=16), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("parent_run_id", sa.Text(), nullable=True),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.CheckConstraint(
            "(state = 'running' AND worker_id IS NOT NULL AND lease_until IS NOT NULL)"
            " OR (state != 'running' AND worker_id IS NULL AND lease_until IS NULL)",
            name="ck_studies_lease_while_running",
        ),
        sa.CheckConstraint(
            "(state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name="ck_studies_finished_at",
        ),
        sa.CheckConstraint("attempt >= 0", name="ck_studies_attempt"),
        sa.ForeignKeyConstraint(
            ["dataset_version_id"], ["dataset_versions.id"], name="fk_studies_dataset_version_id"
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'paused', 'completed', 'failed', 'cancelled')",
            name="ck_studies_state",
        ),
        sa.CheckConstraint("wanted IN ('run', 'pause', 'cancel')", name="ck_studies_wanted"),
        sa.PrimaryKeyConstraint("id", name="pk_studies"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_studies_dataset_version_id", "studies", ["dataset_version_id"], unique=False)
    op.create_index("ix_studies_state_wanted", "studies", ["state", "wanted"], unique=False)
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("dataset_version_id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("trial_number", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state != 'champion' OR promoted_at IS NOT NULL", name="ck_models_champion_was_promoted"
        ),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_models_dataset_id"),
        sa.ForeignKeyConstraint(
            ["dataset_version_id"], ["dataset_versions.id"], name="fk_models_dataset_version_id"
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_models_study_id"),
        sa.CheckConstraint("state IN ('candidate', 'champion', 'retired')", name="ck_models_state"),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("dataset_id", "version", name="uq_models_dataset_id_version"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "uq_models_champion",
        "models",
        ["dataset_id"],
        unique=True,
        sqlite_where=sa.text("state = 'champion'"),
        postgresql_where=sa.text("state = 'champion'"),
    )
    op.create_table(
        "test_readings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dataset_version_id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("trial_number", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_version_id"], ["dataset_versions.id"], name="fk_test_readings_dataset_version_id"
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_test_readings_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_test_readings"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_test_readings_dataset_version_id", "test_readings", ["dataset_version_id"], unique=False
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name="fk_workers_study_id", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "promotions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("replaced_model_id", sa.Integer(), nullable=True),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_promotions_dataset_id"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_promotions_model_id"),
        sa.ForeignKeyConstraint(["replaced_model_id"], ["models.id"], name="fk_promotions_replaced_model_id"),
        sa.PrimaryKeyConstraint("id", name="pk_promotions"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_promotions_dataset_id", "promotions", ["dataset_id"], unique=False)
