"""The port to time."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time; tests turn it by hand."""

    def now(self) -> datetime:
        """Return the time, in UTC, with a time zone."""
        ...

    async def sleep_until(self, when: datetime) -> None:
        """Return when it is ``when``, at once if that has passed."""
        ...
