"""Volumes, and which of them a sandbox has."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table and the column; what is there had none."""
    op.add_column("sandboxes", sa.Column("volumes", sa.JSON, nullable=False, server_default=sa.text("'[]'")))
    op.create_table(
        "volumes",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("team_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("volumes_by_name", "volumes", ["team_id", "name"], unique=True)


def downgrade() -> None:
    """Take them away."""
    op.drop_table("volumes")
    op.drop_column("sandboxes", "volumes")
