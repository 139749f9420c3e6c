"""Routes of the E2B dialect about webhooks; no answer holds a secret."""

from datetime import datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from atoll.server.api.cursor import last_before_more
from atoll.server.api.dialect import Caller, route_class
from atoll.server.api.e2b.form import render
from atoll.server.api.e2b.queries import split_list
from atoll.server.api.fields import Flag, Text
from atoll.server.control.watching.webhooks import MOST_LISTED, NewWebhook, Webhooks
from atoll.server.domain import webhooks as domain
from atoll.server.domain.errors import InvalidArgumentError, NotFoundError
from atoll.server.domain.events import EventType

_MOST_EVENTS = 10 * len(EventType)
_MOST_CURSOR = 20


class WebhookCreate(BaseModel):
    """A new webhook."""

    name: Text
    url: Text
    events: list[Text] = Field(max_length=_MOST_EVENTS)
    # repr=False: it must not get into a log by way of a model's text.
    signatureSecret: Text = Field(repr=False)
    enabled: Flag = True


class WebhookUpdate(BaseModel):
    """What of a webhook is to be another."""

    name: Text | None = None
    url: Text | None = None
    events: list[Text] | None = Field(default=None, max_length=_MOST_EVENTS)
    signatureSecret: Text | None = Field(default=None, repr=False)
    enabled: Flag | None = None


class Webhook(BaseModel):
    """A webhook; clients of different ages read the team under different names."""

    id: str
    teamID: str
    teamId: str
    name: str
    url: str
    enabled: bool
    events: list[str]
    createdAt: datetime


class Delivery(BaseModel):
    """A line of the delivery log."""

    id: str
    webhookId: str
    eventId: str
    eventType: str
    sandboxId: str
    status: str
    attempts: int
    timestamp: datetime
    lastAttemptAt: datetime | None
    nextAttemptAt: datetime | None
    durationMs: int
    responseHttpStatusCode: int | None
    errorMessage: str | None


def router(webhooks: Webhooks) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(route_class=route_class(render))

    @routes.post("/events/webhooks", status_code=201)
    async def create(actor: Caller, body: WebhookCreate) -> Webhook:
        wish = NewWebhook(
            name=body.name,
            url=body.url,
            events=body.events,
            secret=body.signatureSecret,
            enabled=body.enabled,
        )
        return _shown(await webhooks.create(actor, wish))

    @routes.get("/events/webhooks")
    async def list_webhooks(actor: Caller) -> list[Webhook]:
        return [_shown(webhook) for webhook in await webhooks.list(actor)]

    @routes.get("/events/webhooks/{webhook_id}")
    async def get(actor: Caller, webhook_id: str) -> Webhook:
        return _shown(await webhooks.get(actor, webhook_id))

    @routes.patch("/events/webhooks/{webhook_id}")
    async def change(actor: Caller, webhook_id: str, body: WebhookUpdate) -> Webhook:
        changed = await webhooks.change(
            actor,
            webhook_id,
            name=body.name,
            url=body.url,
            events=body.events,
            enabled=body.enabled,
            secret=body.signatureSecret,
        )
        return _shown(changed)

    # 200, not 204: what clients compare with.
    @routes.delete("/events/webhooks/{webhook_id}")
    async def delete(actor: Caller, webhook_id: str) -> dict[str, Any]:
        if not await webhooks.delete(actor, webhook_id):
            raise NotFoundError(f"Webhook {webhook_id[:64]!a} not found")
        return {}

    @routes.get("/events/webhooks/{webhook_id}/deliveries")
    async def deliveries(
        actor: Caller,
        response: Response,
        webhook_id: str,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 10,
        cursor: Annotated[str | None, Query(max_length=_MOST_CURSOR)] = None,
        orderAsc: bool = False,
        deliveryStatus: Annotated[list[str] | None, Query()] = None,
    ) -> list[Delivery]:
        read = partial(
            webhooks.deliveries,
            actor,
            webhook_id,
            oldest_first=orderAsc,
            untrusted_statuses=split_list("deliveryStatus", deliveryStatus),
        )
        found = await read(limit=limit, after=_place(cursor) if cursor else None)
        last = await last_before_more(found, limit, lambda one: read(limit=1, after=one.place))
        if last is not None:
            response.headers["X-Next-Cursor"] = str(last.place)
        return [_line(delivery) for delivery in found]

    return routes


def _shown(webhook: domain.Webhook) -> Webhook:
    return Webhook(
        id=webhook.id,
        teamID=webhook.team_id,
        teamId=webhook.team_id,
        name=webhook.name,
        url=webhook.url,
        enabled=webhook.enabled,
        events=[kind.value for kind in webhook.events],
        createdAt=webhook.created_at,
    )


def _line(delivery: domain.Delivery) -> Delivery:
    return Delivery(
        id=delivery.id,
        webhookId=delivery.webhook_id,
        eventId=delivery.event.id,
        eventType=delivery.event.type.value,
        sandboxId=delivery.event.sandbox_id,
        status=delivery.status.value,
        attempts=delivery.attempts,
        timestamp=delivery.event.at,
        lastAttemptAt=delivery.tried_at,
        nextAttemptAt=delivery.due,
        durationMs=delivery.duration_ms,
        responseHttpStatusCode=delivery.http_status,
        errorMessage=delivery.problem or None,
    )


def _place(untrusted: str) -> int:
    if not (untrusted.isascii() and untrusted.isdecimal()):
        raise InvalidArgumentError("Invalid cursor")
    return int(untrusted)
