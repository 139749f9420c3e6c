"""
Workload identity: tokens that prove to others which sandbox calls, and the keys that sign them.

A token is a JWT-SVID as SPIFFE has it: its subject names the sandbox, its audience whom it is for. The
sandbox never sees it; a header rule names it, ``${e2b.identity.tokens.<name>}``.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.ids import SandboxId, TeamId

# As many as E2B allows.
MOST_TOKENS = 5
MOST_NAME = 128
MOST_AUDIENCE = 1024
# Braces would end a placeholder; E2B's clients refuse the same.
_NAME = re.compile(r"[^{}\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_AUDIENCE = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
# SPIFFE's form of a trust domain.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
# Error texts repeat at most so much of what the caller sent.
_MOST_QUOTED = 64


@dataclass(frozen=True, kw_only=True)
class IdentityLimits:
    """
    How tokens of sandboxes, and the keys that sign them, are made.

    Attributes:
        issuer: address under which those whom tokens are shown to reach the server's discovery document; they
            compare it with the token's. Empty: ``https://api.<domain>`` with TLS, else where the server
            listens, which only this machine can reach for the most part.
        trust_domain: of the names of sandboxes, ``spiffe://<trust domain>/team/…/sandbox/…``. Empty: the
            domain with TLS, else ``atoll-`` and the home's id, which no other home has.
        token_time: how long a token is good for. It is made anew for requests after some seconds, so this
            only has to outlast differences between clocks, and slow requests; a stolen one is soon worthless.
        key_time: how long a key signs until the next one takes over.
        key_overlap: how long a new key is published before it signs, and an old one after it did: longer than
            those who verify keep the list of keys, which is a day for the most part.
    """

    issuer: str = ""
    trust_domain: str = ""
    token_time: timedelta = timedelta(minutes=5)
    key_time: timedelta = timedelta(days=30)
    key_overlap: timedelta = timedelta(days=2)


@dataclass(frozen=True, kw_only=True)
class WorkloadToken:
    """
    A token that a sandbox's rules may name.

    Attributes:
        name: the caller's word for it, one of a kind in the sandbox.
        audience: whom it is for, exactly as the caller wrote it.
    """

    name: str
    audience: str


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """
    What everybody may know of a key that signs.

    Attributes:
        id: in the head of each token.
        public: what verifies, as RFC 7517 has it.
    """

    id: str
    created_at: datetime
    public: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class KeyPlan:
    """
    What is to be done with the keys there are.

    Attributes:
        signing: which signs now; None: there is none.
        wants_new: whether one more is to be made, which signs later, or at once when there is none.
        over: those that nobody needs any more.
    """

    signing: SigningKey | None
    wants_new: bool
    over: tuple[SigningKey, ...]


def plan_keys(keys: Sequence[SigningKey], now: datetime, limits: IdentityLimits) -> KeyPlan:
    """
    Say which key signs, whether the next is due, and which may go.

    A key signs once it has been published for ``key_overlap``, and until the next one does.
    """
    ordered = sorted(keys, key=lambda key: (key.created_at, key.id))
    if not ordered:
        return KeyPlan(signing=None, wants_new=True, over=())
    # The oldest signs at once: there was none whose tokens anybody knew.
    begun = [key for key in ordered[1:] if key.created_at + limits.key_overlap <= now]
    signing = begun[-1] if begun else ordered[0]
    over: list[SigningKey] = []
    for key, next_one in itertools.pairwise(ordered):
        last_signed = next_one.created_at + limits.key_overlap
        if last_signed + limits.key_overlap + limits.token_time <= now:
            over.append(key)
    due = ordered[-1].created_at + limits.key_time <= now
    return KeyPlan(signing=signing, wants_new=due, over=tuple(over))


def check_tokens(untrusted: Sequence[WorkloadToken]) -> tuple[WorkloadToken, ...]:
    """
    Check the tokens that a sandbox is to have.

    Raises:
        InvalidArgumentError: too many, or a name or an audience that none can have.
    """
    if len(untrusted) > MOST_TOKENS:
        raise InvalidArgumentError(f"iam.tokens has {len(untrusted)} tokens, at most {MOST_TOKENS}")
    for token in untrusted:
        shown = ascii(token.name[:_MOST_QUOTED])
        if not _NAME.fullmatch(token.name) or len(token.name) > MOST_NAME:
            raise InvalidArgumentError(
                f"iam token name {shown} must have 1 to {MOST_NAME} characters, "
                "no braces and no control characters"
            )
        if not _AUDIENCE.fullmatch(token.audience) or len(token.audience) > MOST_AUDIENCE:
            raise InvalidArgumentError(
                f"The audience of iam token {shown} must have 1 to {MOST_AUDIENCE} characters, "
                "no control characters"
            )
        if token.audience != token.audience.strip():
            raise InvalidArgumentError(f"The audience of iam token {shown} begins or ends with spaces")
    if len({token.name for token in untrusted}) < len(untrusted):
        raise InvalidArgumentError("iam.tokens names a token twice")
    return tuple(untrusted)


def check_trust_domain(untrusted: str) -> str:
    """
    Check what names of sandboxes begin with.

    Raises:
        InvalidArgumentError: SPIFFE has other forms.
    """
    if not _TRUST_DOMAIN.fullmatch(untrusted):
        raise InvalidArgumentError(
            f"{untrusted[:_MOST_QUOTED]!r} is no trust domain (identity.trust_domain)",
            resolution="1 to 255 of a-z, 0-9, '.', '_' and '-'.",
        )
    return untrusted


def spiffe_id(trust_domain: str, team_id: TeamId, sandbox_id: SandboxId) -> str:
    """Return the name that a sandbox has for others."""
    return f"spiffe://{trust_domain}/team/{team_id}/sandbox/{sandbox_id}"


def to_plain(tokens: Sequence[WorkloadToken]) -> list[dict[str, str]]:
    """Return tokens as JSON has them."""
    return [{"name": token.name, "audience": token.audience} for token in tokens]


def from_plain(content: object) -> tuple[WorkloadToken, ...]:
    """
    Read what ``to_plain`` wrote.

    Raises:
        TypeError: it has another form.
    """
    if not isinstance(content, list):
        raise TypeError("not a list of workload tokens")
    return tuple(_from_plain(one) for one in content)


def _from_plain(content: object) -> WorkloadToken:
    match content:
        case {"name": str(name), "audience": str(audience)}:
            return WorkloadToken(name=name, audience=audience)
    raise TypeError("not a workload token")
