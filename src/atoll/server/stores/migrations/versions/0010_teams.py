"""Teams, and keys that are made and revoked."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Begin with the team that was the only one; a start of the server writes the home's key again."""
    teams = op.create_table(
        "teams",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("teams_by_name", "teams", ["name"], unique=True)
    op.bulk_insert(teams, [{"id": "default", "name": "default", "created_at": datetime.now(UTC)}])
    op.drop_table("api_keys")
    op.create_table(
        "api_keys",
        sa.Column("hash", sa.String, primary_key=True),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("team_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("prefix", sa.String, nullable=False),
        sa.Column("length", sa.Integer, nullable=False),
        sa.Column("first", sa.String, nullable=False),
        sa.Column("last", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
    )
    op.create_index("api_keys_by_id", "api_keys", ["id"], unique=True)
    op.create_index("api_keys_by_team", "api_keys", ["team_id", "created_at", "id"])


def downgrade() -> None:
    """Take them away."""
    op.drop_table("api_keys")
    op.create_table(
        "api_keys",
        sa.Column("hash", sa.String, primary_key=True),
        sa.Column("team_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.drop_table("teams")
