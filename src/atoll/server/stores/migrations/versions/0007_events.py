"""Events, webhooks and what is delivered to them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables; what happened before is not told."""
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("team_id", sa.String, nullable=False),
        sa.Column("sandbox_id", sa.String, nullable=False),
        sa.Column("template_id", sa.String, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data", sa.JSON),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_team", "events", ["team_id", "seq", "type"])
    op.create_index("events_by_sandbox", "events", ["sandbox_id", "team_id", "seq", "type"])
    op.create_index("events_by_time", "events", ["at"])
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("team_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("url", sa.String, nullable=False),
        sa.Column("events", sa.JSON, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("webhooks_by_team", "webhooks", ["team_id", "created_at", "id"])
    op.create_table(
        "deliveries",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("webhook_id", sa.String, sa.ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
        sa.Column("event_seq", sa.Integer, sa.ForeignKey("events.seq", ondelete="CASCADE"), nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.DateTime(timezone=True)),
        sa.Column("tried_at", sa.DateTime(timezone=True)),
        sa.Column("duration_ms", sa.Integer, nullable=False),
        sa.Column("http_status", sa.Integer),
        sa.Column("problem", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("deliveries_by_webhook", "deliveries", ["webhook_id", "seq"])
    op.create_index("deliveries_by_status", "deliveries", ["webhook_id", "status", "seq"])
    op.create_index("deliveries_by_due", "deliveries", ["webhook_id", "due"])
    op.create_index("deliveries_by_event", "deliveries", ["event_seq"])


def downgrade() -> None:
    """Take them away."""
    op.drop_table("deliveries")
    op.drop_table("webhooks")
    op.drop_table("events")
