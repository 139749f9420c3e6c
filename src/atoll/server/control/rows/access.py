"""Who calls, and what callers of a sandbox's daemon must show."""

import hashlib
import hmac
from datetime import datetime

import structlog

from atoll.server.control.requests import Actor
from atoll.server.domain.errors import AtollError, UnauthenticatedError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.keys import (
    DEFAULT_TEAM,
    MOST_KEY_LENGTH,
    USE_IS_NOTED_EVERY,
    ApiKey,
    KeyKind,
    hash_key,
    make_key,
)
from atoll.server.ports.api_keys import ApiKeys
from atoll.server.ports.clock import Clock

log = structlog.get_logger(__name__)


def access_token(secret: bytes, sandbox_id: SandboxId) -> str:
    """Derive a sandbox's access token; the same whenever asked, also after a restart."""
    return hmac.new(secret, sandbox_id.encode(), hashlib.sha256).hexdigest()


def traffic_token(secret: bytes, sandbox_id: SandboxId) -> str:
    """Derive what clients of a sandbox's ports show when they are not public; not the access token's."""
    return hmac.new(secret, b"traffic " + sandbox_id.encode(), hashlib.sha256).hexdigest()


async def set_home_key(keys: ApiKeys, clock: Clock, key: str, *, name: str) -> None:
    """Let the home's own key call, and no earlier one of the home."""
    made = make_key(key, KeyKind.HOME, DEFAULT_TEAM, name, clock.now())
    await keys.replace_home_key(made)


async def authenticate(keys: ApiKeys, clock: Clock, untrusted_key: str | None) -> Actor:
    """
    Find out whose key this is.

    The row is found by the key's hash, and the hashes are compared in constant time: how long
    this takes says nothing about the keys that exist. Nothing is cached: a revoked key is refused at once.

    Raises:
        UnauthenticatedError: no key, or an unknown one.
    """
    if not untrusted_key:
        raise UnauthenticatedError(
            "An API key is missing", resolution="Send it in the header X-API-Key; 'atoll env' prints it."
        )
    if len(untrusted_key) <= MOST_KEY_LENGTH:
        hashed = hash_key(untrusted_key)
        found = await keys.find_api_key(hashed)
        if found is not None and hmac.compare_digest(found[0].hash, hashed):
            key, team = found
            await _note_use(keys, key, clock.now())
            return Actor(
                team_id=key.team_id, key_id=key.id, key_name=key.name, kind=key.kind, limits=team.limits
            )
    raise UnauthenticatedError("The API key is not known", resolution="'atoll env' prints the right one.")


async def _note_use(keys: ApiKeys, key: ApiKey, now: datetime) -> None:
    if key.last_used_at is not None and now - key.last_used_at < USE_IS_NOTED_EVERY:
        return
    try:
        await keys.use_api_key(key.id, now)
    except AtollError as error:
        # A full disk, say: whoever has a key may still read and kill.
        log.warning("use of a key not noted", key_id=key.id, error=str(error))
