"""
A webhook, as data: where a team's events are sent, and what a team may ask for there.

Whether an address may be connected to is judged here, each time a connection is made: a name may mean
another address by then.
"""

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.events import Event, EventType, parse_type, plain
from atoll.server.domain.ids import TeamId

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

MOST_NAME = 128
MOST_URL = 2048
MOST_SECRET_BYTES = 1024
# How the signature is made; others may follow.
SIGNATURE_VERSION = "v1"

# Printable ASCII that no two parsers read differently.
_URL = re.compile(r"https?://[!#-;=?-\[\]_a-z~]+", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9._:-]{1,253}", re.IGNORECASE)
# Global by the registry, and yet they lead to where the last 32 bits, or a relay, say: NAT64, 6to4, Teredo;
# what is left of 192.0.0.0/24 and of 192.88.99.0/24 (6to4's relays).
_DISGUISES = tuple(
    ip_network(text)
    for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/23", "192.0.0.0/24", "192.88.99.0/24")
)
_UNICAST_6 = IPv6Network("2000::/3")


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """
    One row; its secret is apart from it.

    Attributes:
        id: a UUID.
        team_id: whose events, and who may change it.
        name: the owner's.
        url: where events are sent.
        events: the types that are sent.
        enabled: whether anything is sent.
        created_at: when it was made.
    """

    id: str
    team_id: TeamId
    name: str
    url: str
    events: tuple[EventType, ...]
    enabled: bool
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class WebhookChanges:
    """What of a webhook is to be another; None: stays as it is."""

    name: str | None = None
    url: str | None = None
    events: tuple[EventType, ...] | None = None
    enabled: bool | None = None
    secret: str | None = None


class DeliveryStatus(StrEnum):
    """How far the sending of one event to one webhook is."""

    PENDING = "pending"
    SUCCESS = "success"
    # Every attempt failed.
    FAILED = "failed"
    # Never sent, or no longer: too many were waiting, or the webhook was disabled.
    DROPPED = "dropped"


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """
    One row of the delivery log.

    Attributes:
        place: where it is in the log; later ones have a higher one.
        id: the same in every attempt, so that receivers know what they have.
        webhook_id: where it goes.
        event: what is sent.
        status: how far it is.
        attempts: how many were made.
        due: when the next one is; None: no more.
        tried_at: when the last one began; None: none was made.
        duration_ms: of the last attempt.
        http_status: that answered the last attempt; None: no answer.
        problem: why the last attempt failed; empty: it did not.
    """

    place: int
    id: str
    webhook_id: str
    event: Event
    status: DeliveryStatus
    attempts: int
    due: datetime | None
    tried_at: datetime | None = None
    duration_ms: int = 0
    http_status: int | None = None
    problem: str = ""


def new_webhook_id() -> str:
    """Make an id that no other webhook has."""
    return str(uuid.uuid4())


def check_name(untrusted: str) -> str:
    """
    Check the name of a webhook.

    Raises:
        InvalidArgumentError: empty, too long or unprintable.
    """
    if not 0 < len(untrusted) <= MOST_NAME or not untrusted.isprintable():
        raise InvalidArgumentError(f"The name of a webhook has 1 to {MOST_NAME} printable characters")
    return untrusted


def check_url(untrusted: str, allowed: Sequence[Network] = ()) -> str:
    """
    Check where events are to be sent. What a name in it means is not known before a connection is made.

    Raises:
        InvalidArgumentError: no URL for this, or it names an address that is not public and not ``allowed``.
    """
    if len(untrusted) > MOST_URL or not _URL.fullmatch(untrusted):
        raise InvalidArgumentError(
            f"The URL of a webhook is http:// or https://, a host and a path, at most {MOST_URL} characters"
        )
    try:
        parts = urlsplit(untrusted)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidArgumentError(f"The URL of a webhook is not valid: {error}") from error
    if not _HOST.fullmatch(host) or port == 0 or parts.fragment:
        raise InvalidArgumentError("The URL of a webhook has a host, a port that can be, and no fragment")
    if parts.username is not None or parts.password is not None:
        raise InvalidArgumentError("The URL of a webhook must not hold a user name or a password")
    try:
        address = ip_address(host)
    except ValueError:
        return untrusted
    if not may_reach(address, allowed):
        raise InvalidArgumentError(f"A webhook cannot be at {host}, which is not a public address")
    return untrusted


def check_events(untrusted: Sequence[str]) -> tuple[EventType, ...]:
    """
    Check which types are asked for; each is returned once.

    Raises:
        InvalidArgumentError: none, or one that does not exist.
    """
    if not untrusted:
        raise InvalidArgumentError("A webhook needs at least one type of events")
    return tuple(dict.fromkeys(parse_type(text) for text in untrusted))


def check_secret(untrusted: str) -> str:
    """
    Check what deliveries are signed with; it is in no message.

    Raises:
        InvalidArgumentError: empty, too long, or no text.
    """
    try:
        size = len(untrusted.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError("The signature secret is not valid Unicode") from None
    if not 0 < size <= MOST_SECRET_BYTES:
        raise InvalidArgumentError(f"The signature secret has 1 to {MOST_SECRET_BYTES} bytes")
    return untrusted


def parse_networks(text: str) -> tuple[Network, ...]:
    """
    Read the operator's setting ``webhooks.networks``.

    Raises:
        InvalidArgumentError: a part of it is no network.
    """
    try:
        return tuple(ip_network(word.strip()) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise InvalidArgumentError(f"webhooks.networks: {error}") from error


def may_reach(address: Address, allowed: Sequence[Network]) -> bool:
    """Tell whether a webhook may be at an address: public ones, and those that the operator named."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in network for network in allowed):
        return True
    if not address.is_global or address.is_multicast or any(address in network for network in _DISGUISES):
        return False
    return isinstance(address, IPv4Address) or address in _UNICAST_6


def body(event: Event) -> bytes:
    """Write what is sent; the same event is the same bytes in every attempt."""
    return json.dumps(plain(event), separators=(",", ":")).encode()


def signature(secret: str, sent: bytes) -> str:
    """Sign as E2B does: SHA-256 over secret and body, in URL-safe base64 without padding."""
    digest = hashlib.sha256(secret.encode() + sent).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
