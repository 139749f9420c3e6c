"""The ports to volumes: their rows, and their files on this host."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from atoll.server.domain.ids import TeamId, VolumeId
from atoll.server.domain.volume import Volume


class VolumeStore(Protocol):
    """Keeps the rows. Every call is one transaction."""

    async def add_volume(self, volume: Volume, *, most: int) -> None:
        """
        Write a new row.

        Raises:
            AlreadyExistsError: the team has one of this name.
            ResourceExhaustedError: there are ``most`` already, of all teams.
            NotFoundError: there is no such team, or it is being deleted.
        """
        ...

    async def get_volume(self, volume_id: VolumeId) -> Volume:
        """
        Read a row.

        Raises:
            NotFoundError: there is none.
        """
        ...

    async def find_volume(self, team_id: TeamId, name: str) -> Volume | None:
        """Read the team's row of this name."""
        ...

    async def list_volumes(
        self,
        team_id: TeamId | None,
        *,
        after: tuple[datetime, VolumeId] | None = None,
        limit: int | None = None,
    ) -> Sequence[Volume]:
        """
        Read a team's rows, or everybody's, oldest first.

        Args:
            after: behind this one, by its time and id.
            limit: at most so many; None: all.
        """
        ...

    async def remove_volume(self, volume_id: VolumeId) -> None:
        """
        Delete a row; a no-op if there is none.

        Raises:
            FailedPreconditionError: a sandbox that has not ended has it.
        """
        ...


class VolumeFiles(Protocol):
    """Keeps what is in volumes, each within its size."""

    async def make(self, volume: Volume) -> None:
        """
        Make an empty one; again is the same.

        Raises:
            ResourceExhaustedError: the host's disk is full.
            UnavailableError: the host cannot make one; details say why.
        """
        ...

    async def directory(self, volume_id: VolumeId) -> Path:
        """
        Return where its files are on this host, and have them there.

        Raises:
            NotFoundError: there is no such volume here.
            UnavailableError: the host does not give it; details say why.
        """
        ...

    async def remove(self, volume_id: VolumeId) -> None:
        """
        Remove it with all that is in it; a no-op if it is not there.

        Raises:
            UnavailableError: something would not go; calling again may help.
        """
        ...

    async def present(self) -> Sequence[VolumeId]:
        """List those of which anything is here, half-made ones too."""
        ...

    async def let_go(self) -> None:
        """Take all of them off the host's paths; what is in them stays."""
        ...
