"""The port to teams and the keys that may call."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from atoll.server.domain.ids import TeamId
from atoll.server.domain.keys import ApiKey, KeyKind, Team
from atoll.server.domain.team_limits import TeamLimits


class ApiKeys(Protocol):
    """Keeps teams and keys. Every call is one transaction."""

    async def add_team(self, team: Team, *, most: int) -> None:
        """
        Write a team.

        Raises:
            AlreadyExistsError: there is one of this name.
            ResourceExhaustedError: there are as many as there may be.
        """
        ...

    async def get_team(self, team_id: TeamId) -> Team:
        """
        Read a team.

        Raises:
            NotFoundError: there is none.
        """
        ...

    async def list_teams(self) -> Sequence[Team]:
        """List the teams, oldest first; those that are being deleted, too."""
        ...

    async def limit_team(self, team_id: TeamId, limits: TeamLimits) -> Team:
        """
        Replace a team's limits; return it as it is then.

        Raises:
            NotFoundError: there is none, or it is being deleted.
        """
        ...

    async def begin_deletion(self, team_id: TeamId, at: datetime, *, force: bool) -> None:
        """
        Write that a team is being deleted, and revoke its keys: nothing new is written for it from now on.

        A no-op for one that is being deleted.

        Args:
            team_id: whose.
            at: when that is.
            force: whatever it has.

        Raises:
            NotFoundError: there is none.
            FailedPreconditionError: it has sandboxes that are not ended, volumes or snapshots.
        """
        ...

    async def end_deletion(self, team_id: TeamId) -> None:
        """
        Delete a team that is being deleted, and of which nothing is left; a no-op when it is gone.

        Raises:
            FailedPreconditionError: it is not being deleted, or something of it is left.
        """
        ...

    async def add_api_key(self, key: ApiKey, *, most: int) -> None:
        """
        Write a key.

        Raises:
            ResourceExhaustedError: its team has as many as it may.
            NotFoundError: there is no such team, or it is being deleted.
        """
        ...

    async def replace_home_key(self, key: ApiKey) -> None:
        """Write the home's own key, in place of an earlier one; a no-op when the same hash is there."""
        ...

    async def find_api_key(self, hash: str) -> tuple[ApiKey, Team] | None:
        """Read a key by its hash, and whose it is; None where either is not there."""
        ...

    async def get_api_key(self, key_id: str) -> ApiKey:
        """
        Read a key by its id.

        Raises:
            NotFoundError: there is none.
        """
        ...

    async def list_api_keys(self, team_id: TeamId, kinds: frozenset[KeyKind]) -> Sequence[ApiKey]:
        """List a team's keys of some kinds, oldest first."""
        ...

    async def rename_api_key(self, key_id: str, name: str) -> None:
        """Give a key another name; a no-op when it is not there."""
        ...

    async def use_api_key(self, key_id: str, at: datetime) -> None:
        """Note when a key was used; a no-op when it is not there."""
        ...

    async def drop_api_key(self, key_id: str) -> bool:
        """Delete a key; return whether it was there."""
        ...
