"""The machine's clock; nothing else in control asks what time it is."""

import asyncio
from datetime import UTC, datetime, timedelta

from typing_extensions import override

from atoll.server.ports.clock import Clock

# The longest single sleep. Sleeps are measured by a clock that the administrator cannot set; after
# each one the real time is looked at again, so a corrected clock is noticed within this time.
LONGEST_SLEEP = timedelta(hours=1)


class SystemClock(Clock):
    """The real time."""

    @override
    def now(self) -> datetime:
        return datetime.now(UTC)

    @override
    async def sleep_until(self, when: datetime) -> None:
        # No event tells that time has passed; that is what this is for.
        while (left := when - self.now()) > timedelta():  # noqa: ASYNC110
            await asyncio.sleep(min(left, LONGEST_SLEEP).total_seconds())
