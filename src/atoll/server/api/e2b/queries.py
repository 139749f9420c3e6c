"""Query parameters of the E2B dialect, decoded: their clients encode some of them more than once."""

from collections.abc import Sequence
from urllib.parse import parse_qsl, unquote

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.sandbox import Status

# Longest list in one parameter; the clients' own bound for ids is 100.
MOST_ITEMS = 100
_MOST_METADATA_PAIRS = 64

# What is neither starting nor over; one that is on its way to another state is still in the old one.
RUNNING = frozenset({Status.RUNNING, Status.PAUSING})
_STATUSES_OF_STATE = {
    "running": RUNNING,
    "paused": frozenset({Status.PAUSED, Status.RESUMING}),
}
STATE_OF_STATUS = {status: state for state, of_it in _STATUSES_OF_STATE.items() for status in of_it}


def decode_metadata(untrusted: str | None) -> tuple[tuple[str, str], ...]:
    """
    Read a metadata filter.

    Clients quote keys and values, join them as a query of its own, and quote that as a parameter.
    The outermost quoting is gone when this is called.

    Raises:
        InvalidArgumentError: not pairs, too many, or not UTF-8.
    """
    if not untrusted:
        return ()
    try:
        pairs = parse_qsl(
            untrusted,
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MOST_METADATA_PAIRS,
        )
        decoded = tuple(
            (unquote(key, errors="strict"), unquote(value, errors="strict")) for key, value in pairs
        )
    except ValueError as error:
        raise InvalidArgumentError(
            "query metadata: must be key=value pairs, each part percent-encoded"
        ) from error
    if any("\0" in key or "\0" in value for key, value in decoded):
        raise InvalidArgumentError("query metadata: must not contain NUL")
    return decoded


def decode_states(untrusted: Sequence[str] | None) -> frozenset[Status]:
    """
    Read a filter of states, comma-joined or repeated; none means all.

    Raises:
        InvalidArgumentError: a state that there is not.
    """
    words = split_list("state", untrusted) or tuple(_STATUSES_OF_STATE)
    for word in words:
        if word not in _STATUSES_OF_STATE:
            raise InvalidArgumentError("query state: must be running, paused or both")
    return frozenset[Status]().union(*(_STATUSES_OF_STATE[word] for word in words))


def split_list(name: str, untrusted: Sequence[str] | None) -> tuple[str, ...]:
    """
    Read a comma-joined or repeated parameter.

    Raises:
        InvalidArgumentError: too many items.
    """
    words = tuple(word.strip() for part in untrusted or () for word in part.split(",") if word.strip())
    if len(words) > MOST_ITEMS:
        raise InvalidArgumentError(f"query {name}: at most {MOST_ITEMS} items")
    return words
