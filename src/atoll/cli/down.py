"""``atoll down``: ends server, edge and sandboxes of a home, and leaves nothing of them but files."""

import asyncio
import os
from pathlib import Path

import click

from atoll.cli import options, output
from atoll.cli.server_here import need_root, need_server


@click.command()
@options.home
def down(home: Path) -> None:
    """
    End Atoll: the server, the edge, and every sandbox.

    No process, network namespace, control group, mount or firewall rule stays, and host settings are as they
    were. It does not matter how the server ended. The home's files stay: key, settings, templates, logs.
    """
    need_root("down")
    need_server()
    from atoll.server.main import gvisor_host, logs, stopping
    from atoll.server.settings.home import find_home
    from atoll.server.settings.loading import load

    if find_home(home) is None:
        output.note(f"There is no home of Atoll at {home}; nothing to do.")
        return
    settings = load(home / "settings.toml", os.environ)
    cache = Path(settings.server.cache_dir) if settings.server.cache_dir else None
    found = find_home(home, cache=cache)
    assert found is not None
    logs.set_up(found.server_log, settings.server.log_level)
    with output.steps() as show:
        show(f"ending everything of {found.path}", None)
        asyncio.run(stopping.take_down(found, settings, gvisor_host.gvisor_host))
    output.note("Atoll is down.")
