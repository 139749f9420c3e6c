"""``atoll env``: the lines that clients need."""

from pathlib import Path

import click

from atoll.cli import exports, options


@click.command()
@options.home
def env(home: Path) -> None:
    """
    Print what clients need, for a shell: eval "$(sudo atoll env)".

    ATOLL_* are for Atoll's own SDK and command line, E2B_* for E2B's released clients.
    """
    for line in exports.lines(home):
        click.echo(line)
