"""
Tells what a change of a sandbox's or a snapshot's row means: the event, and its deliveries, in the same
transaction.

So no event is lost and none is made up, whenever the server dies.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, func, insert, literal, select

from atoll.server.domain.events import Event, told_by, told_of_snapshot
from atoll.server.domain.sandbox import Sandbox
from atoll.server.domain.snapshot import Snapshot
from atoll.server.domain.webhooks import DeliveryStatus
from atoll.server.ports.clock import Clock
from atoll.server.stores.events import add_event
from atoll.server.stores.tables import deliveries, sandboxes, webhooks

# Of the sandbox that a snapshot was taken of, whose row may be gone.
_METADATA = select(sandboxes.c.metadata).where(sandboxes.c.id == bindparam("id"))


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
        # Built once: that takes longer than to run it, and every create waits for it.
        self._webhooks = _webhooks_of_team(most_waiting)

    def tell(self, connection: Connection, old: Sandbox, new: Sandbox) -> None:
        """Write what the change of a row tells, if anything."""
        event = told_by(old, new, self._clock.now())
        if event is not None:
            self._write(connection, event)

    def tell_of_snapshot(self, connection: Connection, snapshot: Snapshot) -> None:
        """Write that a snapshot is ready."""
        metadata = connection.execute(_METADATA, {"id": snapshot.sandbox_id}).scalar() or {}
        self._write(connection, told_of_snapshot(snapshot, metadata, self._clock.now()))

    def _write(self, connection: Connection, event: Event) -> None:
        number = add_event(connection, event)
        rows = [self._row(wanted, number, event) for wanted in self._wanted(connection, event)]
        if rows:
            connection.execute(insert(deliveries), rows)
        if any(row["due"] is not None for row in rows):
            self._called()

    def _wanted(self, connection: Connection, event: Event) -> list[Row[Any]]:
        """List the webhooks that want an event, and how many deliveries wait for each."""
        found: Sequence[Row[Any]] = connection.execute(self._webhooks, {"team_id": event.team_id}).all()
        return [row for row in found if event.type.value in row.events]

    def _row(self, wanted: Row[Any], number: int, event: Event) -> dict[str, Any]:
        room = wanted.waiting < self._most_waiting
        return {
            "id": str(uuid.uuid4()),
            "webhook_id": wanted.id,
            "event_seq": number,
            "status": (DeliveryStatus.PENDING if room else DeliveryStatus.DROPPED).value,
            "attempts": 0,
            "due": event.at if room else None,
            "duration_ms": 0,
            "problem": "" if room else f"{self._most_waiting} deliveries were waiting",
        }


def _webhooks_of_team(most_waiting: int) -> Select[Any]:
    """Select a team's enabled webhooks, and how many deliveries wait for each, counted to a bound."""
    pending = deliveries.c.status == DeliveryStatus.PENDING.value
    waiting = (
        select(literal(1))
        .where(deliveries.c.webhook_id == webhooks.c.id, pending)
        .correlate(webhooks)
        .limit(most_waiting)
        .subquery()
    )
    counted = select(func.count()).select_from(waiting).scalar_subquery()
    return select(webhooks.c.id, webhooks.c.events, counted.label("waiting")).where(
        webhooks.c.team_id == bindparam("team_id"), webhooks.c.enabled.is_(True)
    )
