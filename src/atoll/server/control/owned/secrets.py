"""
The secrets of teams: written by their owners, read by the edge only, for rules that name them.

Nothing here logs a value or puts one into an error.
"""

from collections.abc import Mapping, Sequence

import structlog

from atoll.server.control.limits import ControlLimits
from atoll.server.control.requests import Actor
from atoll.server.domain import secret as rules
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.sandbox import Sandbox
from atoll.server.domain.secret import Secret
from atoll.server.ports.clock import Clock
from atoll.server.ports.secrets import SecretStore

log = structlog.get_logger(__name__)

# Of one page of a list.
MOST_LISTED = 100


class Secrets:
    """Creates, lists, changes and deletes secrets, and resolves them for sandboxes."""

    def __init__(self, *, store: SecretStore, clock: Clock, limits: ControlLimits) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits

    async def create(
        self, actor: Actor, untrusted_name: str, value: str, metadata: Mapping[str, str]
    ) -> Secret:
        """
        Keep a new secret.

        Raises:
            InvalidArgumentError: name, value or metadata outside their bounds.
            AlreadyExistsError: there is one of this name.
            ResourceExhaustedError: the team has as many as it may.
        """
        name = rules.check_name(untrusted_name)
        rules.check_value(value, self._limits.secret_value_bytes)
        rules.check_metadata(metadata)
        now = self._clock.now()
        made = Secret(
            id=rules.new_secret_id(),
            team_id=actor.team_id,
            name=name,
            version=1,
            metadata=dict(metadata),
            created_at=now,
            updated_at=now,
        )
        await self._store.add_secret(made, value, most=self._limits.max_secrets)
        log.info("secret created", secret_id=made.id, team_id=actor.team_id)
        return made

    async def get(self, actor: Actor, untrusted_key: str) -> Secret:
        """
        Read what is known of a secret, by id or name; its value is not.

        Raises:
            NotFoundError: there is none.
        """
        return await self._store.get_secret(actor.team_id, rules.canonical_name(untrusted_key))

    async def list(self, actor: Actor, *, after: str, limit: int) -> Sequence[Secret]:
        """
        List secrets in the order of their names, behind one.

        Raises:
            InvalidArgumentError: the limit is not 1 to 100.
        """
        if not 1 <= limit <= MOST_LISTED:
            raise InvalidArgumentError(f"limit must be 1 to {MOST_LISTED}")
        return await self._store.list_secrets(actor.team_id, after=after, limit=limit)

    async def update(
        self, actor: Actor, untrusted_key: str, value: str, metadata: Mapping[str, str] | None
    ) -> Secret:
        """
        Give a secret another value; the old one is gone. None leaves its metadata as it is.

        Raises:
            InvalidArgumentError: value or metadata outside their bounds.
            NotFoundError: there is none.
        """
        rules.check_value(value, self._limits.secret_value_bytes)
        if metadata is not None:
            rules.check_metadata(metadata)
        key = rules.canonical_name(untrusted_key)
        changed = await self._store.replace_value(actor.team_id, key, value, metadata, self._clock.now())
        log.info("secret changed", secret_id=changed.id, team_id=actor.team_id, version=changed.version)
        return changed

    async def delete(self, actor: Actor, untrusted_key: str) -> bool:
        """Delete a secret, by id or name; return whether it was there."""
        gone = await self._store.delete_secret(actor.team_id, rules.canonical_name(untrusted_key))
        if gone:
            log.info("secret deleted", team_id=actor.team_id)
        return gone

    async def values_for(self, sandbox: Sandbox, names: Sequence[str]) -> Mapping[str, str]:
        """
        Return the values of secrets that a sandbox's rules name, by the names as they are written there.

        What the rules do not name, and what is not there, is left out.
        """
        named = {name for rule in sandbox.egress.rules for name in rule.secrets}.intersection(names)
        found = await self._store.secret_values(
            sandbox.team_id, sorted({rules.canonical_name(name) for name in named})
        )
        return {name: value for name in named if (value := found.get(rules.canonical_name(name))) is not None}
