"""Webhooks of teams; their secrets are encrypted."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update
from typing_extensions import override

from atoll.server.domain.errors import NotFoundError, ResourceExhaustedError
from atoll.server.domain.events import EventType
from atoll.server.domain.ids import TeamId
from atoll.server.domain.webhooks import DeliveryStatus, Webhook, WebhookChanges
from atoll.server.ports.webhooks import WebhookStore
from atoll.server.stores.database import Database, unreadable
from atoll.server.stores.owning import check_team
from atoll.server.stores.sealing import Seal
from atoll.server.stores.tables import deliveries, webhooks

_PURPOSE = "atoll: signature secrets of webhooks, 1"


def seal(secret: bytes) -> Seal:
    """Make what encrypts and decrypts the secrets of webhooks; a secret's place is its webhook's id."""
    return Seal(secret, _PURPOSE)


class SqliteWebhooks(WebhookStore):
    """Webhooks in the database."""

    def __init__(self, database: Database, *, secret: bytes) -> None:
        """
        Args:
            database: opened and closed by whoever made it.
            secret: the home's; 32 bytes.
        """
        self._database = database
        self._seal = seal(secret)

    @override
    async def add_webhook(self, webhook: Webhook, secret: str, *, most: int) -> None:
        row = {
            "id": webhook.id,
            "team_id": webhook.team_id,
            "name": webhook.name,
            "url": webhook.url,
            "events": [kind.value for kind in webhook.events],
            "enabled": webhook.enabled,
            "sealed": self._seal.close(secret, webhook.id),
            "created_at": webhook.created_at,
        }
        with self._database.transaction(writes=True) as connection:
            check_team(connection, webhook.team_id)
            ours = select(func.count()).select_from(webhooks).where(webhooks.c.team_id == webhook.team_id)
            if connection.execute(ours).scalar_one() >= most:
                raise ResourceExhaustedError(
                    f"The most webhooks exist that a team may have ({most})",
                    resolution="Delete some, or raise webhooks.most in the server's settings.",
                )
            connection.execute(insert(webhooks), row)

    @override
    async def get_webhook(self, team_id: TeamId, webhook_id: str) -> Webhook:
        with self._database.transaction(writes=False) as connection:
            return _read(connection, team_id, webhook_id)

    @override
    async def list_webhooks(self, team_id: TeamId) -> Sequence[Webhook]:
        ours = select(webhooks).where(webhooks.c.team_id == team_id)
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(ours.order_by(webhooks.c.created_at, webhooks.c.id)).mappings()
            return [_from_row(row) for row in rows]

    @override
    async def change_webhook(self, team_id: TeamId, webhook_id: str, changes: WebhookChanges) -> Webhook:
        with self._database.transaction(writes=True) as connection:
            _read(connection, team_id, webhook_id)
            values = self._values(webhook_id, changes)
            if values:
                connection.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(values))
            if changes.enabled is False:
                waits = deliveries.c.status == DeliveryStatus.PENDING.value
                connection.execute(
                    update(deliveries)
                    .where(deliveries.c.webhook_id == webhook_id, waits)
                    .values(status=DeliveryStatus.DROPPED.value, due=None, problem="the webhook was disabled")
                )
            return _read(connection, team_id, webhook_id)

    @override
    async def delete_webhook(self, team_id: TeamId, webhook_id: str) -> bool:
        ours = (webhooks.c.team_id == team_id, webhooks.c.id == webhook_id)
        with self._database.transaction(writes=True) as connection:
            return connection.execute(delete(webhooks).where(*ours)).rowcount > 0

    def _values(self, webhook_id: str, changes: WebhookChanges) -> Mapping[str, Any]:
        values: dict[str, Any] = {
            "name": changes.name,
            "url": changes.url,
            "events": [kind.value for kind in changes.events] if changes.events is not None else None,
            "enabled": changes.enabled,
            "sealed": self._seal.close(changes.secret, webhook_id) if changes.secret is not None else None,
        }
        return {name: value for name, value in values.items() if value is not None}


def _read(connection: Connection, team_id: TeamId, webhook_id: str) -> Webhook:
    ours = (webhooks.c.team_id == team_id, webhooks.c.id == webhook_id)
    row = connection.execute(select(webhooks).where(*ours)).mappings().first()
    if row is None:
        raise NotFoundError(f"Webhook {webhook_id[:64]!a} not found")
    return _from_row(row)


def _from_row(row: RowMapping) -> Webhook:
    try:
        return Webhook(
            id=row["id"],
            team_id=TeamId(row["team_id"]),
            name=row["name"],
            url=row["url"],
            events=tuple(EventType(kind) for kind in row["events"]),
            enabled=row["enabled"],
            created_at=row["created_at"],
        )
    except (ValueError, TypeError) as error:
        raise unreadable(f"webhook {row['id']}", error) from error
