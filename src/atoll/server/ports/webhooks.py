"""The ports of webhooks: their rows, what is to be delivered, and who carries it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from atoll.server.domain.ids import TeamId
from atoll.server.domain.webhooks import Delivery, DeliveryStatus, Webhook, WebhookChanges


class WebhookStore(Protocol):
    """Keeps webhooks; their secrets are encrypted where they lie. Every call is one transaction."""

    async def add_webhook(self, webhook: Webhook, secret: str, *, most: int) -> None:
        """
        Write a new webhook; it gets what happens from now on.

        Raises:
            ResourceExhaustedError: the team has ``most`` already.
            NotFoundError: there is no such team, or it is being deleted.
        """
        ...

    async def get_webhook(self, team_id: TeamId, webhook_id: str) -> Webhook:
        """
        Read a webhook.

        Raises:
            NotFoundError: the team has none of this id.
        """
        ...

    async def list_webhooks(self, team_id: TeamId) -> Sequence[Webhook]:
        """List a team's webhooks, oldest first."""
        ...

    async def change_webhook(self, team_id: TeamId, webhook_id: str, changes: WebhookChanges) -> Webhook:
        """
        Change a webhook; what waits for one that is disabled is dropped.

        Raises:
            NotFoundError: the team has none of this id.
        """
        ...

    async def delete_webhook(self, team_id: TeamId, webhook_id: str) -> bool:
        """Delete a webhook and its deliveries; return whether it was there."""
        ...


@dataclass(frozen=True, kw_only=True)
class DeliveryQuery:
    """
    Which deliveries of a webhook to list.

    Attributes:
        webhook_id: whose.
        limit: at most so many.
        after: the place of the last one that was shown; None: from the start.
        oldest_first: the order.
        statuses: with one of these only; empty: with any.
    """

    webhook_id: str
    limit: int
    after: int | None = None
    oldest_first: bool = False
    statuses: tuple[DeliveryStatus, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Letter:
    """
    A delivery that is to be made.

    Attributes:
        delivery: its row.
        url: where it goes.
        secret: what it is signed with; None: it cannot be read with this home's key.
    """

    delivery: Delivery
    url: str
    secret: str | None


class DeliveryStore(Protocol):
    """Keeps deliveries; they are written with events (``ports/store.py``). Every call is a transaction."""

    async def waiting(self) -> Sequence[tuple[str, datetime]]:
        """List webhooks with deliveries to be made, and when the first of each is; soonest first."""
        ...

    async def due(self, webhook_id: str, now: datetime, *, most: int) -> Sequence[Letter]:
        """Read what is to be sent to a webhook now, what was due first before."""
        ...

    async def record(self, delivery: Delivery, *, keep: int) -> None:
        """
        Write how an attempt ended; of the webhook's finished ones, only the last ``keep`` stay.

        A no-op when the delivery is no longer pending, or not there.
        """
        ...

    async def list_deliveries(self, query: DeliveryQuery) -> Sequence[Delivery]:
        """List deliveries."""
        ...


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """
    How an attempt ended.

    Attributes:
        status: of HTTP; None: no answer.
        problem: why there is no answer, for the webhook's owner; empty: there is one.
        duration_ms: how long it took.
    """

    status: int | None
    problem: str
    duration_ms: int


class Courier(Protocol):
    """Carries letters to strangers."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """
        Send a body; return in bounded time, whatever the other end does.

        Connects to addresses only that webhooks may be at, follows no redirect, and reads no more of an
        answer than its head.
        """
        ...
