"""What verbs that look after a server on this machine ask first. Imports no server."""

import importlib.util
import os

from atoll.sdk.errors import FailedPreconditionError, PermissionDeniedError


def need_root(verb: str) -> None:
    """
    Refuse to go on as somebody else.

    Raises:
        PermissionDeniedError: we are not root.
    """
    if os.geteuid() != 0:
        raise PermissionDeniedError(
            f"`atoll {verb}` needs root: it makes network namespaces, control groups and firewall rules.",
            resolution=f"sudo atoll {verb}",
        )


def need_server() -> None:
    """
    Refuse to go on where only the SDK is installed.

    Raises:
        FailedPreconditionError: the server's libraries are missing.
    """
    missing = [
        name
        for name in ("fastapi", "uvicorn", "sqlalchemy", "pyroute2")
        if not importlib.util.find_spec(name)
    ]
    if missing:
        raise FailedPreconditionError(
            "The server is not installed here, only SDK and command line.",
            details=f"missing: {', '.join(missing)}",
            resolution="pip install 'atoll[server]'",
        )
