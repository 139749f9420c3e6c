"""
``atoll up``: prepares this machine, starts the server, and waits until clients are answered.

In the foreground it stays: Ctrl-C takes everything down, as ``atoll down`` does. SIGTERM ends the server
only; sandboxes and edge live on, and the next ``atoll up`` takes them over. So systemd can restart it.
"""

import asyncio
import errno
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
import httpx

from atoll.cli import dns, exports, options, output
from atoll.cli.server_here import need_root, need_server
from atoll.sdk._synchronization import is_loopback
from atoll.sdk.errors import FailedPreconditionError, UnavailableError

if TYPE_CHECKING:
    from atoll.server.settings import Settings
    from atoll.server.settings.home import Home

# Programs and files that a server needs, and Debian's packages of them. libnftables comes with nftables.
_PACKAGES = {"mmdebstrap": "mmdebstrap", "nft": "nftables", "setpriv": "util-linux"}
_FILES = {
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
}
# Seconds from the server's start until it says that it is ready: it adopts sandboxes, which takes some.
_READY_TIMEOUT = 300.0
# Seconds until a client is answered through the edge, after that.
_ANSWER_TIMEOUT = 20.0
# Seconds that a server gets for its end: it waits for creates and kills, and says so itself.
_END_TIMEOUT = 120.0
# Options that name files, and the settings of those that are not called as they are.
_FILE_OPTIONS = ("tls_cert", "tls_key", "acme_ca_bundle")
_VARIABLES = {
    name: f"TLS_{name.upper()}" for name in ("dns_listen", "acme_email", "acme_directory", "acme_ca_bundle")
}
# How a server's error begins, and how many lines of its last words are shown.
_ERROR = "atoll: "
_MOST_LINES = 15


@click.command()
@options.home
@click.option("--listen", metavar="HOST:PORT", help="Where clients reach it; default 127.0.0.1:7777.")
@click.option("--domain", metavar="NAME", help="What names of API and sandboxes end in; needs --tls-listen.")
@click.option(
    "--tls-listen", metavar="HOST:PORT", help="Where clients reach https://api.NAME; default: nowhere."
)
@click.option(
    "--tls-cert", metavar="FILE", help="Your certificate for *.NAME; default: one of our own authority."
)
@click.option("--tls-key", metavar="FILE", help="Its key.")
@click.option("--dns-listen", metavar="HOST:PORT", help="Where the world asks for names below NAME.")
@click.option(
    "--acme-email",
    metavar="MAIL",
    help="Have the certificate signed by ACME, and agree to the authority's terms; needs --dns-listen.",
)
@click.option("--acme-directory", metavar="URL", help="Its authority; default: Let's Encrypt.")
@click.option("--acme-ca-bundle", metavar="FILE", help="What that authority's own certificate is signed by.")
@click.option("--detach", "-d", is_flag=True, help="Return when it answers, and leave it running.")
@click.option(
    "--guest-ca/--no-guest-ca",
    default=None,
    help="Whether sandboxes trust what this machine trusts beyond the usual CAs; default: yes.",
)
def up(home: Path, listen: str | None, detach: bool, guest_ca: bool | None, **tls: str | None) -> int:
    """
    Start Atoll on this machine.

    The first start gets gVisor and builds the base template, which takes minutes; later ones take a second.
    In the foreground, Ctrl-C ends everything. What clients need is printed on standard output.
    """
    need_root("up")
    need_server()
    # Until it stands, being ended is as being interrupted: nothing half-made stays.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    _tell_the_server(tls, guest_ca)
    opened, settings = _open(home, listen)
    if opened.server_pid() is not None:
        return _is_up_already(opened.path, listen, settings)
    need_packages()
    for address in filter(None, (settings.server.listen, settings.tls.listen, settings.tls.dns_listen)):
        need_address(address, opened.edge_socket)
    with output.steps() as show:
        _prepare(opened, settings, show)
        show("starting the server", None)
        server = _start(opened, settings.server.listen, detach=detach)
    with _undone_by_ctrl_c(opened, settings, server):
        url = _await_answer(opened.path)
        _say(opened.path, url, detach=detach)
        if warning := open_to_a_network(settings.server.listen):
            output.note(warning)
        return 0 if detach else _stay(opened, settings, server)


def need_address(listen: str, edge_socket: Path) -> None:
    """
    Say that an address is taken before minutes are spent on a template; the home's own edge may have it.

    Raises:
        FailedPreconditionError: somebody else listens there, or it is no address of this machine.
    """
    with socket.socket(socket.AF_UNIX) as edge:
        if edge.connect_ex(str(edge_socket)) == 0:
            return
    host, _, port = listen.rpartition(":")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        what = " is in use by another program" if error.errno == errno.EADDRINUSE else f": {error.strerror}"
        raise FailedPreconditionError(
            f"{listen}{what}.",
            resolution="`--listen` (`--tls-listen`, `--dns-listen`) takes another address. "
            f"`ss -ltnp 'sport = :{port}'` says who has it.",
        ) from error


def _tell_the_server(tls: Mapping[str, str | None], guest_ca: bool | None) -> None:
    """Hand options to the server as the settings that they are: it reads the environment."""
    for name, value in tls.items():
        if value is not None:
            # It does not run in our directory.
            text = str(Path(value).absolute()) if name in _FILE_OPTIONS else value
            os.environ[f"ATOLL_{_VARIABLES.get(name, name.upper())}"] = text
    if guest_ca is not None:
        os.environ["ATOLL_TEMPLATES_GUEST_CA"] = "true" if guest_ca else "false"


def need_packages() -> None:
    """
    Name what Debian has to install, all of it at once.

    Raises:
        FailedPreconditionError: something is missing.
    """
    missing = missing_packages()
    if missing:
        names = " ".join(missing)
        raise FailedPreconditionError(
            f"Missing Debian packages: {names}.", resolution=f"apt-get install --yes {names}"
        )


def missing_packages() -> list[str]:
    """List what Debian has to install."""
    missing = [package for program, package in _PACKAGES.items() if not _program(program)]
    missing += [package for file, package in _FILES.items() if not Path(file).exists()]
    return missing


def _program(name: str) -> str | None:
    # Root's PATH has no sbin in some shells.
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _open(home: Path, listen: str | None) -> "tuple[Home, Settings]":
    from atoll.server.main import doors, logs
    from atoll.server.main.opening import open_with_settings

    opened, settings = open_with_settings(home, listen)
    logs.set_up(opened.server_log, settings.server)
    # What cannot be served is said now, before minutes of building.
    doors.read(opened, settings)
    return opened, settings


def _is_up_already(home: Path, listen: str | None, settings: "Settings") -> int:
    status = exports.edge_status(home)
    url = f"http://{exports.reachable(status['listen'][0])}"
    other = listen is not None and url != f"http://{exports.reachable(listen)}"
    if other or (settings.tls.listen and [settings.tls.listen] != status["flags"].get("tls_listen")):
        raise FailedPreconditionError(
            f"Atoll is up already, at {url}.",
            resolution="`sudo atoll down` ends it. Or use another --home, beside it.",
        )
    output.note(f"Atoll is up already, at {url}.")
    for line in exports.lines(home):
        click.echo(line)
    return 0


def _prepare(home: "Home", settings: "Settings", show: output.Steps) -> None:
    from atoll.server.main import gvisor_host

    asyncio.run(gvisor_host.prepare(home, settings, show))


def _start(home: "Home", listen: str, *, detach: bool) -> subprocess.Popen[bytes]:
    """Start the server in a session of its own, and wait until it says that it is ready."""
    words = home.server_errors
    module = [sys.executable, "-m", "atoll.server.main"]
    command = [*module, "serve", "--home", str(home.path), "--listen", listen]
    if not detach:
        # When somebody kills us, the server must not stay behind: systemd would start us again in vain.
        command = ["setpriv", "--pdeathsig", "TERM", *command]
    let_go = _hold_signals()
    words.unlink(missing_ok=True)
    # Appended to, since the server keeps it bounded through a descriptor of its own.
    with words.open("ab") as errors:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # Its warnings: to people, or for later.
            stderr=errors if detach or not sys.stderr.isatty() else None,
            # Ctrl-C is for us: we decide what it ends. A closed terminal is none of the server's business.
            start_new_session=True,
            cwd="/",
        )
    try:
        let_go()
        assert server.stdout is not None
        if not _says_ready(server.stdout):
            raise UnavailableError(
                "The server did not start.",
                details=last_words(words) or f"exit code {server.poll()}",
                resolution=f"Its log: {home.server_log}. `atoll doctor` checks this machine.",
            )
    except BaseException:
        _end(server)
        raise
    return server


def _hold_signals() -> Callable[[], None]:
    """
    Hold SIGINT and SIGTERM back, until what this returns is called, which then raises KeyboardInterrupt.

    An interruption inside of Popen loses the process that it has just started.
    """
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda which, _: caught.append(which)) for number in numbers}

    def let_go() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        if caught:
            raise KeyboardInterrupt

    return let_go


def _says_ready(stdout: IO[bytes]) -> bool:
    """Read until the line ``ready``; False when the server ends, or takes too long."""
    end = time.monotonic() + _READY_TIMEOUT
    seen = b""
    while (left := end - time.monotonic()) > 0:
        if not select.select([stdout], [], [], left)[0]:
            return False
        piece = os.read(stdout.fileno(), 4096)
        if not piece:
            return False
        seen += piece
        if b"ready\n" in seen:
            return True
    return False


def last_words(file: Path) -> str:
    """Return what a server said at its end: its error, when there is one, without the log's lines before."""
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    errors = [number for number, line in enumerate(lines) if line.startswith(_ERROR)]
    last = lines[errors[-1] :][:_MOST_LINES] if errors else lines[-_MOST_LINES:]
    return "\n".join(line.removeprefix(_ERROR) for line in last)


def _await_answer(home: Path) -> str:
    """Wait until a client is answered through the edge; return the address."""
    end = time.monotonic() + _ANSWER_TIMEOUT
    while True:
        try:
            url = exports.api_url(home)
            httpx.get(f"{url}/v1/health", timeout=5.0, trust_env=False).raise_for_status()
            return url
        except (httpx.HTTPError, UnavailableError) as error:
            if time.monotonic() > end:
                raise UnavailableError(
                    "The server runs, but the edge does not answer.",
                    details=str(error),
                    resolution=f"Its log: {home / 'logs' / 'edge.log'}.",
                ) from error
            # The edge has just been started, and says nothing when it listens.
            time.sleep(0.05)


def _say(home: Path, url: str, *, detach: bool) -> None:
    lines = exports.lines(home)
    key = next(line for line in lines if "ATOLL_API_KEY" in line).partition("=")[2]
    output.note(f"Atoll is up at {url} (its API is described at {url}/docs).\nAPI key: {key}\n")
    for line in lines:
        click.echo(line)
    sys.stdout.flush()
    suffix = options.home_words(home)
    domain = exports.edge_status(home)["flags"].get("domain")
    end = f"`atoll down{suffix}` ends it." if detach else "Ctrl-C ends it, and every sandbox."
    if domain and not dns.resolves(domain):
        output.note(f"\nNames of {domain} do not resolve on this machine yet: `atoll dns install{suffix}`.")
    output.note(f"\nThese lines again: `atoll env{suffix}`. {end}")


def open_to_a_network(listen: str) -> str:
    """Say what it means that an address is not of loopback; empty when it is."""
    if is_loopback(f"http://{listen}"):
        return ""
    return (
        f"\nWarning: {listen} is open to a network, in the clear: keys and all that sandboxes are told can "
        "be read on the way.\n  → --tls-listen beside --listen 127.0.0.1:PORT, or a proxy with TLS before it."
    )


@contextmanager
def _undone_by_ctrl_c(home: "Home", settings: "Settings", server: subprocess.Popen[bytes]) -> Iterator[None]:
    """Take everything down when the user gives up before it stands; leave it for a look when it fails."""
    try:
        yield
    except KeyboardInterrupt:
        _take_down(home, settings)
        server.wait(timeout=_END_TIMEOUT)
        raise


def _stay(home: "Home", settings: "Settings", server: subprocess.Popen[bytes]) -> int:
    """Wait for a signal, or for the server's end."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    caught: list[int] = []

    def on_signal(number: int, _: object) -> None:
        caught.append(number)
        os.write(wake, b"!")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    ended = os.pidfd_open(server.pid)
    select.select([woken, ended], [], [])
    if not caught:
        code = server.wait()
        raise UnavailableError(
            f"The server ended by itself, with code {code}.",
            details=last_words(home.server_errors) or None,
            resolution=f"Its log: {home.server_log}. Sandboxes live on: `atoll up` takes them over.",
        )
    if caught[0] == signal.SIGTERM:
        _end(server)
        output.note("The server has ended. Sandboxes live on until `atoll down`.")
        return 0
    output.note("\nEnding every sandbox …")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _take_down(home, settings)
    server.wait(timeout=_END_TIMEOUT)
    output.note("Everything is down.")
    return 0


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, and see to it."""
    server.terminate()
    try:
        server.wait(timeout=_END_TIMEOUT)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _take_down(home: "Home", settings: "Settings") -> None:
    from atoll.server.main import gvisor_host, resolving, stopping

    asyncio.run(stopping.take_down(home, settings, gvisor_host.gvisor_host))
    if undone := resolving.remove(home):
        output.note(undone)
