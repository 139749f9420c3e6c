"""The port to the rows of snapshots."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from atoll.server.domain.ids import SandboxId, TeamId
from atoll.server.domain.snapshot import Snapshot, SnapshotId


@dataclass(frozen=True, kw_only=True)
class SnapshotQuery:
    """
    Which snapshots to list, newest first; every given part must match.

    Attributes:
        team_id: the owner.
        sandbox_id: what they were taken of.
        name: their name.
        scheduled: whether they were taken on a schedule; None: either.
        after: behind this one, by its time and id.
        limit: at most so many.
    """

    team_id: TeamId
    sandbox_id: SandboxId | None = None
    name: str | None = None
    scheduled: bool | None = None
    after: tuple[datetime, SnapshotId] | None = None
    limit: int = 100


class SnapshotStore(Protocol):
    """Keeps the rows. Every call is one transaction."""

    async def add_snapshot(self, snapshot: Snapshot, *, most: int) -> None:
        """
        Write a row.

        Raises:
            ResourceExhaustedError: the team has as many as it may.
            NotFoundError: there is no such team, or it is being deleted.
        """
        ...

    async def finish_snapshot(
        self, snapshot_id: SnapshotId, name: str | None, size_bytes: int, *, is_ready: bool = True
    ) -> Snapshot:
        """
        Write that a snapshot was taken, and tell its owner; an older one of this name loses it.

        Args:
            snapshot_id: which.
            name: what it is called.
            size_bytes: on the disk.
            is_ready: whether others may use it from now on; else it stays what a start removes.

        Raises:
            NotFoundError: there is no such row.
        """
        ...

    async def find_snapshot(self, team_id: TeamId, key: str) -> Snapshot | None:
        """Read a team's snapshot that is ready, by id or name."""
        ...

    async def list_snapshots(self, query: SnapshotQuery) -> Sequence[Snapshot]:
        """List those that are ready."""
        ...

    async def delete_snapshot(self, snapshot_id: SnapshotId) -> bool:
        """Delete a row; return whether it was there."""
        ...

    async def all_snapshots(self) -> Sequence[Snapshot]:
        """List all of all teams, those that are not ready too."""
        ...
