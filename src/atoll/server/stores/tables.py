"""
The tables, as SQLAlchemy Core sees them.

A change here comes with a migration; a test compares the two.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    text,
)
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """
    A moment, with its time zone in Python and in UTC below.

    SQLite keeps text without a zone; text of one form and one zone sorts as the moments do.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a time without a zone: nobody knows when that is."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"time without zone: {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Give SQLite's text its zone back."""
        if value is None:
            return None
        assert isinstance(value, datetime)
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

sandboxes = Table(
    "sandboxes",
    metadata,
    Column("id", String, primary_key=True),
    Column("team_id", String, nullable=False),
    Column("template_id", String, nullable=False),
    Column("template_alias", String, nullable=False),
    Column("target", String, nullable=False),
    Column("status", String, nullable=False),
    Column("cpus", Float, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("processes", Integer, nullable=False),
    Column("disk_bytes", BigInteger, nullable=False),
    Column("egress", JSON, nullable=False),
    Column("ingress", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("env", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("deadline", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("end_reason", String),
    Column("end_detail", String),
    Column("generation", BigInteger, nullable=False),
    Column("address", String),
    Column("runtime", String, nullable=False),
    Column("secured", Boolean, nullable=False),
    Column("volumes", JSON, nullable=False, server_default=text("'[]'")),
    Column("on_deadline", String, nullable=False, server_default="kill"),
    Column("auto_resume", Boolean, nullable=False, server_default=text("0")),
    Column("timeout_seconds", BigInteger, nullable=False, server_default=text("300")),
    Column("tokens", JSON, nullable=False, server_default=text("'[]'")),
    Column("checkpoint", String),
    Column("checkpoint_kind", String),
    Column("paused_at", UtcDateTime),
    Column("pause_silent", Boolean, nullable=False, server_default=text("0")),
    Column("request_key", String),
    Column("request_fingerprint", String),
    Column("upkeep", JSON, nullable=False, server_default=text("'{}'")),
    Column("fall", JSON(none_as_null=True)),
    Column("snapshot_due", UtcDateTime),
    Column("snapshot_skip", JSON(none_as_null=True)),
    Column("idle_due", UtcDateTime),
    # Lists: a team's rows in the order of their making; most rows are of ended sandboxes,
    # most questions are about the others.
    Index("sandboxes_by_team", "team_id", "created_at", "id"),
    Index("sandboxes_by_status", "status", "team_id", "created_at", "id"),
    # The reaper asks for the running row whose deadline comes first.
    Index("sandboxes_by_deadline", "status", "deadline", "id"),
    # So do those who take snapshots, and who pause what idles; few rows have such a time.
    Index("sandboxes_by_snapshot_due", "snapshot_due"),
    Index("sandboxes_by_idle_due", "idle_due"),
    Index("sandboxes_by_ended_at", "ended_at"),
    Index("sandboxes_by_request", "team_id", "request_key"),
)

# The pairs of sandboxes.metadata once more, as an index to find sandboxes by them:
# paths into JSON are written differently by each database, and none takes every key.
sandbox_metadata = Table(
    "sandbox_metadata",
    metadata,
    Column("sandbox_id", String, ForeignKey("sandboxes.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
    Index("sandbox_metadata_by_pair", "key", "value", "sandbox_id"),
)

# What happened inside and the sandbox lived on: the last few of each, for as long as its row is kept.
memory_kills = Table(
    "memory_kills",
    metadata,
    # In the order of their coming; SQLite numbers them.
    Column("id", Integer, primary_key=True),
    Column("sandbox_id", String, ForeignKey("sandboxes.id", ondelete="CASCADE"), nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("command", String, nullable=False),
    Column("resident_bytes", BigInteger, nullable=False),
    Index("memory_kills_by_sandbox", "sandbox_id", "id"),
)

teams = Table(
    "teams",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # Null: as everybody's.
    Column("max_sandboxes", Integer),
    Column("max_cpus", Float),
    Column("max_memory_bytes", BigInteger),
    Column("requests_per_second", Integer),
    # While it goes, with all that is its own; nothing new is written for it.
    Column("deleting_since", UtcDateTime),
    Index("teams_by_name", "name", unique=True),
)

# Of a key its hash is kept, and what is shown of it.
api_keys = Table(
    "api_keys",
    metadata,
    Column("hash", String, primary_key=True),
    Column("id", String, nullable=False),
    Column("team_id", String, nullable=False),
    Column("name", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("prefix", String, nullable=False),
    Column("length", Integer, nullable=False),
    Column("first", String, nullable=False),
    Column("last", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime),
    Index("api_keys_by_id", "id", unique=True),
    Index("api_keys_by_team", "team_id", "created_at", "id"),
)

# Values are encrypted; a name is one of a kind in its team.
secrets = Table(
    "secrets",
    metadata,
    Column("id", String, primary_key=True),
    Column("team_id", String, nullable=False),
    Column("name", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("secrets_by_name", "team_id", "name", unique=True),
)

# Where their files are, the host knows.
volumes = Table(
    "volumes",
    metadata,
    Column("id", String, primary_key=True),
    Column("team_id", String, nullable=False),
    Column("name", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("volumes_by_name", "team_id", "name", unique=True),
)

# Where their checkpoints are, the host knows. Of rows with one name, the newest has it.
snapshots = Table(
    "snapshots",
    metadata,
    Column("id", String, primary_key=True),
    Column("team_id", String, nullable=False),
    Column("name", String),
    Column("sandbox_id", String, nullable=False),
    Column("template_id", String, nullable=False),
    Column("template_alias", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("cpus", Float, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("processes", Integer, nullable=False),
    Column("disk_bytes", BigInteger, nullable=False),
    Column("env", JSON, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("status", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("scheduled", Boolean, nullable=False, server_default=text("0")),
    Index("snapshots_by_name", "team_id", "name", unique=True),
    Index("snapshots_by_team", "team_id", "created_at", "id"),
)

# What happened to sandboxes; no reference to their rows, which go sooner.
events = Table(
    "events",
    metadata,
    # In the order of their writing, and never given twice.
    Column("seq", Integer, primary_key=True),
    Column("id", String, nullable=False),
    Column("team_id", String, nullable=False),
    Column("sandbox_id", String, nullable=False),
    Column("template_id", String, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("type", String, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("data", JSON(none_as_null=True)),
    # Types are in the indexes, so that rows of other ones are not read.
    Index("events_by_team", "team_id", "seq", "type"),
    Index("events_by_sandbox", "sandbox_id", "team_id", "seq", "type"),
    Index("events_by_time", "at"),
    sqlite_autoincrement=True,
)

# The secret is encrypted.
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String, primary_key=True),
    Column("team_id", String, nullable=False),
    Column("name", String, nullable=False),
    Column("url", String, nullable=False),
    Column("events", JSON, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("webhooks_by_team", "team_id", "created_at", "id"),
)

# What is to be sent, and what was.
deliveries = Table(
    "deliveries",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String, nullable=False),
    Column("webhook_id", String, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("event_seq", Integer, ForeignKey("events.seq", ondelete="CASCADE"), nullable=False),
    Column("status", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due", UtcDateTime),
    Column("tried_at", UtcDateTime),
    Column("duration_ms", Integer, nullable=False),
    Column("http_status", Integer),
    Column("problem", String, nullable=False),
    Index("deliveries_by_webhook", "webhook_id", "seq"),
    Index("deliveries_by_status", "webhook_id", "status", "seq"),
    Index("deliveries_by_due", "webhook_id", "due"),
    Index("deliveries_by_event", "event_seq"),
    sqlite_autoincrement=True,
)

# What signs tokens of sandboxes: the public part for everybody, the private one encrypted.
signing_keys = Table(
    "signing_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("public", JSON, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)
