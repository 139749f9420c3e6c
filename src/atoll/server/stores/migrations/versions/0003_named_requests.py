"""Creates that may be sent twice and are done once."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let rows say which create they answer."""
    op.add_column("sandboxes", sa.Column("request_key", sa.String))
    op.add_column("sandboxes", sa.Column("request_fingerprint", sa.String))
    op.create_index("sandboxes_by_request", "sandboxes", ["team_id", "request_key"])


def downgrade() -> None:
    """Take that away."""
    op.drop_index("sandboxes_by_request", "sandboxes")
    with op.batch_alter_table("sandboxes") as table:
        table.drop_column("request_fingerprint")
        table.drop_column("request_key")
