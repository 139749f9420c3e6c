"""
The port to the rows of sandboxes.

Every call is one transaction: on return it holds, after an error nothing of it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from atoll.server.domain.ids import SandboxId, TeamId
from atoll.server.domain.machine import ProcessKilledForMemory
from atoll.server.domain.sandbox import Sandbox, Status

# A page is built in memory, rows with all their metadata and env.
MOST_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class SandboxFilter:
    """
    Which sandboxes to list; every given part must match.

    Attributes:
        team_id: the owner; None: anybody's (the server's own questions).
        statuses: one of these.
        metadata: all of these pairs.
        template: the template's id or the name that the caller gave, without a tag.
        started_after: only starts at that moment or later.
    """

    team_id: TeamId | None = None
    statuses: frozenset[Status] | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    template: str | None = None
    started_after: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Page:
    """
    Which part of a list.

    Attributes:
        limit: at most so many rows, 1 to ``MOST_ROWS``.
        after: the last row of the page before, (created_at, id); None: from the start.
        newest_first: the order, by created_at and id.
    """

    limit: int = 100
    after: tuple[datetime, SandboxId] | None = None
    newest_first: bool = True


class Store(Protocol):
    """Keeps the rows of sandboxes."""

    async def add_sandbox(self, sandbox: Sandbox) -> None:
        """
        Write a new row.

        Raises:
            AlreadyExistsError: the id is taken.
            NotFoundError: there is no such team, or it is being deleted.
        """
        ...

    async def get_sandbox(self, sandbox_id: SandboxId) -> Sandbox:
        """
        Read a row.

        Raises:
            NotFoundError: there is none.
        """
        ...

    async def find_request(self, team_id: TeamId, key: str) -> Sandbox | None:
        """
        Read the row of a named create of the team's that is under way or was answered; None: there is none.

        One that failed before it ran is no answer, nor is one that was ended because its caller had gone.
        """
        ...

    async def replace_sandbox(self, old: Sandbox, new: Sandbox) -> None:
        """
        Write ``new`` where exactly ``old`` stands, and the event that this tells (``domain/events.py``).

        Raises:
            NotFoundError: there is no such row.
            AbortedError: the row is no longer what ``old`` says.
        """
        ...

    async def list_sandboxes(self, filter: SandboxFilter, page: Page) -> Sequence[Sandbox]:
        """
        Read a page of rows.

        Raises:
            InvalidArgumentError: the page's limit is not 1 to ``MOST_ROWS``.
        """
        ...

    async def count_sandboxes(self, filter: SandboxFilter) -> int:
        """Count the rows that match."""
        ...

    async def sandbox_at(self, address: str) -> Sandbox | None:
        """Read the running sandbox that has this address."""
        ...

    async def secured_ids(self) -> Sequence[SandboxId]:
        """List the running sandboxes that have an access token, as ids: thousands take milliseconds."""
        ...

    async def paused_before(self, moment: datetime) -> Sequence[SandboxId]:
        """List those that are paused since a moment or longer, the longest first, as ids."""
        ...

    async def next_deadline(self) -> Sandbox | None:
        """Read the running row whose deadline comes first, of those that have one."""
        ...

    async def next_snapshot(self) -> Sandbox | None:
        """Read the running row whose ``snapshot_due`` comes first."""
        ...

    async def next_idle(self) -> Sandbox | None:
        """Read the running row whose ``idle_due`` comes first."""
        ...

    async def forget_sandboxes(
        self, *, ended_before: datetime | None, most: int, team_id: TeamId | None = None
    ) -> int:
        """
        Delete final rows that ended first, so many at most; return how many.

        Args:
            ended_before: only those that ended before; None: all.
            most: how many at most.
            team_id: only this team's; None: anybody's.
        """
        ...

    async def add_memory_kill(self, kill: ProcessKilledForMemory, *, keep: int) -> None:
        """
        Write that a process inside a sandbox was killed; of that sandbox only the last ``keep`` stay.

        Raises:
            NotFoundError: there is no row of that sandbox.
        """
        ...

    async def memory_kills(self, sandbox_id: SandboxId) -> Sequence[ProcessKilledForMemory]:
        """Read what was killed in a sandbox, oldest first; it is forgotten with the sandbox's row."""
        ...
