"""Whether a paused sandbox's guest did not answer when it was paused."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it; of those that are paused already it is not known, and they are tried."""
    op.add_column(
        "sandboxes", sa.Column("pause_silent", sa.Boolean, nullable=False, server_default=sa.text("0"))
    )


def downgrade() -> None:
    """Take it away."""
    op.drop_column("sandboxes", "pause_silent")
