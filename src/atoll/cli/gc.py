"""``atoll gc``: frees what nobody needs on the server's disk."""

import click

from atoll import Server
from atoll.cli import options, output


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@options.as_json
def gc(dry_run: bool, as_json: bool) -> None:
    """Remove what nobody needs: checkpoints and runs that nothing names, old programs and builds."""
    found = Server.collect(dry_run=dry_run)
    if as_json:
        output.show_json(found)
    else:
        rows = [(one.kind, one.name, output.size(one.size_bytes)) for one in found.leftovers]
        output.show_table(("WHAT", "NAME", "SIZE"), rows)
        output.note(f"{output.size(found.size_bytes)} {'would be' if dry_run else 'are'} free")
        for problem in found.problems:
            output.tell(problem)
    if found.problems:
        raise SystemExit(1)
