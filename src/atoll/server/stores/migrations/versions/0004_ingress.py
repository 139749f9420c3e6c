"""Who may reach a sandbox's ports."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_PUBLIC = '{"public": true, "mask_host": "", "https_ports": []}'


def upgrade() -> None:
    """Add the column; what is there was public."""
    op.add_column(
        "sandboxes", sa.Column("ingress", sa.JSON, nullable=False, server_default=sa.text(f"'{_PUBLIC}'"))
    )


def downgrade() -> None:
    """Take it away."""
    op.drop_column("sandboxes", "ingress")
