"""The lines that clients need, from a home on this machine: its files and the edge's socket. No server."""

import shlex
from pathlib import Path

import httpx

from atoll.sdk.errors import NotFoundError, PermissionDeniedError, UnavailableError

# The edge answers from memory; more than this means that it hangs.
_TIMEOUT = 5.0


def api_url(home: Path) -> str:
    """
    Ask the edge of a home where it listens.

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
            listen = client.get("http://edge/v1/status").raise_for_status().json()["listen"]
    except PermissionError as error:
        raise PermissionDeniedError(f"{home} is for root only.", resolution="Use sudo.") from error
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise UnavailableError(
            f"Atoll is not up in {home}.",
            details=str(error) or type(error).__name__,
            resolution="`sudo atoll up` starts it.",
        ) from error
    return f"http://{reachable(listen if isinstance(listen, str) else listen[0])}"


def reachable(listen: str) -> str:
    """Turn an address to listen on into one to connect to: all addresses of this machine include loopback."""
    host, _, port = listen.rpartition(":")
    if host in ("", "0.0.0.0", "*"):  # noqa: S104  compared, not listened on
        return f"127.0.0.1:{port}"
    return f"[::1]:{port}" if host in ("::", "[::]") else listen


def lines(home: Path) -> list[str]:
    """
    Return the lines that a shell evaluates: for E2B's clients, and for our own SDK and CLI.

    Raises:
        NotFoundError, PermissionDeniedError, UnavailableError: as ``api_url``.
    """
    url = api_url(home)
    try:
        key = (home / "key").read_text().strip()
    except PermissionError as error:
        raise PermissionDeniedError(f"{home}/key is for root only.", resolution="Use sudo.") from error
    values = {
        "ATOLL_API_URL": url,
        "ATOLL_API_KEY": key,
        "E2B_API_URL": url,
        "E2B_SANDBOX_URL": url,
        "E2B_API_KEY": key,
    }
    return [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
