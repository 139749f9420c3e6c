"""Looks for ``atoll doctor`` at what clients are shown over TLS: whose it is, until when, what went wrong."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from atoll.cli import exports
from atoll.cli.machine import Check, fail, ok, warn
from atoll.sdk.errors import AtollError

_NAME = "certificate"
# Renewing begins earlier by far; authorities that sign for six days leave two.
_SOON = timedelta(days=1)


def look(home: Path) -> Iterator[Check]:
    """Look at a home's certificate; nothing where it is not up, or speaks no TLS."""
    try:
        status = exports.edge_status(home)
    except AtollError:
        return
    if shown := status.get("certificate"):
        yield judge(shown, status["flags"].get("acme_directory") or "", datetime.now(UTC))


def judge(shown: dict[str, Any], directory: str, now: datetime) -> Check:
    """Say what there is to say about a certificate; *directory* is who was asked for it, empty: nobody."""
    ends = datetime.fromisoformat(shown["ends_at"])
    until = f"until {ends:%Y-%m-%d %H:%M} UTC"
    failure = shown.get("failure") or ""
    if directory and not shown["signed"]:
        if failure:
            return fail(
                _NAME,
                f"none from {directory}: {failure}",
                "It is tried again by itself. Is the domain delegated to this machine, and port 53 open?",
            )
        return warn(_NAME, f"none yet from {directory}", "Getting one takes a minute; look again.")
    signed_by = f", signed by {directory}" if directory else ""
    if ends <= now:
        return fail(_NAME, f"ended {ends:%Y-%m-%d %H:%M} UTC{signed_by}", failure or "Renew it.")
    if failure:
        return warn(_NAME, f"{until}{signed_by}; not renewed: {failure}", "It is tried again by itself.")
    if ends <= now + _SOON:
        return warn(_NAME, f"{until}{signed_by}", "Renew it.")
    return ok(_NAME, f"{until}{signed_by}")
