"""Sandboxes, their metadata, API keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the first tables."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "sandboxes",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("team_id", sa.String, nullable=False),
        sa.Column("template_id", sa.String, nullable=False),
        sa.Column("template_alias", sa.String, nullable=False),
        sa.Column("target", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("cpus", sa.Float, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("processes", sa.Integer, nullable=False),
        sa.Column("disk_bytes", sa.BigInteger, nullable=False),
        sa.Column("egress", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("env", sa.JSON, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("started_at", moment),
        sa.Column("deadline", moment, nullable=False),
        sa.Column("ended_at", moment),
        sa.Column("end_reason", sa.String),
        sa.Column("end_detail", sa.String),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("address", sa.String),
        sa.Column("runtime", sa.String, nullable=False),
        sa.Column("secured", sa.Boolean, nullable=False),
    )
    op.create_index("sandboxes_by_team", "sandboxes", ["team_id", "created_at", "id"])
    op.create_index("sandboxes_by_status", "sandboxes", ["status", "team_id", "created_at", "id"])
    op.create_index("sandboxes_by_ended_at", "sandboxes", ["ended_at"])
    op.create_index("sandboxes_by_deadline", "sandboxes", ["status", "deadline", "id"])
    op.create_table(
        "sandbox_metadata",
        sa.Column(
            "sandbox_id", sa.String, sa.ForeignKey("sandboxes.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.create_index("sandbox_metadata_by_pair", "sandbox_metadata", ["key", "value", "sandbox_id"])
    op.create_table(
        "api_keys",
        sa.Column("hash", sa.String, primary_key=True),
        sa.Column("team_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created_at", moment, nullable=False),
    )


def downgrade() -> None:
    """Take them away."""
    op.drop_table("api_keys")
    op.drop_table("sandbox_metadata")
    op.drop_table("sandboxes")
