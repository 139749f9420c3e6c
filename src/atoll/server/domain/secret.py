"""
A secret: a value that programs in sandboxes use and never see, under a name. It is written, and never read.

E2B's names and limits: what its clients may send.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.ids import TeamId

# What ids begin with; so no name may.
PREFIX = "sec_"
MOST_NAME = 128
MOST_METADATA_PAIRS = 32
MOST_METADATA_KEY_BYTES = 128
MOST_METADATA_VALUE_BYTES = 1024
MOST_METADATA_BYTES = 8192
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
# Braces would end a placeholder, a slash a path.
_NAME = re.compile(r"[^{}/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


@dataclass(frozen=True, kw_only=True)
class Secret:
    """
    What everybody with a key of the team may know of a secret.

    Attributes:
        id: ``sec_`` and 20 of [a-z0-9].
        team_id: whose.
        name: in lower case, one of a kind in the team.
        version: 1, and one more with each value.
        metadata: the owner's own words about it.
    """

    id: str
    team_id: TeamId
    name: str
    version: int
    created_at: datetime
    updated_at: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)


def new_secret_id() -> str:
    """Make an id that no other secret has."""
    return PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(20))


def canonical_name(untrusted: str) -> str:
    """Return a name as it is kept and compared."""
    return untrusted.lower()


def check_name(untrusted: str) -> str:
    """
    Return a new secret's name as it is kept.

    Raises:
        InvalidArgumentError: no secret can be called that.
    """
    name = canonical_name(untrusted)
    if not name or len(name) > MOST_NAME or not _NAME.fullmatch(name) or name != name.strip():
        raise InvalidArgumentError(
            f"The name of a secret has 1 to {MOST_NAME} characters, no braces, slashes or control characters"
        )
    if name.startswith(PREFIX):
        raise InvalidArgumentError(f"The name of a secret must not begin with {PREFIX}: ids do")
    return name


def check_value(untrusted: str, most_bytes: int) -> None:
    """
    Check a value; it is in no message.

    Raises:
        InvalidArgumentError: empty, too long, or no text.
    """
    try:
        size = len(untrusted.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError("The value of a secret is not valid Unicode") from None
    if not 0 < size <= most_bytes:
        raise InvalidArgumentError(f"The value of a secret has {size} bytes, and must have 1 to {most_bytes}")


def check_metadata(untrusted: Mapping[str, str]) -> None:
    """
    Check the owner's words about a secret.

    Raises:
        InvalidArgumentError: too many, too long, or no text.
    """
    if len(untrusted) > MOST_METADATA_PAIRS:
        raise InvalidArgumentError(
            f"metadata of a secret has {len(untrusted)} pairs, at most {MOST_METADATA_PAIRS}"
        )
    total = 0
    for key, value in untrusted.items():
        try:
            sizes = len(key.encode()), len(value.encode())
        except UnicodeEncodeError:
            raise InvalidArgumentError("metadata of a secret is not valid Unicode") from None
        if sizes[0] > MOST_METADATA_KEY_BYTES or sizes[1] > MOST_METADATA_VALUE_BYTES:
            raise InvalidArgumentError(
                f"metadata of a secret: keys have at most {MOST_METADATA_KEY_BYTES} bytes, values "
                f"{MOST_METADATA_VALUE_BYTES}"
            )
        total += sum(sizes)
    if total > MOST_METADATA_BYTES:
        raise InvalidArgumentError(f"metadata of a secret has {total} bytes, at most {MOST_METADATA_BYTES}")
