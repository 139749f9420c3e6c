"""``atoll pool``: machines that wait to become sandboxes."""

import click

from atoll import Pool
from atoll.cli import options, output


@click.command()
@options.as_json
def pool(as_json: bool) -> None:
    """List the machines that wait, for each template and size: a create takes one instead of making one."""
    found = Pool.list()
    if as_json:
        output.show_json(found)
        return
    rows = [
        (
            one.template,
            f"{one.limits.cpus:g}",
            output.size(one.limits.memory_bytes),
            f"{one.ready}/{one.wanted}",
            one.hits,
            one.misses,
            output.moment(one.oldest_since),
            output.size(one.machine_bytes),
        )
        for one in found
    ]
    output.show_table(
        ("TEMPLATE", "CPUS", "MEMORY", "READY", "HITS", "MISSES", "OLDEST SINCE", "EACH TAKES"), rows
    )
    for one in found:
        if one.problem is not None:
            output.note(f"{one.template}: none can be made now: {one.problem}")
