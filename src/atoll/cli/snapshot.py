"""``atoll snapshot``: what is kept of sandboxes."""

import click

from atoll import Snapshot
from atoll.cli import options, output


@click.group()
def snapshot() -> None:
    """See and delete snapshots; `atoll sandbox snapshot` takes one, `--template` takes its id or name."""


@snapshot.command("list")
@click.option("--sandbox", "sandbox_id", help="Only those that were taken of this one.")
@options.as_json
def list_(sandbox_id: str | None, as_json: bool) -> None:
    """List snapshots, newest first."""
    found = Snapshot.list(sandbox_id=sandbox_id)
    if as_json:
        output.show_json(found)
        return
    rows = [
        (
            one.id,
            one.name or "",
            one.template,
            one.sandbox_id,
            "memory" if one.memory else "files",
            "schedule" if one.scheduled else "call",
            output.size(one.size_bytes),
            output.moment(one.created_at),
        )
        for one in found
    ]
    output.show_table(("ID", "NAME", "TEMPLATE", "SANDBOX", "HOLDS", "BY", "SIZE", "TAKEN"), rows)


@snapshot.command("delete")
@click.argument("reference", metavar="ID|NAME")
def delete(reference: str) -> None:
    """Delete a snapshot; what was created from it lives on."""
    Snapshot.delete(reference)
