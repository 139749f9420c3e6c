"""What the installation of runsc tells about itself while it goes on."""

from collections.abc import Callable
from dataclasses import dataclass


class ReleaseError(Exception):
    """One way to get runsc did not work."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """
    Where it stands.

    Attributes:
        text: what is being done.
        done: bytes so far, where bytes are counted.
        total: bytes in all, where known.
    """

    text: str
    done: int = 0
    total: int | None = None


Progress = Callable[[Step], None]


def ignore(_: Step) -> None:
    """Tell nobody."""
