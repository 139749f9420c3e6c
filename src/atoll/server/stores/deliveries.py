"""Deliveries: what is to be sent to webhooks and how it went. ``telling`` writes new ones."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, Select, delete, func, select, update
from typing_extensions import override

from atoll.server.domain.errors import InternalError
from atoll.server.domain.webhooks import Delivery, DeliveryStatus
from atoll.server.ports.webhooks import DeliveryQuery, DeliveryStore, Letter
from atoll.server.stores.database import Database, unreadable
from atoll.server.stores.events import event_from_row
from atoll.server.stores.tables import deliveries, events, webhooks
from atoll.server.stores.webhooks import seal

# Finished deliveries that are forgotten with one that is recorded, at most; everybody waits for it.
_FORGOTTEN_AT_ONCE = 100
_PENDING = DeliveryStatus.PENDING.value
_ENDED = [status.value for status in DeliveryStatus if status is not DeliveryStatus.PENDING]
# What both tables have is a delivery's.
_OF_EVENTS = [column for column in events.c if column.name not in {"seq", "id"}]


class SqliteDeliveries(DeliveryStore):
    """Deliveries in the database."""

    def __init__(self, database: Database, *, secret: bytes) -> None:
        """
        Args:
            database: opened and closed by whoever made it.
            secret: the home's; 32 bytes.
        """
        self._database = database
        self._seal = seal(secret)

    @override
    async def waiting(self) -> Sequence[tuple[str, datetime]]:
        # A look into the index for each webhook, however many deliveries wait there.
        first = (
            select(func.min(deliveries.c.due))
            .where(deliveries.c.webhook_id == webhooks.c.id, deliveries.c.due.is_not(None))
            .scalar_subquery()
        )
        soonest = select(webhooks.c.id, first.label("due")).where(webhooks.c.enabled.is_(True)).subquery()
        statement = select(soonest).where(soonest.c.due.is_not(None)).order_by(soonest.c.due)
        with self._database.transaction(writes=False) as connection:
            return [(row.id, row.due) for row in connection.execute(statement)]

    @override
    async def due(self, webhook_id: str, now: datetime, *, most: int) -> Sequence[Letter]:
        statement = (
            _select()
            .add_columns(webhooks.c.url, webhooks.c.sealed)
            .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
            .where(deliveries.c.webhook_id == webhook_id, webhooks.c.enabled.is_(True))
            .where(deliveries.c.due <= now)
            .order_by(deliveries.c.due, deliveries.c.seq)
            .limit(most)
        )
        with self._database.transaction(writes=False) as connection:
            return [
                Letter(delivery=_from_row(row), url=row["url"], secret=self._secret(row))
                for row in connection.execute(statement).mappings()
            ]

    @override
    async def record(self, delivery: Delivery, *, keep: int) -> None:
        values = {
            "status": delivery.status.value,
            "attempts": delivery.attempts,
            "due": delivery.due,
            "tried_at": delivery.tried_at,
            "duration_ms": delivery.duration_ms,
            "http_status": delivery.http_status,
            "problem": delivery.problem,
        }
        ended = (deliveries.c.webhook_id == delivery.webhook_id, deliveries.c.status.in_(_ENDED))
        beyond = select(deliveries.c.seq).where(*ended).order_by(deliveries.c.seq.desc())
        old = beyond.offset(keep).limit(_FORGOTTEN_AT_ONCE)
        with self._database.transaction(writes=True) as connection:
            still = (deliveries.c.seq == delivery.place, deliveries.c.status == _PENDING)
            connection.execute(update(deliveries).where(*still).values(values))
            if delivery.status is not DeliveryStatus.PENDING:
                connection.execute(delete(deliveries).where(deliveries.c.seq.in_(old.scalar_subquery())))

    @override
    async def list_deliveries(self, query: DeliveryQuery) -> Sequence[Delivery]:
        statement = _select().where(deliveries.c.webhook_id == query.webhook_id).limit(query.limit)
        if query.statuses:
            statement = statement.where(deliveries.c.status.in_([status.value for status in query.statuses]))
        place = deliveries.c.seq
        if query.after is not None:
            statement = statement.where(place > query.after if query.oldest_first else place < query.after)
        statement = statement.order_by(place.asc() if query.oldest_first else place.desc())
        with self._database.transaction(writes=False) as connection:
            return [_from_row(row) for row in connection.execute(statement).mappings()]

    def _secret(self, row: RowMapping) -> str | None:
        try:
            return self._seal.open(row["sealed"], row["webhook_id"])
        except InternalError:
            return None


def _select() -> Select[Any]:
    found: Select[Any] = select(deliveries)
    return found.add_columns(*_OF_EVENTS, events.c.id.label("event_id")).join(
        events, events.c.seq == deliveries.c.event_seq
    )


def _from_row(row: RowMapping) -> Delivery:
    try:
        status = DeliveryStatus(row["status"])
    except ValueError as error:
        raise unreadable(f"delivery {row['id']}", error) from error
    return Delivery(
        place=row["seq"],
        id=row["id"],
        webhook_id=row["webhook_id"],
        event=event_from_row(row, id=row["event_id"]),
        status=status,
        attempts=row["attempts"],
        due=row["due"],
        tried_at=row["tried_at"],
        duration_ms=row["duration_ms"],
        http_status=row["http_status"],
        problem=row["problem"],
    )
