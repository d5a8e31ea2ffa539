"""Thresholds chosen for models, and what people said of pictures while looking at heatmaps."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "operating_points",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("restores_id", sa.Integer(), nullable=True),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_operating_points_model_id"),
        sa.ForeignKeyConstraint(
            ["restores_id"], ["operating_points.id"], name="fk_operating_points_restores_id"
        ),
        sa.CheckConstraint(
            "source IN ('calibration', 'false_reject', 'cost', 'f1', 'value')",
            name="ck_operating_points_source",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_operating_points"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_operating_points_model_id", "operating_points", ["model_id"], unique=False)
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("pixel_digest", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=16), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=True),
        sa.Column("before", sa.JSON(), nullable=False),
        sa.Column("after", sa.JSON(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=True),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_reviews_dataset_id"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_reviews_model_id"),
        sa.ForeignKeyConstraint(["version_id"], ["dataset_versions.id"], name="fk_reviews_version_id"),
        sa.CheckConstraint("label IN ('normal', 'anomalous')", name="ck_reviews_label"),
        sa.PrimaryKeyConstraint("id", name="pk_reviews"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_reviews_dataset_id", "reviews", ["dataset_id"], unique=False)
