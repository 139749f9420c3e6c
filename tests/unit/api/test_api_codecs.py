"""What travels through a client and comes back: page tokens and metadata filters."""

import base64
import urllib.parse
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atoll.server.api.cursor import decode_cursor, encode_cursor
from atoll.server.api.e2b.queries import decode_metadata, decode_states, split_list
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.ids import SandboxId, new_sandbox_id
from atoll.server.domain.sandbox import Status

# Not what UTF-8 cannot carry, nor what is refused.
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
moments = st.datetimes(
    min_value=datetime(1971, 1, 1),  # noqa: DTZ001  hypothesis adds the zone
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
)
ids = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=20, max_size=20).map(
    lambda s: SandboxId("i" + s)
)


def as_the_python_client_sends_it(metadata: dict[str, str]) -> str:
    """One level of quoting is left when a server has read the query."""
    quoted = {urllib.parse.quote(key): urllib.parse.quote(value) for key, value in metadata.items()}
    return urllib.parse.urlencode(quoted)


@given(st.dictionaries(words.filter(bool), words, min_size=1, max_size=8))
@example({"k y": "v&"})
@example({"=": "%2520", "+": " "})
def test_a_metadata_filter_comes_back_as_it_was_meant(metadata: dict[str, str]) -> None:
    assert dict(decode_metadata(as_the_python_client_sends_it(metadata))) == metadata


def test_the_captured_metadata_filter_is_read() -> None:
    on_the_wire = "k%252520y%3Dv%252526"

    once = dict(urllib.parse.parse_qsl(f"metadata={on_the_wire}"))["metadata"]

    assert decode_metadata(once) == (("k y", "v&"),)


@given(st.text(max_size=200))
def test_no_metadata_filter_makes_anything_but_pairs_or_a_named_error(untrusted: str) -> None:
    try:
        pairs = decode_metadata(untrusted)
    except InvalidArgumentError:
        return
    assert all("\0" not in key + value for key, value in pairs)


@pytest.mark.parametrize(
    "untrusted", ["novalue", "a=%00", "a=%2500", "a=%FF", "&".join("a=b" for _ in range(65))]
)
def test_a_metadata_filter_that_is_none_is_refused(untrusted: str) -> None:
    with pytest.raises(InvalidArgumentError, match="metadata"):
        decode_metadata(untrusted)


@given(moments, ids, st.booleans())
def test_a_page_token_comes_back_as_the_place_it_named(
    moment: datetime, sandbox_id: SandboxId, newest_first: bool
) -> None:
    token = encode_cursor((moment, sandbox_id), newest_first=newest_first)

    assert decode_cursor(token, newest_first=newest_first) == (moment, sandbox_id)
    assert token == urllib.parse.quote(token)  # safe in a query as it is


@given(
    st.text(max_size=300) | st.binary(max_size=120).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
)
def test_a_page_token_of_somebody_else_is_refused(untrusted: str) -> None:
    with pytest.raises(InvalidArgumentError, match="Invalid next token"):
        decode_cursor(untrusted, newest_first=True)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01T00:00:00__i" + "a" * 20,  # no time zone
        "0001-01-01T00:00:00+14:00__i" + "a" * 20,  # no such time in UTC
        "2026-01-01T00:00:00+00:00__../../etc",
        "2026-01-01T00:00:00+00:00__",
    ],
)
def test_a_page_token_with_a_place_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="Invalid next token"):
        decode_cursor(base64.urlsafe_b64encode(text.encode()).decode(), newest_first=True)


def test_a_page_token_of_the_other_order_is_refused() -> None:
    token = encode_cursor((datetime(2026, 1, 1, tzinfo=UTC), new_sandbox_id()), newest_first=False)

    with pytest.raises(InvalidArgumentError, match="other order"):
        decode_cursor(token, newest_first=True)


def test_states_come_comma_joined_or_repeated() -> None:
    running = frozenset({Status.RUNNING, Status.PAUSING})
    paused = frozenset({Status.PAUSED, Status.RESUMING})

    assert decode_states(None) == running | paused
    assert decode_states(["running,paused"]) == running | paused
    assert decode_states(["paused", "running"]) == running | paused
    assert decode_states(["paused"]) == paused
    assert decode_states(["running"]) == running
    with pytest.raises(InvalidArgumentError, match="query state"):
        decode_states(["killed"])


def test_a_list_in_one_parameter_is_bounded() -> None:
    assert split_list("sandbox_ids", ["a,b", "c"]) == ("a", "b", "c")
    with pytest.raises(InvalidArgumentError, match="sandbox_ids"):
        split_list("sandbox_ids", [",".join("x" * 101)])
