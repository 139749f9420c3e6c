"""The port to the keys that may call."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from atoll.server.domain.ids import TeamId


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """
    Who may call.

    Attributes:
        hash: sha256 of the key, hexadecimal. The key itself is not kept.
        team_id: for whom.
        name: the owner's word for it.
    """

    hash: str
    team_id: TeamId
    name: str
    created_at: datetime


class ApiKeys(Protocol):
    """Keeps the keys. Every call is one transaction."""

    async def add_api_key(self, key: ApiKey) -> None:
        """Write a key; a no-op when the same hash is there."""
        ...

    async def drop_api_keys(self, team_id: TeamId, name: str) -> int:
        """Delete a team's keys of this name; return how many."""
        ...

    async def find_api_key(self, hash: str) -> ApiKey | None:
        """Read a key by its hash."""
        ...
