"""
Identities of sandboxes: tokens for their rules, and what others verify them with.

Keys rotate when somebody asks for a token or for the list of keys: whom nobody asks needs no new one.
Nothing here logs a token or puts one into an error.
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from atoll.server.domain.identity import IdentityLimits, SigningKey, plan_keys, spiffe_id
from atoll.server.domain.sandbox import Sandbox
from atoll.server.ports.clock import Clock
from atoll.server.ports.identity import SigningKeys

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Issuer:
    """
    Who vouches.

    Attributes:
        address: where others find the discovery document; tokens name it as their issuer.
        trust_domain: of the names of sandboxes.
    """

    address: str
    trust_domain: str


class Identity:
    """Mints tokens, and publishes keys."""

    def __init__(self, *, keys: SigningKeys, issuer: Issuer, clock: Clock, limits: IdentityLimits) -> None:
        self._keys = keys
        self._clock = clock
        self._limits = limits
        self.issuer = issuer
        # Two callers must not each make the first key.
        self._turning = asyncio.Lock()

    async def tokens_for(self, sandbox: Sandbox, names: Sequence[str]) -> Mapping[str, str]:
        """Mint tokens that a sandbox's rules name; those that it does not have are left out."""
        named = {name for rule in sandbox.egress.rules for name in rule.tokens}.intersection(names)
        wanted = [token for token in sandbox.tokens if token.name in named]
        if not wanted:
            return {}
        signing, _ = await self._turn()
        now = self._clock.now()
        return {
            token.name: await self._keys.sign(
                signing.id,
                {
                    "iss": self.issuer.address,
                    "sub": spiffe_id(self.issuer.trust_domain, sandbox.team_id, sandbox.id),
                    "aud": token.audience,
                    "iat": int(now.timestamp()),
                    "exp": int((now + self._limits.token_time).timestamp()),
                    "jti": str(uuid.uuid4()),
                },
            )
            for token in wanted
        }

    async def published(self) -> Sequence[SigningKey]:
        """List the keys whose signatures are to be believed, those that sign later included."""
        _, keys = await self._turn()
        return keys

    async def _turn(self) -> tuple[SigningKey, Sequence[SigningKey]]:
        """Make the next key when it is due, drop what nobody needs; return what signs, and all."""
        async with self._turning:
            keys = list(await self._keys.list_keys())
            plan = plan_keys(keys, self._clock.now(), self._limits)
            if plan.over:
                await self._keys.drop_keys([key.id for key in plan.over])
                keys = [key for key in keys if key not in plan.over]
                log.info("signing keys dropped", key_ids=[key.id for key in plan.over])
            signing = plan.signing
            if plan.wants_new:
                made = await self._keys.make_key(self._clock.now())
                keys.append(made)
                signing = signing or made
                log.info("signing key made", key_id=made.id)
            assert signing is not None
            return signing, keys
