"""Who calls, and what callers of a sandbox's daemon must show."""

import hashlib
import hmac
import secrets

from atoll.server.control.requests import Actor
from atoll.server.domain.errors import UnauthenticatedError
from atoll.server.domain.ids import SandboxId, TeamId
from atoll.server.ports.api_keys import ApiKey, ApiKeys
from atoll.server.ports.clock import Clock

# Until there are more.
DEFAULT_TEAM = TeamId("default")
# Longer ones are not hashed; ours have 44.
MOST_KEY_LENGTH = 256


def new_api_key() -> str:
    """Make a key: ``e2b_`` and 40 hexadecimal digits, the form that every E2B client accepts."""
    return "e2b_" + secrets.token_hex(20)


def hash_api_key(key: str) -> str:
    """
    Return what is kept of a key.

    Keys are random and long, so a plain hash cannot be turned around.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def access_token(secret: bytes, sandbox_id: SandboxId) -> str:
    """Derive a sandbox's access token; the same whenever asked, also after a restart."""
    return hmac.new(secret, sandbox_id.encode(), hashlib.sha256).hexdigest()


def traffic_token(secret: bytes, sandbox_id: SandboxId) -> str:
    """Derive what clients of a sandbox's ports show when they are not public; not the access token's."""
    return hmac.new(secret, b"traffic " + sandbox_id.encode(), hashlib.sha256).hexdigest()


async def add_key(keys: ApiKeys, clock: Clock, key: str, *, name: str) -> None:
    """Let a key call for the default team; a no-op when it may already."""
    await keys.add_api_key(
        ApiKey(hash=hash_api_key(key), team_id=DEFAULT_TEAM, name=name, created_at=clock.now())
    )


async def set_key(keys: ApiKeys, clock: Clock, key: str, *, name: str) -> None:
    """Let a key call, and no earlier one of this name."""
    if await keys.find_api_key(hash_api_key(key)) is None:
        await keys.drop_api_keys(DEFAULT_TEAM, name)
        await add_key(keys, clock, key, name=name)


async def authenticate(keys: ApiKeys, untrusted_key: str | None) -> Actor:
    """
    Find out whose key this is.

    The row is found by the key's hash, and the hashes are compared in constant time: how long
    this takes says nothing about the keys that exist.

    Raises:
        UnauthenticatedError: no key, or an unknown one.
    """
    if not untrusted_key:
        raise UnauthenticatedError(
            "An API key is missing", resolution="Send it in the header X-API-Key; 'atoll env' prints it."
        )
    if len(untrusted_key) <= MOST_KEY_LENGTH:
        hashed = hash_api_key(untrusted_key)
        key = await keys.find_api_key(hashed)
        if key is not None and hmac.compare_digest(key.hash, hashed):
            return Actor(team_id=key.team_id, key_name=key.name)
    raise UnauthenticatedError("The API key is not known", resolution="'atoll env' prints the right one.")
