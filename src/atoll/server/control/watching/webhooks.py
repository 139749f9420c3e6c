"""
Webhooks: making, finding, changing and deleting them, and showing what was delivered.

Nothing here logs a secret or puts one into an error; nothing shows one again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from atoll.server.control.requests import Actor
from atoll.server.domain import webhooks as rules
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.webhooks import Delivery, DeliveryStatus, Network, Webhook, WebhookChanges
from atoll.server.ports.clock import Clock
from atoll.server.ports.webhooks import DeliveryQuery, DeliveryStore, WebhookStore

log = structlog.get_logger(__name__)

# Of one page of the delivery log.
MOST_LISTED = 100
# Places are SQLite's integers.
_MOST_PLACE = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class WebhookLimits:
    """
    What webhooks may use, and how long is tried.

    Attributes:
        networks: networks, separated by commas, where webhooks may be although they are not public:
            10.0.0.0/24, say. Empty: none; who names a webhook could else have Atoll knock at doors of this
            host and its neighbours.
        most: webhooks of one team.
        most_waiting: deliveries that wait for one webhook; what happens then is not delivered there, and its
            log says so. At 28 events a second, as many as starts and kills make, that is half a minute.
        timeout: for one attempt, from looking up the name to the head of the answer, as E2B has it.
        attempts: for one delivery; the last one comes after some 85 minutes.
        retry_delay: pause before the second attempt; it doubles with each one, and some chance is added.
        retry_delay_most: longest pause between attempts.
        at_once: deliveries to one webhook at once, of different sandboxes; those of one follow each other.
        webhooks_at_once: webhooks that are delivered to at once; more wait for their turn. With ``at_once``,
            256 connections.
        log_kept: deliveries of one webhook that are kept after their end, as long as their events.
    """

    networks: str = ""
    most: int = 10
    most_waiting: int = 1000
    timeout: timedelta = timedelta(seconds=10)
    attempts: int = 10
    retry_delay: timedelta = timedelta(seconds=10)
    retry_delay_most: timedelta = timedelta(hours=1)
    at_once: int = 8
    webhooks_at_once: int = 32
    log_kept: int = 1000


@dataclass(frozen=True, kw_only=True)
class NewWebhook:
    """The wish for a webhook, as its caller gave it."""

    name: str
    url: str
    events: Sequence[str]
    secret: str
    enabled: bool = True


class Webhooks:
    """Keeps webhooks."""

    def __init__(
        self,
        *,
        store: WebhookStore,
        deliveries: DeliveryStore,
        clock: Clock,
        limits: WebhookLimits,
        allowed: Sequence[Network] = (),
    ) -> None:
        """
        Args:
            store: the rows.
            deliveries: what was and is to be sent.
            clock: the time.
            limits: how many.
            allowed: ``limits.networks``.
        """
        self._store = store
        self._deliveries = deliveries
        self._clock = clock
        self._limits = limits
        self._allowed = tuple(allowed)

    async def create(self, actor: Actor, untrusted: NewWebhook) -> Webhook:
        """
        Make a webhook; it gets what happens from now on.

        Raises:
            InvalidArgumentError: name, URL, types or secret outside their bounds.
            ResourceExhaustedError: the team has as many as it may.
        """
        made = Webhook(
            id=rules.new_webhook_id(),
            team_id=actor.team_id,
            name=rules.check_name(untrusted.name),
            url=rules.check_url(untrusted.url, self._allowed),
            events=rules.check_events(untrusted.events),
            enabled=untrusted.enabled,
            created_at=self._clock.now(),
        )
        secret = rules.check_secret(untrusted.secret)
        await self._store.add_webhook(made, secret, most=self._limits.most)
        log.info("webhook created", webhook_id=made.id, team_id=actor.team_id)
        return made

    async def list(self, actor: Actor) -> Sequence[Webhook]:
        """List the actor's webhooks, oldest first."""
        return await self._store.list_webhooks(actor.team_id)

    async def get(self, actor: Actor, untrusted_id: str) -> Webhook:
        """
        Read a webhook.

        Raises:
            NotFoundError: there is none, or it is not the actor's.
        """
        return await self._store.get_webhook(actor.team_id, untrusted_id)

    async def change(
        self,
        actor: Actor,
        untrusted_id: str,
        *,
        name: str | None = None,
        url: str | None = None,
        events: Sequence[str] | None = None,
        enabled: bool | None = None,
        secret: str | None = None,
    ) -> Webhook:
        """
        Change what is given of a webhook; one that is disabled gets nothing more, what waits for it neither.

        Raises:
            InvalidArgumentError: something is outside its bounds.
            NotFoundError: there is none, or it is not the actor's.
        """
        changes = WebhookChanges(
            name=rules.check_name(name) if name is not None else None,
            url=rules.check_url(url, self._allowed) if url is not None else None,
            events=rules.check_events(events) if events is not None else None,
            enabled=enabled,
            secret=rules.check_secret(secret) if secret is not None else None,
        )
        changed = await self._store.change_webhook(actor.team_id, untrusted_id, changes)
        log.info("webhook changed", webhook_id=changed.id, team_id=actor.team_id)
        return changed

    async def delete(self, actor: Actor, untrusted_id: str) -> bool:
        """Delete a webhook and its deliveries; return whether it was there."""
        gone = await self._store.delete_webhook(actor.team_id, untrusted_id)
        if gone:
            log.info("webhook deleted", webhook_id=untrusted_id, team_id=actor.team_id)
        return gone

    async def deliveries(
        self,
        actor: Actor,
        untrusted_id: str,
        *,
        limit: int,
        after: int | None = None,
        oldest_first: bool = False,
        untrusted_statuses: Sequence[str] = (),
    ) -> Sequence[Delivery]:
        """
        List what was delivered to a webhook, and what is to be.

        Args:
            actor: who asks.
            untrusted_id: the webhook's.
            limit: 1 to 100.
            after: the place of the last delivery of the page before; None: from the start.
            oldest_first: the order.
            untrusted_statuses: with one of these only; empty: with any.

        Raises:
            InvalidArgumentError: the page is outside its bounds, or there is no such status.
            NotFoundError: no such webhook, or it is not the actor's.
        """
        if not 1 <= limit <= MOST_LISTED or (after is not None and not 0 <= after <= _MOST_PLACE):
            raise InvalidArgumentError(f"limit must be 1 to {MOST_LISTED}, and cursor one of ours")
        webhook = await self._store.get_webhook(actor.team_id, untrusted_id)
        query = DeliveryQuery(
            webhook_id=webhook.id,
            limit=limit,
            after=after,
            oldest_first=oldest_first,
            statuses=tuple(_status(text) for text in untrusted_statuses),
        )
        return await self._deliveries.list_deliveries(query)


def _status(untrusted: str) -> DeliveryStatus:
    try:
        return DeliveryStatus(untrusted)
    except ValueError:
        raise InvalidArgumentError(
            f"Unknown delivery status {untrusted[:64]!a}; there are {', '.join(DeliveryStatus)}"
        ) from None
