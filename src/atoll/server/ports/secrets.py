"""The port to the secrets of teams."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from atoll.server.domain.ids import TeamId
from atoll.server.domain.secret import Secret


class SecretStore(Protocol):
    """
    Keeps secrets; values are encrypted where they lie. Every call is one transaction.

    ``key`` is a secret's id or its name in lower case.
    """

    async def add_secret(self, secret: Secret, value: str, *, most: int) -> None:
        """
        Write a new secret.

        Raises:
            AlreadyExistsError: the team has one of this name.
            ResourceExhaustedError: the team has ``most`` already.
            NotFoundError: there is no such team, or it is being deleted.
        """
        ...

    async def get_secret(self, team_id: TeamId, key: str) -> Secret:
        """
        Read what is known of a secret.

        Raises:
            NotFoundError: the team has none.
        """
        ...

    async def list_secrets(self, team_id: TeamId, *, after: str, limit: int) -> Sequence[Secret]:
        """List a team's secrets in the order of their names, behind a name; an empty one is before all."""
        ...

    async def replace_value(
        self, team_id: TeamId, key: str, value: str, metadata: Mapping[str, str] | None, now: datetime
    ) -> Secret:
        """
        Give a secret its next version; None leaves its metadata as it is.

        Raises:
            NotFoundError: the team has none.
        """
        ...

    async def delete_secret(self, team_id: TeamId, key: str) -> bool:
        """Delete a secret; return whether it was there."""
        ...

    async def secret_values(self, team_id: TeamId, names: Sequence[str]) -> Mapping[str, str]:
        """
        Read values by names in lower case; those that are not there are left out.

        Raises:
            InternalError: one cannot be read with this home's key.
        """
        ...
