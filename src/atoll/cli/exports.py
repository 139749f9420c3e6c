"""The lines that clients need, from a home on this machine: its files and the edge's socket. No server."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from atoll.sdk.errors import NotFoundError, PermissionDeniedError, UnavailableError

# Where a server writes what everybody may read.
_PUBLIC = Path("/run/atoll/public")
# The edge answers from memory; more than this means that it hangs.
_TIMEOUT = 5.0


def api_url(home: Path) -> str:
    """
    Ask the edge of a home where it listens in the clear.

    Raises:
        NotFoundError, PermissionDeniedError, UnavailableError: as ``edge_status``.
    """
    return f"http://{reachable(edge_status(home)['listen'][0])}"


def tls_domain(status: Mapping[str, Any]) -> str | None:
    """Read what E2B_DOMAIN is to be from an edge's status; None where it speaks no TLS."""
    listen, domain = status.get("tls_listen"), status["flags"].get("domain")
    if not listen or not domain:
        return None
    port = listen[0].rpartition(":")[2]
    return str(domain) if port == "443" else f"{domain}:{port}"


def edge_status(home: Path) -> dict[str, Any]:
    """
    Ask the edge of a home who it is.

    Raises:
        NotFoundError: no such home.
        PermissionDeniedError: it is somebody else's.
        UnavailableError: it is not up.
    """
    socket = home / "run" / "edge.sock"
    try:
        if not (home / "home.json").exists():
            raise NotFoundError(
                f"There is no home of Atoll at {home}.",
                resolution="`sudo atoll up` makes one; --home names another.",
            )
        if not socket.exists():
            raise UnavailableError(f"Atoll is not up in {home}.", resolution="`sudo atoll up` starts it.")
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=_TIMEOUT) as client:
            status: dict[str, Any] = client.get("http://edge/v1/status").raise_for_status().json()
            return {**status, "listen": list(status["listen"]), "flags": dict(status["flags"])}
    except PermissionError as error:
        raise PermissionDeniedError(f"{home} is for root only.", resolution="Use sudo.") from error
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise UnavailableError(
            f"Atoll is not up in {home}.",
            details=str(error) or type(error).__name__,
            resolution="`sudo atoll up` starts it.",
        ) from error


def reachable(listen: str) -> str:
    """Turn an address to listen on into one to connect to: all addresses of this machine include loopback."""
    host, _, port = listen.rpartition(":")
    if host in ("", "0.0.0.0", "*"):  # noqa: S104  compared, not listened on
        return f"127.0.0.1:{port}"
    return f"[::1]:{port}" if host in ("::", "[::]") else listen


def lines(home: Path) -> list[str]:
    """
    Return the lines that a shell evaluates: for E2B's clients, and for our own SDK and CLI.

    Where the home speaks TLS, E2B's clients are pointed at its domain, and told whom to trust.

    Raises:
        NotFoundError, PermissionDeniedError, UnavailableError: as ``edge_status``.
    """
    status = edge_status(home)
    url = f"http://{reachable(status['listen'][0])}"
    try:
        key = (home / "key").read_text().strip()
    except PermissionError as error:
        raise PermissionDeniedError(f"{home}/key is for root only.", resolution="Use sudo.") from error
    ours = {"ATOLL_API_URL": url, "ATOLL_API_KEY": key, "E2B_API_KEY": key}
    domain = tls_domain(status)
    if domain is None:
        return _exported(
            {**ours, "E2B_API_URL": url, "E2B_SANDBOX_URL": url, "E2B_VOLUME_API_URL": url, **_login(url)}
        )
    login = _login(f"https://api.{domain}")
    if _in_hosts(home):
        # Clients that read /etc/hosts once, at their start, know this name, and no sandbox that comes later.
        return [
            "unset E2B_API_URL E2B_VOLUME_API_URL",
            *_exported(
                {
                    **ours,
                    "E2B_DOMAIN": domain,
                    "E2B_SANDBOX_URL": f"https://sandbox.{domain}",
                    **login,
                    **_trust(home),
                }
            ),
        ]
    # An address that was exported before would win over the domain.
    return [
        "unset E2B_API_URL E2B_SANDBOX_URL E2B_VOLUME_API_URL",
        *_exported({**ours, "E2B_DOMAIN": domain, **login, **_trust(home)}),
    ]


def _login(url: str) -> dict[str, str]:
    """Say where E2B's command line finds the page of its `auth login`."""
    return {"E2B_DOCS_BASE": f"{url}/docs"}


def _in_hosts(home: Path) -> bool:
    """Say whether names are kept in /etc/hosts."""
    try:
        return bool(json.loads((home / "dns.json").read_text()).get("way") == "hosts")
    except (OSError, ValueError, AttributeError):
        return False


def _trust(home: Path) -> dict[str, str]:
    """Name the file of whom to trust, for Python and Node; none where others sign for the home."""
    identity = json.loads((home / "home.json").read_text())
    bundle = _PUBLIC / identity["id"] / "ca-bundle.pem"
    if not bundle.exists():
        return {}
    return {"SSL_CERT_FILE": str(bundle), "NODE_EXTRA_CA_CERTS": str(bundle)}


def _exported(values: Mapping[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
