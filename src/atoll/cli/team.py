"""``atoll team`` and ``atoll key``: who may call."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from atoll import NotFoundError, Team
from atoll.cli import options, output


@click.group()
def team() -> None:
    """See and create teams: each sees its own sandboxes, volumes and secrets only."""


@team.command("list")
@options.as_json
def list_teams(as_json: bool) -> None:
    """List teams."""
    found = Team.list()
    if as_json:
        output.show_json(found)
        return
    rows = [
        (one.name + (" (being deleted)" if one.deleting else ""), one.id, output.moment(one.created_at))
        for one in found
    ]
    output.show_table(("NAME", "ID", "CREATED"), rows)


@team.command("create")
@click.argument("name")
def create_team(name: str) -> None:
    """Create a team, and print its id; `atoll key create --team` makes its keys."""
    click.echo(Team.create(name).id)


@team.command("delete")
@click.argument("reference", metavar="NAME|ID")
@click.option("--force", is_flag=True, help="End its sandboxes and delete its volumes and snapshots, too.")
def delete_team(reference: str, force: bool) -> None:
    """
    Delete a team with its keys, secrets, webhooks and events, and wait until nothing is left.

    One that has sandboxes, volumes or snapshots stays, unless it is forced.
    """
    Team.delete(reference, force=force)


class _Limit(click.ParamType[Any]):
    """A number, or ``server``: as the server has it for everybody."""

    name = "number"

    def __init__(self, kind: click.ParamType[Any]) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        return _SERVERS if value == "server" else self._kind.convert(value, param, ctx)


# Stands for "as everybody": None is what click gives for an option that is not there.
_SERVERS = object()
_MIB = 1024 * 1024


def _limit(
    name: str, field: str, kind: click.ParamType[Any], metavar: str, text: str
) -> Callable[[options.F], options.F]:
    return click.option(name, field, type=_Limit(kind), metavar=f"{metavar}|server", help=text)


@team.command("limits")
@click.argument("reference", metavar="NAME|ID")
@_limit("--sandboxes", "max_sandboxes", click.IntRange(0), "N", "Sandboxes that are not paused.")
@_limit("--cpus", "max_cpus", click.FloatRange(0, min_open=True), "CORES", "Of one sandbox.")
@_limit("--memory", "max_memory_bytes", click.IntRange(1), "MIB", "Of one sandbox.")
@_limit("--requests", "requests_per_second", click.IntRange(1), "N", "Each second, with all its keys.")
@options.as_json
def limit_team(reference: str, as_json: bool, **wishes: Any) -> None:
    """
    Show a team's own limits, or set some: `server` gives it what everybody has.

    They hold for what is begun from then on.
    """
    found = next((one for one in Team.list() if reference in (one.id, one.name)), None)
    if found is None:
        raise NotFoundError(f"Team {reference!r} not found.")
    given = {name: wish for name, wish in wishes.items() if wish is not None}
    if given:
        if isinstance(memory := given.get("max_memory_bytes"), int):
            given["max_memory_bytes"] = memory * _MIB
        changes = {name: None if wish is _SERVERS else wish for name, wish in given.items()}
        found = Team.set_limits(found.id, replace(found.limits, **changes))
    if as_json:
        output.show_json(found)
        return
    own = found.limits
    for name, value in (
        ("sandboxes", own.max_sandboxes),
        ("cpus", own.max_cpus),
        ("memory", None if own.max_memory_bytes is None else output.size(own.max_memory_bytes)),
        ("requests", None if own.requests_per_second is None else f"{own.requests_per_second} per second"),
    ):
        click.echo(f"{name:10} {'as the server has it' if value is None else value}")


@click.group()
def key() -> None:
    """Make, see and revoke the keys that programs call with."""


_team = click.option("--team", help="Its name or id; default: the one of the key that you use.")


@key.command("list")
@_team
@options.as_json
def list_keys(team: str | None, as_json: bool) -> None:
    """List a team's keys; the keys themselves are not kept."""
    found = Team.keys(team)
    if as_json:
        output.show_json(found)
        return
    rows = [
        (one.name, one.kind, one.hint, one.id, output.moment(one.created_at), output.moment(one.last_used_at))
        for one in found
    ]
    output.show_table(("NAME", "KIND", "KEY", "ID", "CREATED", "USED"), rows)


@key.command("create")
@click.argument("name")
@_team
@click.option("--access-token", is_flag=True, help="One that may make and revoke keys of its team.")
def create_key(name: str, team: str | None, access_token: bool) -> None:
    """Make a key and print it, this once: only its hash is kept."""
    click.echo(Team.create_key(name, team=team, access_token=access_token).key)


@key.command("revoke")
@click.argument("key_id", metavar="ID")
def revoke_key(key_id: str) -> None:
    """Take a key back: it is refused at once, and what it started lives on."""
    Team.revoke_key(key_id)
