"""What a guest says becomes lines that harm nobody, and lines are found."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.server.domain.logs import (
    MOST_FIELDS,
    MOST_LINES,
    MOST_MESSAGE,
    Level,
    Line,
    LogQuery,
    parse_lines,
    select,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


def said(number: int = 1, **changes: object) -> bytes:
    value = {"n": number, "t": 1_767_225_600_000, "level": "info", "message": "hello", "fields": {"pid": 3}}
    return json.dumps(value | changes).encode()


def test_a_line_is_read() -> None:
    [line] = parse_lines(said() + b"\n", after=0)

    assert line == Line(number=1, at=START, level=Level.INFO, message="hello", fields={"pid": "3"})


@pytest.mark.parametrize(
    "untrusted",
    [
        b"",
        b"\n\n",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 60_000,
        said(number=0),
        said(number=-1),
        said(number=2**64),
        said(number=True),
        said(t="now"),
        said(t=10**15),
        said(t=1e400),
        said(level="fatal"),
        said(level=["info"]),
        said(message=None),
        said(message={"a": 1}),
        said(fields=[]),
        said(fields={"a": {"b": 1}}),
        said(fields={"a": 10**400}),
    ],
)
def test_what_is_no_line_is_left_out(untrusted: bytes) -> None:
    good = said(number=7)

    assert [line.number for line in parse_lines(untrusted + b"\n" + good, after=0)] in ([7], [1, 7], [])
    assert all(line.number == 7 for line in parse_lines(untrusted + b"\n" + good, after=1))


def test_text_drives_no_terminal_and_is_short() -> None:
    [line] = parse_lines(
        said(message="a\x1b[31m\r\n\u202e" + "x" * 9000, fields={f"k{n}\x07": "\x00" for n in range(99)}),
        after=0,
    )

    assert line.message.isprintable()
    assert line.message.startswith("a [31m   x")
    assert len(line.message) == MOST_MESSAGE
    assert len(line.fields) <= MOST_FIELDS
    assert all(name.isprintable() and value.isprintable() for name, value in line.fields.items())


def test_half_a_pair_of_surrogates_is_no_character() -> None:
    [line] = parse_lines(said().replace(b"hello", b"\\ud800"), after=0)

    line.message.encode()


def test_numbers_only_grow_and_begin_after_what_was_read() -> None:
    untrusted = b"\n".join(said(number) for number in (3, 5, 4, 5, 6))

    assert [line.number for line in parse_lines(untrusted, after=3)] == [5, 6]


def test_lines_of_one_answer_are_bounded() -> None:
    untrusted = b"\n".join(said(number) for number in range(1, 2 * MOST_LINES))

    assert len(parse_lines(untrusted, after=0)) == MOST_LINES


@given(st.binary(max_size=300))
def test_nothing_that_a_guest_says_raises(untrusted: bytes) -> None:
    parse_lines(untrusted, after=0)


@given(st.text())
def test_no_text_raises(text: str) -> None:
    for line in parse_lines(said(message=text, fields={text: text}), after=0):
        assert line.message.isprintable()


def line(second: int, message: str = "m", level: Level = Level.INFO, **fields: str) -> Line:
    return Line(at=START + timedelta(seconds=second), level=level, message=message, fields=fields)


LINES = [line(2, "Two", cmd="Bash"), line(1, "one", Level.DEBUG), line(3, "three", Level.ERROR)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["one", "Two", "three"]),
        ({"newest_first": True}, ["three", "Two", "one"]),
        ({"most": 1}, ["one"]),
        ({"most": 1, "newest_first": True}, ["three"]),
        ({"start": START + timedelta(seconds=2)}, ["Two", "three"]),
        ({"end": START + timedelta(seconds=2)}, ["one"]),
        ({"level": Level.INFO}, ["Two", "three"]),
        ({"level": Level.ERROR}, ["three"]),
        ({"search": "two"}, ["Two"]),
        ({"search": "BASH"}, ["Two"]),
        ({"search": "nothing"}, []),
    ],
)
def test_lines_are_found(query: dict[str, object], expected: list[str]) -> None:
    found = select(LINES, LogQuery(**({"most": 10} | query)))  # type: ignore[arg-type]

    assert [one.message for one in found] == expected
