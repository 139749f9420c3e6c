"""Tokens of sandboxes, and the keys that sign them."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them; sandboxes that are there have no tokens."""
    op.add_column("sandboxes", sa.Column("tokens", sa.JSON, nullable=False, server_default=sa.text("'[]'")))
    op.create_table(
        "signing_keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("public", sa.JSON, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Take them away."""
    op.drop_table("signing_keys")
    op.drop_column("sandboxes", "tokens")
