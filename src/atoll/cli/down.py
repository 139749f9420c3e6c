"""``atoll down``: ends server, edge and sandboxes of a home, and leaves nothing of them but files."""

import asyncio
import os
from pathlib import Path

import click

from atoll.cli import options, output
from atoll.cli.server_here import end_starting, need_root, need_server, quieten


@click.command()
@options.home
@click.option(
    "--home-id",
    metavar="ID",
    help="Of a home whose directory is gone, as `atoll doctor` names it: end what is left of it.",
)
@click.option(
    "--force",
    is_flag=True,
    help="End sandboxes, too, that are to be written down and cannot be; files are lost.",
)
def down(home: Path, home_id: str | None, force: bool) -> None:
    """
    End Atoll: the server, the edge, and every sandbox.

    Persistent sandboxes are written down, and `atoll up` resumes them. Where one cannot be, since the disk is
    full, say, no sandbox is ended.

    No process, network namespace, control group, mount or firewall rule stays, and host settings are as they
    were. It does not matter how the server ended. The home's files stay: key, settings, templates, logs.

    Where the directory was deleted before, what still runs is found all the same; sandboxes end with --force.
    """
    need_root("down")
    need_server()
    if home_id is not None:
        _end_deleted(home_id, force=force)
        return
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
        _end_deleted_at(home.absolute(), force=force)
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


def _end_deleted(home_id: str, *, force: bool) -> None:
    from atoll.server.main import deleted_homes

    # It has no log any more.
    quieten()
    with output.steps() as show:
        show(f"ending what is left of home {home_id}", None)
        ended = asyncio.run(deleted_homes.end(home_id, force=force))
    output.note(f"Home {home_id} is down." if ended else f"Nothing of home {home_id} is here; nothing to do.")


def _end_deleted_at(directory: Path, *, force: bool) -> None:
    from atoll.server.main import deleted_homes

    quieten()
    if ended := asyncio.run(deleted_homes.end_at(directory, force=force)):
        output.note(f"The home at {directory} was deleted; what was left of it is down ({', '.join(ended)}).")
    else:
        output.note(f"There is no home of Atoll at {directory}; nothing to do.")
