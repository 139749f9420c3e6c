"""
systemd-resolved, through its own program ``resolvectl``: which domain is asked for at which server, by link.

A link's settings last as long as the link: whoever deletes it leaves nothing behind.
"""

import shlex
import shutil
import subprocess
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

# Where resolved writes the files that /etc/resolv.conf points at.
_DIRECTORY = Path("/run/systemd/resolve")
_STUBS = ("127.0.0.53", "127.0.0.54")
# It asks resolved over D-Bus, which answers at once or not at all.
_TIMEOUT_S = 20.0


class ResolvectlError(Exception):
    """It did not do what it was asked: the command, and what it said."""


def in_use(resolv_conf: Path, servers: list[str]) -> bool:
    """Say whether programs of this machine ask resolved."""
    try:
        points_at = resolv_conf.resolve()
    except (OSError, RuntimeError):
        points_at = resolv_conf
    return _DIRECTORY in points_at.parents or any(server in _STUBS for server in servers)


def route(link: str, address: str, domain: str) -> None:
    """
    Have names of the domain asked for at the address, and nothing else.

    Raises:
        ResolvectlError: it cannot be had.
    """
    _run("dns", link, address)
    # With the sign it says where to ask, and is no ending for short names.
    _run("domain", link, f"~{domain}")
    _run("default-route", link, "no")


def _run(*words: str) -> None:
    program = shutil.which("resolvectl")
    if program is None:
        raise ResolvectlError("systemd-resolved is in use here, but there is no resolvectl on PATH")
    command = [program, *words]
    log.debug("running", command=shlex.join(command))
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ResolvectlError(f"{shlex.join(command)}: no answer in {_TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        raise ResolvectlError(f"{shlex.join(command)}: {done.stderr.strip() or done.returncode}")
