"""Whether a dataset's studies may promote their models, and what the models of a promotion were worth."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the table and the column."""
    op.add_column("promotions", sa.Column("figures", sa.JSON(), nullable=True))
    op.create_table(
        "promotion_policies",
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("rule", sa.String(length=16), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("rule IN ('manual', 'automatic')", name="ck_promotion_policies_rule"),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_promotion_policies_dataset_id"),
        sa.PrimaryKeyConstraint("dataset_id", name="pk_promotion_policies"),
    )
