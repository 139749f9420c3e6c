"""
A sandbox's log: lines about its life, and what its guest says about commands.

A guest says what it wants: its lines are bounded here, and made text that no terminal obeys.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from atoll.server.domain.sandbox import WANTED, Sandbox

# What one line may hold; guestd cuts shorter, somebody in its place may not.
MOST_MESSAGE = 1100
MOST_FIELDS = 16
MOST_FIELD_NAME = 64
# Lines of one answer of a guest, and the longest number or time that is one.
MOST_LINES = 1000
_LARGEST = 2**53


class Level(StrEnum):
    """How much a line matters, the least first."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """Their order."""
        return list(Level).index(self)


@dataclass(frozen=True, kw_only=True)
class Line:
    """
    One line.

    Attributes:
        number: the guest's count of its lines, from 1; 0: not of the guest.
        fields: facts by name.
    """

    at: datetime
    level: Level
    message: str
    fields: Mapping[str, str] = field(default_factory=dict)
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class LogQuery:
    """
    Which lines.

    Attributes:
        start: first moment, included.
        end: first moment that is too late.
        most: number of lines.
        newest_first: the order, and so which ones are left out when there are more.
        level: the least.
        search: what the message or a field contains, whatever its case; empty: anything.
    """

    start: datetime | None = None
    end: datetime | None = None
    most: int
    newest_first: bool = False
    level: Level = Level.DEBUG
    search: str = ""


def select(lines: Iterable[Line], query: LogQuery) -> Sequence[Line]:
    """Find lines, in the order that is asked for."""
    searched = query.search.casefold()
    found = [line for line in lines if _matches(line, query, searched)]
    found.sort(key=lambda line: (line.at, line.number))
    if query.newest_first:
        found.reverse()
    return found[: query.most]


def _matches(line: Line, query: LogQuery, searched: str) -> bool:
    if query.start is not None and line.at < query.start:
        return False
    if query.end is not None and line.at >= query.end:
        return False
    if line.level.rank < query.level.rank:
        return False
    return not searched or any(searched in text.casefold() for text in (line.message, *line.fields.values()))


def life(row: Sandbox) -> Sequence[Line]:
    """Tell a sandbox's life, as its row has it."""
    template = {"logger": "sandbox", "template": row.template_id}
    lines = [Line(at=row.created_at, level=Level.INFO, message="sandbox created", fields=template)]
    if row.started_at is not None:
        lines.append(
            Line(at=row.started_at, level=Level.INFO, message="sandbox started", fields={"logger": "sandbox"})
        )
    lines += _upkeep(row)
    if row.ended_at is not None:
        wanted = row.end_reason in WANTED
        reason = row.end_reason.value if row.end_reason is not None else "unknown"
        lines.append(
            Line(
                at=row.ended_at,
                level=Level.INFO if wanted else Level.ERROR,
                message="sandbox ended",
                fields={"logger": "sandbox", "reason": reason},
            )
        )
    return lines


def _upkeep(row: Sandbox) -> Iterator[Line]:
    """Tell what was done for a sandbox by itself, as far as its row has it: the last time of each."""
    if (skip := row.snapshot_skip) is not None:
        fields = {"logger": "sandbox", "reason": skip.why}
        yield Line(at=skip.at, level=Level.WARN, message="scheduled snapshot not taken", fields=fields)
    if (fall := row.fall) is None:
        return
    fields = {"logger": "sandbox", "reason": fall.reason}
    yield Line(at=fall.at, level=Level.WARN, message="sandbox's machine ended", fields=fields)
    if fall.problem is not None:
        fields = {"logger": "sandbox", "reason": fall.problem}
        yield Line(at=fall.at, level=Level.ERROR, message="sandbox did not come back", fields=fields)
    if fall.back_at is not None:
        fields = {"logger": "sandbox", "snapshot": fall.origin or "none", "generation": str(row.generation)}
        yield Line(at=fall.back_at, level=Level.INFO, message="sandbox came back", fields=fields)


def parse_lines(untrusted: bytes, *, after: int) -> Sequence[Line]:
    """Read a guest's lines with numbers after ``after``, as far as they are any; the others are left out."""
    found: list[Line] = []
    for text in untrusted.split(b"\n", MOST_LINES)[:MOST_LINES]:
        line = _parse(text)
        if line is not None and line.number > after:
            after = line.number
            found.append(line)
    return found


def _parse(text: bytes) -> Line | None:
    try:
        value = json.loads(text)
        number, milliseconds = _whole(value["n"]), _whole(value["t"])
        return Line(
            number=number,
            at=datetime.fromtimestamp(milliseconds / 1000, UTC),
            level=Level(value["level"]),
            message=_clean(value["message"], MOST_MESSAGE),
            fields=_fields(value["fields"]),
        )
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError, OSError):
        return None


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 < value < _LARGEST:
        raise ValueError("not a number that is possible")
    return value


def _fields(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    pairs = list(value.items())[:MOST_FIELDS]
    return {_clean(name, MOST_FIELD_NAME): _clean(_text(one), MOST_MESSAGE) for name, one in pairs}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float) and len(text := str(value)) < MOST_FIELD_NAME:
        return text
    raise TypeError("neither text nor number")


def _clean(value: Any, most: int) -> str:
    """Cut text short, and take out what drives terminals and what is no character."""
    if not isinstance(value, str):
        raise TypeError("not text")
    text: str = value[:most]
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " for letter in text)
