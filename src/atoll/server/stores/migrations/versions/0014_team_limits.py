"""Limits of a team's own, and teams that are being deleted."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_COLUMNS: dict[str, Any] = {
    "max_sandboxes": sa.Integer,
    "max_cpus": sa.Float,
    "max_memory_bytes": sa.BigInteger,
    "requests_per_second": sa.Integer,
    "deleting_since": sa.DateTime(timezone=True),
}


def upgrade() -> None:
    """Add them; teams that are there have none, and stay."""
    for name, kind in _COLUMNS.items():
        op.add_column("teams", sa.Column(name, kind))


def downgrade() -> None:
    """Take them away."""
    for name in _COLUMNS:
        op.drop_column("teams", name)
