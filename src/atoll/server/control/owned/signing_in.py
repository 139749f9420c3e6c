"""
Signs E2B's command line in: who shows a key gets an API key for it, and gives that back when he signs out.

An access token, or the home's own key, never goes there: a new API key of its team does. An API key goes as
it is.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from atoll.server.control.owned.keys import Keys
from atoll.server.control.requests import Actor
from atoll.server.domain.errors import UnauthenticatedError
from atoll.server.domain.keys import KeyKind
from atoll.server.ports.api_keys import ApiKeys

log = structlog.get_logger(__name__)

# Keys of this name are made here, and end with a signing out.
KEY_NAME = "e2b auth login"


@dataclass(frozen=True, kw_only=True)
class SignedIn:
    """
    What the command line keeps.

    Attributes:
        key: an API key.
        who: the owner's word for the key that was shown.
    """

    key: str
    who: str


class SigningIn:
    """Gives API keys to command lines, and takes them back."""

    def __init__(
        self, *, keys: Keys, store: ApiKeys, authenticate: Callable[[str | None], Awaitable[Actor]]
    ) -> None:
        self._keys = keys
        self._store = store
        self._authenticate = authenticate

    async def sign_in(self, untrusted_key: str) -> SignedIn:
        """
        Take a key of any kind, and return an API key of its team.

        Raises:
            UnauthenticatedError: it is not known.
            ResourceExhaustedError: the team has as many keys as it may.
        """
        actor = await self._authenticate(untrusted_key)
        if actor.kind is KeyKind.API_KEY:
            return SignedIn(key=untrusted_key, who=actor.key_name)
        _, key = await self._keys.create(actor, KEY_NAME, KeyKind.API_KEY)
        return SignedIn(key=key, who=actor.key_name)

    async def check(self, untrusted_key: str) -> None:
        """
        See whether somebody is signed in still.

        Raises:
            UnauthenticatedError: no longer.
        """
        await self._authenticate(untrusted_key)

    async def sign_out(self, untrusted_key: str) -> None:
        """Take back a key that was made here; others, and none at all, are let be."""
        try:
            actor = await self._authenticate(untrusted_key)
        except UnauthenticatedError:
            return
        if actor.kind is KeyKind.API_KEY and actor.key_name == KEY_NAME:
            await self._store.drop_api_key(actor.key_id)
            log.info("signed out", key_id=actor.key_id, team_id=actor.team_id)
