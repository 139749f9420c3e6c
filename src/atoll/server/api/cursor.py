"""Tokens that name a place in a list; opaque to callers, and checked when they come back."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.ids import SandboxId, VolumeId, parse_sandbox_id
from atoll.server.domain.secret import MOST_NAME
from atoll.server.domain.snapshot import Snapshot, SnapshotId
from atoll.server.domain.volume import Volume

T = TypeVar("T")
Place = tuple[datetime, SandboxId]

_MOST_CHARACTERS = 256
# A character has four bytes at most, and base64 three quarters of its length.
_MOST_NAME_CHARACTERS = 4 * (4 * MOST_NAME + 2) // 3
_ASCENDING = "__asc"


def encode_cursor(place: Place, *, newest_first: bool) -> str:
    """Write a place down: the last row that was shown, and in which order."""
    created_at, sandbox_id = place
    moment = created_at.astimezone(UTC).isoformat()
    text = f"{moment}__{sandbox_id}{'' if newest_first else _ASCENDING}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(untrusted: str, *, newest_first: bool) -> Place:
    """
    Read a place.

    Raises:
        InvalidArgumentError: not a token of ours, or one of a list in the other order.
    """
    try:
        if len(untrusted) > _MOST_CHARACTERS:
            raise ValueError("too long")
        padded = untrusted.rstrip("=") + "=" * (-len(untrusted.rstrip("=")) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
        moment, _, rest = text.partition("__")
        ascending = rest.endswith(_ASCENDING)
        created_at = datetime.fromisoformat(moment)
        if created_at.tzinfo is None:
            raise ValueError("no time zone")
        place = created_at.astimezone(UTC), parse_sandbox_id(rest.removesuffix(_ASCENDING))
    except (ValueError, OverflowError, binascii.Error, InvalidArgumentError) as error:
        raise InvalidArgumentError("Invalid next token") from error
    if ascending == newest_first:
        raise InvalidArgumentError("Invalid next token: it belongs to a list in the other order")
    return place


def encode_snapshot_cursor(last: Snapshot) -> str:
    """Write a place in a list of snapshots down; their ids differ in the first letter only."""
    return encode_cursor((last.created_at, SandboxId(f"i{last.id[1:]}")), newest_first=True)


def decode_snapshot_cursor(untrusted: str) -> tuple[datetime, SnapshotId]:
    """
    Read a place in a list of snapshots.

    Raises:
        InvalidArgumentError: not a token of ours.
    """
    created_at, place = decode_cursor(untrusted, newest_first=True)
    return created_at, SnapshotId(f"s{place[1:]}")


def encode_volume_cursor(last: Volume) -> str:
    """Write a place in a list of volumes down; their ids differ in the first letter only."""
    return encode_cursor((last.created_at, SandboxId(f"i{last.id[1:]}")), newest_first=False)


def decode_volume_cursor(untrusted: str) -> tuple[datetime, VolumeId]:
    """
    Read a place in a list of volumes.

    Raises:
        InvalidArgumentError: not a token of ours.
    """
    created_at, place = decode_cursor(untrusted, newest_first=False)
    return created_at, VolumeId(f"v{place[1:]}")


def encode_name_cursor(name: str) -> str:
    """Write a place in a list by name down: the name of the last that was shown."""
    return base64.urlsafe_b64encode(name.encode()).decode()


def decode_name_cursor(untrusted: str) -> str:
    """
    Read a place in a list by name.

    Raises:
        InvalidArgumentError: not a token of ours.
    """
    try:
        if len(untrusted) > _MOST_NAME_CHARACTERS:
            raise ValueError("too long")
        return base64.b64decode(untrusted, altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error) as error:
        raise InvalidArgumentError("Invalid next token") from error


async def last_before_more(
    page: Sequence[T], limit: int, read_behind: Callable[[T], Awaitable[Sequence[T]]]
) -> T | None:
    """
    Return the last of a page, if there is another page behind it; else None.

    Args:
        page: what was found.
        limit: how many were asked for.
        read_behind: reads one of what comes behind; asked only where the page is full.
    """
    return page[-1] if len(page) == limit and await read_behind(page[-1]) else None
