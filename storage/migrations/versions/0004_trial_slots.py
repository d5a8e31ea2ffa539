"""Trials of one study on several workers: slots of its budget, and heartbeats that are counted."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns and the table; studies that were begun before have handed out nothing yet."""
    op.add_column("studies", sa.Column("beats", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("studies", sa.Column("slots", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("studies", sa.Column("open", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("workers", sa.Column("threads", sa.Integer(), nullable=True))
    op.add_column("workers", sa.Column("trial_number", sa.Integer(), nullable=True))
    op.create_table(
        "trial_slots",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("beats", sa.Integer(), nullable=False),
        sa.Column("trial_number", sa.Integer(), nullable=True),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.CheckConstraint(
            "worker_id IS NOT NULL OR trial_number IS NULL", name="ck_trial_slots_trial_while_held"
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_trial_slots_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_trial_slots"),
        sa.UniqueConstraint("study_id", "number", name="uq_trial_slots_study_id_number"),
        sqlite_autoincrement=True,
    )
