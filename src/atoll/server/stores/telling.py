"""
Tells what a change of a sandbox's row means: the event, and its deliveries, in the same transaction.

So no event is lost and none is made up, whenever the server dies.
"""

import uuid
from collections.abc import Callable

from sqlalchemy import Connection, func, insert, select

from atoll.server.domain.events import Event, told_by
from atoll.server.domain.sandbox import Sandbox
from atoll.server.domain.webhooks import DeliveryStatus
from atoll.server.ports.clock import Clock
from atoll.server.stores.events import add_event
from atoll.server.stores.tables import deliveries, webhooks


class Telling:
    """Writes events, and what is to be delivered of them."""

    def __init__(
        self, clock: Clock, *, most_waiting: int = 1000, called: Callable[[], None] = lambda: None
    ) -> None:
        """
        Args:
            clock: when events happen.
            most_waiting: deliveries that wait for one webhook; what comes then is dropped.
            called: when something is to be delivered. The transaction is not over by then.
        """
        self._clock = clock
        self._most_waiting = most_waiting
        self._called = called

    def tell(self, connection: Connection, old: Sandbox, new: Sandbox) -> None:
        """Write what the change of a row tells, if anything."""
        event = told_by(old, new, self._clock.now())
        if event is None:
            return
        number = add_event(connection, event)
        waits = [
            self._queue(connection, webhook_id, number, event) for webhook_id in _wanted(connection, event)
        ]
        if any(waits):
            self._called()

    def _queue(self, connection: Connection, webhook_id: str, number: int, event: Event) -> bool:
        waiting = select(deliveries.c.seq).where(
            deliveries.c.webhook_id == webhook_id, deliveries.c.status == DeliveryStatus.PENDING.value
        )
        counted = select(func.count()).select_from(waiting.limit(self._most_waiting).subquery())
        room = connection.execute(counted).scalar_one() < self._most_waiting
        row = {
            "id": str(uuid.uuid4()),
            "webhook_id": webhook_id,
            "event_seq": number,
            "status": (DeliveryStatus.PENDING if room else DeliveryStatus.DROPPED).value,
            "attempts": 0,
            "due": event.at if room else None,
            "duration_ms": 0,
            "problem": "" if room else f"{self._most_waiting} deliveries were waiting",
        }
        connection.execute(insert(deliveries), row)
        return room


def _wanted(connection: Connection, event: Event) -> list[str]:
    ours = select(webhooks.c.id, webhooks.c.events).where(
        webhooks.c.team_id == event.team_id, webhooks.c.enabled.is_(True)
    )
    return [row.id for row in connection.execute(ours) if event.type.value in row.events]
