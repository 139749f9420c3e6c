"""Sandboxes that are persistent, snapshots on a schedule, and pauses of what idles."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; what is there has none of it."""
    with op.batch_alter_table("sandboxes") as table:
        table.add_column(sa.Column("upkeep", sa.JSON, nullable=False, server_default=sa.text("'{}'")))
        table.add_column(sa.Column("fall", sa.JSON))
        table.add_column(sa.Column("snapshot_due", sa.DateTime(timezone=True)))
        table.add_column(sa.Column("snapshot_skip", sa.JSON))
        table.add_column(sa.Column("idle_due", sa.DateTime(timezone=True)))
    op.create_index("sandboxes_by_snapshot_due", "sandboxes", ["snapshot_due"])
    op.create_index("sandboxes_by_idle_due", "sandboxes", ["idle_due"])
    with op.batch_alter_table("snapshots") as table:
        table.add_column(sa.Column("scheduled", sa.Boolean, nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    """Take them away."""
    with op.batch_alter_table("snapshots") as table:
        table.drop_column("scheduled")
    op.drop_index("sandboxes_by_idle_due", "sandboxes")
    op.drop_index("sandboxes_by_snapshot_due", "sandboxes")
    with op.batch_alter_table("sandboxes") as table:
        for name in ("upkeep", "fall", "snapshot_due", "snapshot_skip", "idle_due"):
            table.drop_column(name)
