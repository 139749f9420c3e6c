"""
Teams, and what their members show to call: API keys, access tokens, the home's own key.

Of a key only its hash is kept, and a few of its characters, so that its owner knows it again.
"""

import hashlib
import secrets
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.ids import TeamId
from atoll.server.domain.team_limits import TeamLimits

# The team of the home's own key, which is always there.
DEFAULT_TEAM = TeamId("default")
# Longer ones are not hashed; ours have at most 47 characters.
MOST_KEY_LENGTH = 256
# Characters of a team's or a key's name.
MOST_NAME = 100
# The last use of a key is written at most so often: a write for every call would be felt.
USE_IS_NOTED_EVERY = timedelta(minutes=1)

_SHOWN_FIRST, _SHOWN_LAST = 2, 4


class KeyKind(StrEnum):
    """
    What may be done with a key.

    ``HOME``: everything, with all teams; who has it has the machine.
    ``ACCESS_TOKEN``: everything with its team, its keys included.
    ``API_KEY``: everything with its team but its keys. Programs get these: one that leaks makes no others.
    """

    HOME = "home"
    ACCESS_TOKEN = "access_token"  # noqa: S105  a kind, not a token
    API_KEY = "api_key"


# What a key of a kind begins with. E2B's clients take API keys of "e2b_" and 40 hexadecimal digits only.
PREFIXES = {KeyKind.HOME: "e2b_", KeyKind.API_KEY: "e2b_", KeyKind.ACCESS_TOKEN: "sk_e2b_"}


@dataclass(frozen=True, kw_only=True)
class Team:
    """
    Who owns sandboxes, volumes, secrets and keys.

    Attributes:
        name: its owner's word for it; no two teams have the same.
        limits: what it may use, where that is less than the server allows everybody.
        deleting_since: when its deletion began; nothing new is made for it from then on. None: it stays.
    """

    id: TeamId
    name: str
    created_at: datetime
    limits: TeamLimits = field(default_factory=TeamLimits)
    deleting_since: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Mask:
    """
    What is shown of a key.

    Attributes:
        prefix: before the random part.
        length: of the random part.
        first: its first characters.
        last: its last ones.
    """

    prefix: str
    length: int
    first: str
    last: str


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """
    Who may call.

    Attributes:
        hash: sha256 of the key, hexadecimal. The key itself is not kept.
        team_id: for whom.
        name: the owner's word for it; several may have the same.
        last_used_at: to the minute; None: never.
    """

    id: str
    hash: str
    team_id: TeamId
    name: str
    kind: KeyKind
    mask: Mask
    created_at: datetime
    last_used_at: datetime | None = None


def new_key(kind: KeyKind) -> str:
    """Make a key: its kind's prefix and 40 hexadecimal digits, 160 bits that nobody guesses."""
    return PREFIXES[kind] + secrets.token_hex(20)


def hash_key(key: str) -> str:
    """
    Return what is kept of a key.

    Keys are random and long, so a plain hash cannot be turned around.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def make_key(key: str, kind: KeyKind, team_id: TeamId, name: str, now: datetime) -> ApiKey:
    """Make the record of a key."""
    prefix = PREFIXES[kind]
    rest = key.removeprefix(prefix)
    return ApiKey(
        id=str(uuid.uuid4()),
        hash=hash_key(key),
        team_id=team_id,
        name=name,
        kind=kind,
        mask=Mask(prefix=prefix, length=len(rest), first=rest[:_SHOWN_FIRST], last=rest[-_SHOWN_LAST:]),
        created_at=now,
    )


def new_team_id() -> TeamId:
    """Make an id that no other team has; E2B's clients take it for a UUID."""
    return TeamId(str(uuid.uuid4()))


def check_name(untrusted: str, of_what: str) -> str:
    """
    Check the name of a team or a key.

    Raises:
        InvalidArgumentError: empty, too long, or with characters that cannot be shown.
    """
    name = untrusted.strip()
    if not name or len(name) > MOST_NAME or not name.isprintable():
        raise InvalidArgumentError(
            f"The name of {of_what} must have 1 to {MOST_NAME} characters that can be shown"
        )
    return name
