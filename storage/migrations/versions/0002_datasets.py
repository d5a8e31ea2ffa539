"""Corrections of datasets: names and changes of versions, what was left out, measures, findings, deletion."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns and tables."""
    op.add_column("datasets", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("dataset_versions", sa.Column("title", sa.Text(), nullable=True))
    op.add_column("dataset_versions", sa.Column("change", sa.Text(), nullable=True))
    op.add_column("dataset_versions", sa.Column("who", sa.Text(), nullable=True))
    op.create_table(
        "ingests",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["dataset_versions.id"], name="fk_ingests_version_id"),
        sa.PrimaryKeyConstraint("version_id", name="pk_ingests"),
    )
    op.create_table(
        "measures",
        sa.Column("pixel_digest", sa.String(length=64), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("pixel_digest", name="pk_measures"),
    )
    op.create_table(
        "edits",
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("pixel_digest", sa.String(length=64), nullable=False),
        sa.Column("edit", sa.JSON(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_edits_dataset_id"),
        sa.PrimaryKeyConstraint("dataset_id", "pixel_digest", name="pk_edits"),
    )
    op.create_table(
        "checkups",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("findings", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["dataset_versions.id"], name="fk_checkups_version_id"),
        sa.PrimaryKeyConstraint("version_id", name="pk_checkups"),
    )
    op.create_table(
        "accepted",
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("finding", sa.String(length=63), nullable=False),
        sa.Column("subject", sa.String(length=129), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_accepted_dataset_id"),
        sa.PrimaryKeyConstraint("dataset_id", "finding", "subject", name="pk_accepted"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_events_dataset_id"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_dataset_id", "events", ["dataset_id"], unique=False)
