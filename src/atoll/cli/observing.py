"""`atoll sandbox logs`, `metrics`: what happened in a sandbox, and what it used, also after its end."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from atoll import LogLine, Metric, Sandbox
from atoll.cli import options, output

_LEVELS = ("debug", "info", "warn", "error")
# Between two questions of --follow.
_LOG_PAUSE_S = 0.5
_METRIC_PAUSE_S = 2.5

T = TypeVar("T", LogLine, Metric)


@click.command()
@click.argument("sandbox_id")
@click.option("--level", type=click.Choice(_LEVELS), default="info", show_default=True, help="The least.")
@click.option("--search", default="", metavar="TEXT", help="Only lines with this.")
@click.option("--last", type=click.IntRange(1, 1000), help="Only so many, the newest.")
@click.option("--follow", "-f", is_flag=True, help="Go on until it ends.")
@options.as_json
def logs(sandbox_id: str, level: str, search: str, last: int | None, follow: bool, as_json: bool) -> None:
    """Show what happened in a sandbox: its life, and commands that started and ended."""
    with closing(Sandbox.get(sandbox_id)) as found:

        def ask(after: datetime | None) -> Sequence[LogLine]:
            if after is None and last is not None:
                newest = found.logs(level=level, search=search, limit=last, newest_first=True)
                return list(reversed(newest))
            return found.logs(level=level, search=search, start=after)

        if as_json and not follow:
            output.show_json(ask(None))
            return
        for line in _followed(found, ask, _LOG_PAUSE_S, follow=follow):
            if as_json:
                output.show_json_line(line)
            else:
                fields = " ".join(
                    f"{name}={value}" for name, value in line.fields.items() if name != "logger"
                )
                click.echo(
                    output.safe(f"{_moment(line.at)} {line.level:5} {line.message}  {fields}".rstrip())
                )


@click.command()
@click.argument("sandbox_id")
@click.option("--minutes", type=click.IntRange(1), help="Only of the last so many; default: all.")
@click.option("--follow", "-f", is_flag=True, help="Go on until it ends.")
@options.as_json
def metrics(sandbox_id: str, minutes: int | None, follow: bool, as_json: bool) -> None:
    """Show what a sandbox used, every 5 seconds: processors, memory, page cache, disk."""
    began = datetime.now(UTC) - timedelta(minutes=minutes) if minutes else None
    with closing(Sandbox.get(sandbox_id)) as found:

        def ask(after: datetime | None) -> Sequence[Metric]:
            return found.metrics(start=after or began)

        if as_json and not follow:
            output.show_json(ask(None))
            return
        for one in _followed(found, ask, _METRIC_PAUSE_S, follow=follow):
            if as_json:
                output.show_json_line(one)
            else:
                click.echo(_row(one))


def _followed(
    sandbox: Sandbox, ask: Callable[[datetime | None], Sequence[T]], pause_s: float, *, follow: bool
) -> Iterator[T]:
    """Yield what there is, and with ``follow`` what comes until the sandbox's end."""
    newest: datetime | None = None
    shown: list[Any] = []
    while True:
        # Looked at before: what came until its end is asked for afterwards.
        ended = not follow or sandbox.info().ended_at is not None
        for one in ask(newest):
            if one in shown:
                continue
            yield one
            # Several can have one moment, from which on is asked the next time.
            shown = [*shown, one] if one.at == newest else [one]
            newest = one.at
        if ended:
            return
        time.sleep(pause_s)


def _row(one: Metric) -> str:
    cells = (
        f"cpu {one.cores:6.2f} cores",
        f"memory {output.size(one.memory_bytes):>9}",
        f"cache {output.size(one.cache_bytes):>9}",
        f"disk {output.size(one.disk_bytes):>9}",
    )
    return f"{_moment(one.at)}  " + "  ".join(cells)


def _moment(when: datetime) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
