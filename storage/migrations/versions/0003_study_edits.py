"""Steering of studies: their priority, and being left out of lists."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("studies", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("studies", sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True))
