"""Sandboxes that are paused."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; what runs is killed at its deadline, as before."""
    with op.batch_alter_table("sandboxes") as table:
        table.add_column(sa.Column("on_deadline", sa.String, nullable=False, server_default="kill"))
        table.add_column(sa.Column("auto_resume", sa.Boolean, nullable=False, server_default=sa.text("0")))
        table.add_column(
            sa.Column("timeout_seconds", sa.BigInteger, nullable=False, server_default=sa.text("300"))
        )
        table.add_column(sa.Column("checkpoint", sa.String))
        table.add_column(sa.Column("checkpoint_kind", sa.String))
        table.add_column(sa.Column("paused_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Take them away."""
    with op.batch_alter_table("sandboxes") as table:
        for name in (
            "on_deadline", "auto_resume", "timeout_seconds", "checkpoint", "checkpoint_kind", "paused_at",
        ):  # fmt: skip
            table.drop_column(name)
