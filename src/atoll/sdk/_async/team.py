"""Teams, and the keys that programs call with."""

import builtins

from atoll.sdk._async.api import open_api
from atoll.sdk.models import KeyInfo, NewKey, TeamInfo, TeamLimits


class AsyncTeam:
    """
    Who owns sandboxes, volumes, secrets and keys; a key sees what is its team's, and nothing else.

    The home's own key may do everything, for every team; an access token what concerns its own team;
    an API key nothing here but list its team. Every call takes ``api_url``, ``api_key`` and
    ``request_timeout``, as ``AsyncSandbox``'s do, and raises PermissionDeniedError where the key may not.
    """

    @classmethod
    async def list(
        cls, *, api_url: str | None = None, api_key: str | None = None, request_timeout: float | None = None
    ) -> builtins.list[TeamInfo]:
        """List the teams that the key may act for, oldest first."""
        async with open_api(api_url, api_key, request_timeout) as api:
            return await api.teams()

    @classmethod
    async def create(
        cls,
        name: str,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> TeamInfo:
        """
        Create a team; it has no keys yet.

        Raises:
            AlreadyExistsError: there is one of this name.
            InvalidArgumentError: the name has not 1 to 100 characters that can be shown.
            ResourceExhaustedError: there are as many as there may be.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            return await api.create_team(name)

    @classmethod
    async def set_limits(
        cls,
        team: str,
        limits: TeamLimits,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> TeamInfo:
        """
        Replace a team's limits; only with the home's own key.

        They hold for what is begun from then on: what runs, runs on.

        Args:
            team: id or name.
            limits: all of them; ``TeamLimits()`` gives it what the server allows everybody.

        Raises:
            NotFoundError: no such team.
            InvalidArgumentError: a value that the server allows nobody.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            return await api.limit_team(team, limits)

    @classmethod
    async def delete(
        cls,
        team: str,
        *,
        force: bool = False,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> None:
        """
        Delete a team with its keys, secrets, webhooks and events; only with the home's own key.

        It goes on when this call is given up, and may be called again to wait for its end.

        Args:
            team: id or name.
            force: end its sandboxes and delete its volumes and snapshots, too.

        Raises:
            NotFoundError: no such team.
            FailedPreconditionError: it has sandboxes, volumes or snapshots; or it is the home's own.
            UnavailableError: something would not go yet; the server keeps trying.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            await api.delete_team(team, force=force)

    @classmethod
    async def keys(
        cls,
        team: str | None = None,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> builtins.list[KeyInfo]:
        """
        List a team's keys, oldest first.

        Args:
            team: id or name; None: the one that the key belongs to.

        Raises:
            NotFoundError: no such team, or somebody else's.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            return await api.keys(team)

    @classmethod
    async def create_key(
        cls,
        name: str,
        *,
        team: str | None = None,
        access_token: bool = False,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> NewKey:
        """
        Make a key.

        Args:
            name: its owner's word for it, 1 to 100 characters.
            team: id or name; None: the one that the key belongs to.
            access_token: make one that may make and revoke keys itself.

        Raises:
            NotFoundError: no such team, or somebody else's.
            InvalidArgumentError: another name.
            ResourceExhaustedError: the team has as many as it may.
        """
        kind = "access_token" if access_token else "api_key"
        async with open_api(api_url, api_key, request_timeout) as api:
            return await api.create_key(name, kind, team)

    @classmethod
    async def revoke_key(
        cls,
        key_id: str,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> None:
        """
        Take a key back; it is refused at once. What it started lives on.

        Raises:
            NotFoundError: no such key, or somebody else's.
            FailedPreconditionError: it is the home's own.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            await api.revoke_key(key_id)
