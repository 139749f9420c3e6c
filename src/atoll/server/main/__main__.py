"""
A server in the foreground: ``python -m atoll.server.main --home DIR --listen HOST:PORT``.

Says ``ready`` on standard output once clients are answered, and tells systemd. Ends on SIGTERM and SIGINT.
"""

import argparse
import asyncio
import os
import resource
import socket
import sys
from pathlib import Path

import uvloop

from atoll.server.domain.errors import AtollError
from atoll.server.main import gvisor_host, logs, serving, stopping
from atoll.server.main.opening import open_with_settings
from atoll.server.settings import DEFAULT_HOME, Settings
from atoll.server.settings.home import Home

# Each sandbox takes four, and every connection one; as in the systemd unit.
OPEN_FILES = 65536


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m atoll.server.main", description=__doc__)
    parser.add_argument("command", nargs="?", default="serve", choices=("serve", "stop", "take-down"))
    parser.add_argument("--home", type=Path, default=DEFAULT_HOME)
    parser.add_argument("--listen", metavar="HOST:PORT")
    options = parser.parse_args(arguments)
    try:
        home, settings = open_with_settings(options.home, options.listen)
        logs.set_up(home.server_log, settings.server, errors=home.server_errors)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            match options.command:
                case "serve":
                    allow_open_files()
                    runner.run(_serve(home, settings))
                case "stop":
                    runner.run(stopping.stop(home, settings))
                case "take-down":
                    runner.run(stopping.take_down(home, settings, gvisor_host.gvisor_host))
    except AtollError as error:
        print(f"atoll: {error}", file=sys.stderr)  # noqa: T201  for the operator
        return 1
    return 0


def allow_open_files() -> None:
    """Raise the limit of open files, as far as the system lets us; a shell's own is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(home: Home, settings: Settings) -> None:
    await gvisor_host.prepare(home, settings, _nobody)
    await serving.serve(home, settings, gvisor_host.gvisor_host, ready=say_ready)


def _nobody(_: str, __: float | None) -> None:
    """Show no progress: whoever wants to see it prepares the home before."""


def say_ready() -> None:
    """Tell whoever started us, and systemd (sd_notify(3): one datagram)."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.connect("\0" + path[1:] if path.startswith("@") else path)
            systemd.send(b"READY=1")


if __name__ == "__main__":
    sys.exit(main())
