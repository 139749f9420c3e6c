"""``atoll dns``: whether programs of this machine find names of a home's domain."""

import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import httpx

from atoll.cli import exports, options, output
from atoll.cli.server_here import need_root, need_server
from atoll.sdk.errors import AtollError, FailedPreconditionError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from atoll.server.settings.home import Home


# The server gives up after three seconds.
_TIMEOUT = 10.0


@click.group()
def dns() -> None:
    """Have this machine find names of a home's domain, or not."""


@dns.command()
@options.home
@click.option("--hosts", is_flag=True, help="Keep the names of live sandboxes in /etc/hosts instead.")
def install(home: Path, hosts: bool) -> None:
    """
    Have programs of this machine ask Atoll for names of its domain.

    With systemd-resolved it is asked for these names only. Without, it stands first in /etc/resolv.conf, and
    the servers that were there behind it: they are asked about all other names, and when Atoll is down.
    `atoll dns remove` and `atoll down` put back what was.

    --hosts leaves the resolver alone. That file knows no patterns: names of the ports in the setting
    `tls.hosts_ports` are in it, for as long as their sandbox lives, and others are not found.
    """
    need_root("dns install")
    need_server()
    from atoll.server.main import resolving

    found = _find(home)
    flags = exports.edge_status(home)["flags"]
    if hosts:
        _install_hosts(found, flags)
        return
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


def _install_hosts(home: "Home", flags: Mapping[str, Any]) -> None:
    """Write the wish down, and have the server follow it at once; a wish that cannot be had is taken back."""
    from atoll.server.main import resolving

    domain = flags.get("domain")
    if not domain:
        raise FailedPreconditionError(
            "This home has no domain.",
            resolution="`atoll up --domain sbx.test --tls-listen 127.0.0.1:8443` starts one that does.",
        )
    resolving.install_hosts(home, domain=domain)
    try:
        _have_names_written(home.control_socket)
    except AtollError:
        resolving.remove(home)
        raise
    output.note(f"/etc/hosts has the names of live sandboxes of {domain} from now on, of the usual ports.")
    if not resolves(domain):
        raise FailedPreconditionError(
            f"api.{domain} does not resolve, though /etc/hosts has it.",
            resolution="Look for `files` at `hosts:` in /etc/nsswitch.conf; `atoll dns remove` undoes this.",
        )


def _have_names_written(socket: Path) -> None:
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=_TIMEOUT) as server:
            answer = server.post("http://server/v1/names")
    except httpx.HTTPError as error:
        raise UnavailableError(
            "The server is not up, and it is what keeps names in /etc/hosts.",
            details=str(error) or type(error).__name__,
            resolution="`sudo atoll up` starts it.",
        ) from error
    if not answer.is_success:
        told = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        raise FailedPreconditionError(str(told.get("message") or f"The server answers {answer.status_code}"))


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
