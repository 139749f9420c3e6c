"""How a new sandbox is kept: options that end up as one thing."""

import functools
from collections.abc import Callable
from typing import Any

import click

_OPTIONS = (
    click.option(
        "--idle-timeout",
        type=click.IntRange(1),
        metavar="SECONDS",
        help="End or pause it when nobody calls it.",
    ),
    click.option(
        "--keep-snapshots",
        type=click.IntRange(1),
        default=3,
        show_default=True,
        metavar="N",
        help="How many of those are kept.",
    ),
    click.option(
        "--snapshot-every", type=click.IntRange(1), metavar="SECONDS", help="Take a snapshot of it so often."
    ),
    click.option(
        "--restart",
        type=click.Choice(["never", "from_snapshot"]),
        help="When it ends without being asked; default: from_snapshot if it is persistent, else never.",
    ),
    click.option(
        "--persistent", is_flag=True, help="Without a deadline; it comes back after the machine was away."
    ),
)
_NAMES = ("persistent", "restart", "snapshot_every", "keep_snapshots", "idle_timeout")


def upkeep(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take the options, and hand them on as ``upkeep``, in the words of ``Sandbox.create``."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **others: Any) -> Any:
        wished = {name: others.pop(name) for name in _NAMES}
        return function(*arguments, upkeep=wished, **others)

    taken: Callable[..., Any] = wrapped
    for option in _OPTIONS:
        taken = option(taken)
    return taken
