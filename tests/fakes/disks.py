"""A disk that is full: whoever writes is told so, until there is room again."""

from collections.abc import Callable
from typing import Any

from atoll.server.domain.errors import ResourceExhaustedError
from atoll.server.runtimes.fake.faults import Faults

# Places of the fakes that write; what only reads, removes or calls somebody goes on.
_WRITING = ("start:", "restore:", "checkpoint:", "attach", "seal", "volume:make")


def full() -> ResourceExhaustedError:
    """Make the error of every adapter that finds no room."""
    return ResourceExhaustedError("The host's disk is full", details="No space left on device")


class Disk(Faults):
    """What the fakes of one server write to."""

    def __init__(self, *, full_at: int | None = None) -> None:
        """
        Args:
            full_at: the how-manieth write finds it full, and all after that until ``free``; None: none does.
        """
        super().__init__()
        self.writes = 0
        self.refused = 0
        self.full_at = full_at

    def free(self) -> None:
        """Make room, for good."""
        self.full_at = None

    def write(self) -> None:
        """
        Write something.

        Raises:
            ResourceExhaustedError: it is full.
        """
        self.writes += 1
        if self.full_at is not None and self.writes >= self.full_at:
            self.refused += 1
            raise full()

    async def at(self, place: str) -> None:
        await super().at(place)
        if place.startswith(_WRITING):
            self.write()


class Written:
    """A store whose rows are on that disk: it passes each call on that changes some."""

    def __init__(self, store: Any, write: Callable[[], None]) -> None:
        self._store = store
        self._write = write

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if not name.startswith(("add", "replace", "finish", "delete", "forget")):
            return call

        async def written(*args: Any, **kwargs: Any) -> Any:
            self._write()
            return await call(*args, **kwargs)

        return written
