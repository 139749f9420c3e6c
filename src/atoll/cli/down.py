"""``atoll down``: ends server, edge and sandboxes of a home, and leaves nothing of them but files."""

import asyncio
import contextlib
import os
import select
import signal
from pathlib import Path

import click

from atoll.cli import options, output
from atoll.cli.server_here import need_root, need_server

# Seconds that a server gets for its end: it waits for creates and kills under way.
_END_TIMEOUT = 120.0


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
    try:
        _down(home)
    except KeyboardInterrupt:
        again = f"`atoll down{options.home_words(home)}`"
        output.note(f"Interrupted: not everything may have ended. {again} ends the rest.")
        raise


def _down(home: Path) -> None:
    _end_starting(home.absolute())
    from atoll.server.main import gvisor_host, logs, resolving, stopping
    from atoll.server.settings.home import find_home
    from atoll.server.settings.loading import load

    if find_home(home) is None:
        output.note(f"There is no home of Atoll at {home}; nothing to do.")
        return
    settings = load(home / "settings.toml", os.environ)
    cache = Path(settings.server.cache_dir) if settings.server.cache_dir else None
    found = find_home(home, cache=cache)
    assert found is not None
    logs.set_up(found.server_log, settings.server)
    with output.steps() as show:

        async def take_down() -> None:
            # Said from within: an interrupt before the event loop stands would leave half of one.
            show(f"ending everything of {found.path}", None)
            await stopping.take_down(found, settings, gvisor_host.gvisor_host)

        asyncio.run(take_down())
        # Last: a file that cannot be put back must keep nothing alive.
        undone = resolving.remove(found)
    if undone:
        output.note(undone)
    output.note("Atoll is down.")


def _end_starting(home: Path) -> None:
    """End a server that has not got as far as its lock: nothing else knows of it."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if _serves(process, home):
                held = os.pidfd_open(int(process.name))
                try:
                    # Between the two the process may have ended, and its number be another's.
                    if _serves(process, home):
                        _end(held)
                finally:
                    os.close(held)


def _serves(process: Path, home: Path) -> bool:
    words = (process / "cmdline").read_bytes().split(b"\0")
    wanted = [b"atoll.server.main", b"serve", b"--home", os.fsencode(home)]
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words)))


def _end(held: int) -> None:
    for number, patience in ((signal.SIGTERM, _END_TIMEOUT), (signal.SIGKILL, 10.0)):
        signal.pidfd_send_signal(held, number)
        if select.select([held], [], [], patience)[0]:
            return
