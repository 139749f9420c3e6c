"""``atoll down``: ends server, edge and sandboxes of a home, and leaves nothing of them but files."""

import asyncio
import os
from pathlib import Path

import click

from atoll.cli import options, output
from atoll.cli.server_here import end_starting, need_root, need_server


@click.command()
@options.home
@click.option(
    "--force",
    is_flag=True,
    help="End persistent sandboxes, too, that cannot be written down; files are lost.",
)
def down(home: Path, force: bool) -> None:
    """
    End Atoll: the server, the edge, and every sandbox.

    Persistent sandboxes are written down, and `atoll up` resumes them. Where one cannot be, since the disk is
    full, say, no sandbox is ended.

    No process, network namespace, control group, mount or firewall rule stays, and host settings are as they
    were. It does not matter how the server ended. The home's files stay: key, settings, templates, logs.
    """
    need_root("down")
    need_server()
    try:
        _down(home, force=force)
    except KeyboardInterrupt:
        again = f"`atoll down{options.home_words(home)}`"
        output.note(f"Interrupted: not everything may have ended. {again} ends the rest.")
        raise


def _down(home: Path, *, force: bool) -> None:
    end_starting(home.absolute())
    from atoll.server.main import gvisor_host, logs, resolving, stopping
    from atoll.server.main.opening import find_with_settings

    if (opened := find_with_settings(home, os.environ)) is None:
        output.note(f"There is no home of Atoll at {home}; nothing to do.")
        return
    found, settings = opened
    logs.set_up(found.server_log, settings.server)
    with output.steps() as show:

        async def take_down() -> None:
            # Said from within: an interrupt before the event loop stands would leave half of one.
            show(f"ending everything of {found.path}", None)
            await stopping.take_down(found, settings, gvisor_host.gvisor_host, force=force)

        asyncio.run(take_down())
        # Last: a file that cannot be put back must keep nothing alive.
        undone = resolving.remove(found)
    if undone:
        output.note(undone)
    output.note("Atoll is down.")
