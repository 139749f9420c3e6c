"""
Volumes: making, finding and deleting them, and what opens their contents.

A row is written before its files are made, and deleted before they are: files without a row are removed at
the next start, and a row without files gets empty ones.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from atoll.server.control.requests import Actor, MountWish
from atoll.server.domain.errors import (
    AtollError,
    InvalidArgumentError,
    NotFoundError,
)
from atoll.server.domain.ids import VolumeId, may_be_volume_id, new_volume_id, parse_volume_id
from atoll.server.domain.volume import (
    MOST_LISTED,
    Volume,
    VolumeMount,
    check_name,
    check_paths,
    may_be_name,
)
from atoll.server.ports.clock import Clock
from atoll.server.ports.volumes import VolumeFiles, VolumeStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class VolumeLimits:
    """
    What volumes may use.

    Attributes:
        size_bytes: what each holds at most. It takes room on the host as it is written to, not before.
        most: volumes of all teams: each that is in use is a mount and a loop device of the host's.
        most_mounts: volumes of one sandbox.
    """

    size_bytes: int = 10 * 1024**3
    most: int = 200
    most_mounts: int = 16


class Volumes:
    """Makes, finds and deletes volumes."""

    def __init__(
        self, *, store: VolumeStore, files: VolumeFiles, clock: Clock, secret: bytes, limits: VolumeLimits
    ) -> None:
        """
        Args:
            store: the rows.
            files: what is in them.
            clock: the time.
            secret: what tokens derive from; 32 bytes.
            limits: how many and how large.
        """
        self._store = store
        self._files = files
        self._clock = clock
        self._secret = secret
        self._limits = limits

    async def open(self) -> None:
        """Finish what an interrupted create began; remove what an interrupted delete, or a lost row, left."""
        volumes = await self._store.list_volumes(None)
        for volume in volumes:
            try:
                await self._files.make(volume)
            except AtollError as error:
                log.warning("volume not there", volume_id=volume.id, error=str(error))
        known = {volume.id for volume in volumes}
        for volume_id in await self._files.present():
            if volume_id not in known:
                try:
                    await self._files.remove(volume_id)
                    log.info("volume without a row removed", volume_id=volume_id)
                except AtollError as error:
                    log.warning("volume without a row not removed", volume_id=volume_id, error=str(error))

    async def create(self, actor: Actor, name: str) -> Volume:
        """
        Make an empty volume.

        Raises:
            InvalidArgumentError: the name has another form.
            AlreadyExistsError: the team has one of this name.
            ResourceExhaustedError: the most volumes exist, or the host's disk is full.
            UnavailableError: the host cannot make one.
        """
        volume = Volume(
            id=new_volume_id(),
            team_id=actor.team_id,
            name=check_name(name),
            size_bytes=self._limits.size_bytes,
            created_at=self._clock.now(),
        )
        await self._store.add_volume(volume, most=self._limits.most)
        try:
            await self._files.make(volume)
        except BaseException:
            await self._store.remove_volume(volume.id)
            raise
        log.info("volume created", volume_id=volume.id)
        return volume

    async def list(
        self,
        actor: Actor,
        *,
        after: tuple[datetime, VolumeId] | None = None,
        limit: int | None = None,
    ) -> Sequence[Volume]:
        """
        List the team's volumes, oldest first.

        Args:
            after: behind this one, by its time and id.
            limit: at most so many; None: all, of which there are few.

        Raises:
            InvalidArgumentError: the limit is not 1 to 100.
        """
        if limit is not None and not 1 <= limit <= MOST_LISTED:
            raise InvalidArgumentError(f"limit must be 1 to {MOST_LISTED}")
        return await self._store.list_volumes(actor.team_id, after=after, limit=limit)

    async def get(self, actor: Actor, untrusted_id: str) -> Volume:
        """
        Read a volume.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: the team has none of this id.
        """
        volume = await self._store.get_volume(parse_volume_id(untrusted_id))
        if volume.team_id != actor.team_id:
            raise NotFoundError(f"Volume {volume.id} not found")
        return volume

    async def find(self, actor: Actor, untrusted_reference: str) -> Volume:
        """
        Read a volume, by name or id; no name has the form of an id.

        Raises:
            NotFoundError: the team has none.
        """
        if may_be_volume_id(untrusted_reference):
            return await self.get(actor, untrusted_reference)
        found = None
        if may_be_name(untrusted_reference):
            found = await self._store.find_volume(actor.team_id, untrusted_reference)
        if found is None:
            raise NotFoundError(f"Volume '{untrusted_reference[:64]}' not found")
        return found

    async def delete(self, actor: Actor, untrusted_id: str) -> None:
        """
        Delete a volume with all that is in it.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: the team has none of this id.
            FailedPreconditionError: a sandbox has it.
            UnavailableError: its files would not go; they do at the next start.
        """
        volume = await self.get(actor, untrusted_id)
        await self._store.remove_volume(volume.id)
        await self._files.remove(volume.id)
        log.info("volume deleted", volume_id=volume.id)

    async def mounts(self, actor: Actor, wishes: Sequence[MountWish]) -> tuple[VolumeMount, ...]:
        """
        Find the volumes that a sandbox is to have, by name or id.

        Raises:
            InvalidArgumentError: too many, or not at these paths.
            NotFoundError: the team has none of such a name.
        """
        if len(wishes) > self._limits.most_mounts:
            raise InvalidArgumentError(f"A sandbox has at most {self._limits.most_mounts} volumes")
        check_paths([wish.path for wish in wishes])
        found: list[VolumeMount] = []
        for wish in wishes:
            volume = await self.find(actor, wish.name)
            found.append(VolumeMount(volume_id=volume.id, name=volume.name, path=wish.path))
        return tuple(found)

    def token(self, volume_id: VolumeId) -> str:
        """Return what opens a volume's contents: 64 hexadecimal digits, always the same."""
        return hmac.new(self._secret, b"volume " + volume_id.encode(), hashlib.sha256).hexdigest()

    async def directory(self, untrusted_id: str, untrusted_token: str) -> Path:
        """
        Tell the edge where a volume's files are.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: there is none, or the token is another's.
            UnavailableError: the host does not give it.
        """
        volume_id = parse_volume_id(untrusted_id)
        shown = untrusted_token.encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(self.token(volume_id).encode(), shown):
            raise NotFoundError(f"Volume {volume_id} not found")
        await self._store.get_volume(volume_id)
        return await self._files.directory(volume_id)
