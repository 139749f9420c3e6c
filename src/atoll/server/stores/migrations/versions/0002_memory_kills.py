"""Processes that were killed for memory."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make their table."""
    op.create_table(
        "memory_kills",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("sandbox_id", sa.String, sa.ForeignKey("sandboxes.id", ondelete="CASCADE"), nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("command", sa.String, nullable=False),
        sa.Column("resident_bytes", sa.BigInteger, nullable=False),
    )
    op.create_index("memory_kills_by_sandbox", "memory_kills", ["sandbox_id", "id"])


def downgrade() -> None:
    """Take it away."""
    op.drop_table("memory_kills")
