"""The port to the keys that sign tokens of sandboxes."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from atoll.server.domain.identity import SigningKey


class SigningKeys(Protocol):
    """Keeps keys and signs with them; the private parts never leave it, and are encrypted where they lie."""

    async def list_keys(self) -> Sequence[SigningKey]:
        """List what everybody may know, oldest first."""
        ...

    async def make_key(self, now: datetime) -> SigningKey:
        """Make a key that nobody else has."""
        ...

    async def drop_keys(self, key_ids: Sequence[str]) -> None:
        """Delete keys; a no-op for those that are not there."""
        ...

    async def sign(self, key_id: str, claims: Mapping[str, Any]) -> str:
        """
        Make a JWT of claims.

        Raises:
            NotFoundError: no such key.
            InternalError: it cannot be read with this home's secret.
        """
        ...
