"""``atoll template``: what sandboxes start from."""

import click

from atoll import Sandbox
from atoll.cli import options, output
from atoll.cli.template_build import build


@click.group()
def template() -> None:
    """See what sandboxes can start from, and build it."""


template.add_command(build)


@template.command("list")
@options.as_json
def list_(as_json: bool) -> None:
    """List templates."""
    found = Sandbox.templates()
    if as_json:
        output.show_json(found)
        return
    rows = [
        (
            one.name,
            one.id,
            output.moment(one.built_at),
            f"{one.limits.cpus:g}",
            output.size(one.limits.memory_bytes),
        )
        for one in found
    ]
    output.show_table(("NAME", "ID", "BUILT", "CPUS", "MEMORY"), rows)
