"""The end of what each worker logged of a study, for every machine to read."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the table; what was logged before stays in the files of the machines."""
    op.create_table(
        "study_logs",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("entries", sa.JSON(), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_study_logs_study_id"),
        sa.PrimaryKeyConstraint("study_id", "worker_id", name="pk_study_logs"),
    )
