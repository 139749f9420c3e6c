"""
What the command line shows: results on standard output, everything for people on standard error.

Names, messages and output of sandboxes are strangers' words: control characters never reach the terminal.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress


def safe(text: object) -> str:
    """Make text of strangers fit for a terminal: what cannot be seen is written as an escape."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text)
    )


def is_told(error: BaseException) -> bool:
    """Tell whether an error has the three parts of Atoll's: message, details, resolution."""
    return hasattr(error, "message") and hasattr(error, "details") and hasattr(error, "resolution")


def tell_error(error: Any) -> None:
    """Show what happened, the facts, what to do."""
    tell(error.message, error.details, error.resolution)


def tell(message: str, details: str | None = None, resolution: str | None = None) -> None:
    """Show what happened, the facts, what to do."""
    lines = [f"atoll: {safe(message)}"]
    lines += [f"  {safe(line)}" for line in (details or "").splitlines()]
    lines += [f"  → {safe(line)}" for line in (resolution or "").splitlines()]
    click.echo("\n".join(lines), err=True)


def note(text: str) -> None:
    """Say something to people."""
    click.echo(text, err=True)


def show_json(value: Any) -> None:
    """Print data for programs."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def show_json_line(value: Any) -> None:
    """Print data for programs that read line by line."""
    click.echo(json.dumps(_plain(value), ensure_ascii=False))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def show_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print columns; nothing is cut, so that grep and awk find all of it."""
    cells = [list(head), *([safe(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def size(count: int | None) -> str:
    """Write a number of bytes as people read it."""
    if count is None:
        return "-"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def moment(when: datetime | None) -> str:
    """Write a point in time in this machine's time zone."""
    return "-" if when is None else when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def left(until: datetime | None) -> str:
    """Write how long it is until then; None: there is no such moment."""
    if until is None:
        return "never"
    seconds = round((until - datetime.now(UTC)).total_seconds())
    if seconds <= 0:
        return "over"
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    )


class Steps:
    """Shows what is being done: a bar on a terminal, else one line for each new step."""

    def __init__(self, progress: "Progress | None") -> None:
        self._progress = progress
        self._task = None if progress is None else progress.add_task("", total=None)
        self._last = ""

    def __call__(self, text: str, part: float | None) -> None:
        """Say what is being done, and how far it is: 0 to 1, or None."""
        if self._progress is not None and self._task is not None:
            total = None if part is None else 1.0
            self._progress.update(self._task, description=safe(text), completed=part or 0.0, total=total)
        elif text != self._last:
            note(f"· {safe(text)}")
        self._last = text


@contextmanager
def steps() -> Iterator[Steps]:
    """Show the progress of long work on standard error, and clear it away at the end."""
    if not sys.stderr.isatty():
        yield Steps(None)
        return
    # Rich takes a tenth of a second to load, which most verbs need not wait for.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Steps(progress)
