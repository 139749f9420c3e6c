"""
``atoll template build``: builds a template on this machine, for the server whose home is here.

A server that runs need not be told: it looks for a build when somebody asks for it.
"""

import asyncio
import os
from pathlib import Path

import click

from atoll.cli import options, output
from atoll.cli.server_here import need_root, need_server
from atoll.cli.up import need_packages


@click.command("build")
@click.argument("name")
@options.home
def build(name: str, home: Path) -> None:
    """
    Build a template on this machine, from its recipe.

    The first build takes minutes; one that is built already is left as it is. The server may run meanwhile.
    """
    need_root("template build")
    need_server()
    need_packages()
    from atoll.server.main import gvisor_host, logs
    from atoll.server.settings.home import open_home
    from atoll.server.settings.loading import load

    settings = load(home / "settings.toml", os.environ)
    cache = Path(settings.server.cache_dir) if settings.server.cache_dir else None
    opened = open_home(home, cache=cache)
    logs.set_up(opened.server_log, settings.server)
    with output.steps() as show:
        show(f"template {name}", None)
        built = asyncio.run(gvisor_host.build_template(opened, settings, name, show))
    click.echo(built.id)
