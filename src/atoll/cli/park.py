"""``atoll park``: writes down the persistent sandboxes of a home, before its machine stops."""

import asyncio
import os
from pathlib import Path

import click

from atoll.cli import options, output
from atoll.cli.server_here import end_starting, need_root, need_server


@click.command()
@options.home
def park(home: Path) -> None:
    """
    Write persistent sandboxes down, before this machine stops.

    Ends server and edge. Each persistent sandbox is paused with its memory, or else with its files only, and
    `atoll up` resumes it. All others run on until the machine stops, or `atoll up` takes them over.
    The systemd unit calls this when the machine shuts down or restarts.
    """
    need_root("park")
    need_server()
    end_starting(home.absolute())
    from atoll.server.main import gvisor_host, logs, stopping
    from atoll.server.main.opening import find_with_settings

    if (opened := find_with_settings(home, os.environ)) is None:
        output.note(f"There is no home of Atoll at {home}; nothing to do.")
        return
    found, settings = opened
    logs.set_up(found.server_log, settings.server)
    with output.steps() as show:
        show(f"writing down what is persistent of {found.path}", None)
        parked = asyncio.run(stopping.park(found, settings, gvisor_host.gvisor_host))
    kinds = [kind.value for kind in parked.kept.values()]
    without = f"; without their memory: {kinds.count('files')}" if "files" in kinds else ""
    output.note(f"Persistent sandboxes written down: {len(kinds)}{without}.")
    output.note("Atoll is parked; `atoll up` goes on.")
