"""``atoll team`` and ``atoll key``: who may call."""

import click

from atoll import Team
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
    output.show_table(
        ("NAME", "ID", "CREATED"), [(one.name, one.id, output.moment(one.created_at)) for one in found]
    )


@team.command("create")
@click.argument("name")
def create_team(name: str) -> None:
    """Create a team, and print its id; `atoll key create --team` makes its keys."""
    click.echo(Team.create(name).id)


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
