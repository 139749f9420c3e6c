"""``atoll dns``: whether programs of this machine find names of a home's domain."""

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atoll.cli import exports, options, output
from atoll.cli.server_here import need_root, need_server
from atoll.sdk.errors import FailedPreconditionError, NotFoundError

if TYPE_CHECKING:
    from atoll.server.settings.home import Home


@click.group()
def dns() -> None:
    """Have this machine find names of a home's domain, or not."""


@dns.command()
@options.home
def install(home: Path) -> None:
    """
    Have programs of this machine ask Atoll for names of its domain.

    With systemd-resolved it is asked for these names only. Without, it stands first in /etc/resolv.conf, and
    the servers that were there behind it: they are asked about all other names, and when Atoll is down.
    `atoll dns remove` and `atoll down` put back what was.
    """
    need_root("dns install")
    need_server()
    from atoll.server.main import resolving

    found = _find(home)
    flags = exports.edge_status(home)["flags"]
    address, _, port = str(flags.get("zone_listen") or "").rpartition(":")
    if not address:
        raise FailedPreconditionError(
            "This home answers for no domain.",
            resolution="`atoll up --domain sbx.test --tls-listen 127.0.0.1:8443` starts one that does.",
        )
    if port != "53":
        raise FailedPreconditionError(
            f"Names are answered on port {port}, and resolvers ask on port 53 only.",
            resolution="Leave tls.names_listen empty, or give it an address with port 53.",
        )
    output.note(resolving.install(found, address=address, domain=flags["domain"]))
    if not resolves(flags["domain"]):
        raise FailedPreconditionError(
            f"api.{flags['domain']} does not resolve, though everything is set.",
            resolution="Look at `hosts:` in /etc/nsswitch.conf; `atoll dns remove` undoes this.",
        )
    output.note(f"api.{flags['domain']} resolves.")


@dns.command()
@options.home
def remove(home: Path) -> None:
    """Put back what `atoll dns install` changed."""
    need_root("dns remove")
    need_server()
    from atoll.server.main import resolving

    output.note(resolving.remove(_find(home)) or "There is nothing to undo.")


def resolves(domain: str) -> bool:
    """Say whether programs of this machine find a domain's names."""
    with contextlib.suppress(OSError):
        return bool(socket.getaddrinfo(f"api.{domain}", None))
    return False


def _find(home: Path) -> "Home":
    from atoll.server.settings.home import find_home

    found = find_home(home)
    if found is None:
        raise NotFoundError(f"There is no home of Atoll at {home}.", resolution="--home names another.")
    return found
