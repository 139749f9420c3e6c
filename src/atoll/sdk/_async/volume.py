"""Volumes: files that outlive sandboxes, and that several sandboxes see at once."""

import builtins
from types import TracebackType
from typing import Self

from atoll.sdk import stored
from atoll.sdk._async.api import open_api
from atoll.sdk._async.volume_files import AsyncVolumeFiles
from atoll.sdk._synchronization import async_undo, async_whole
from atoll.sdk.connection import Connection
from atoll.sdk.models import VolumeInfo


class AsyncVolume:
    """
    Files that outlive sandboxes.

    Make one with ``create``, find one with ``get``; ``AsyncSandbox.create(volumes={"/data": volume})`` has a
    sandbox see it. As a context manager it closes its connections at the end; the volume stays until
    ``delete``.

    Every class method takes ``api_url``, ``api_key`` and ``request_timeout``, as ``AsyncSandbox``'s do.

    Attributes:
        files: read, write and list what is in it, without a sandbox.
        info: what is known of it.
    """

    files: AsyncVolumeFiles
    info: VolumeInfo

    def __init__(self, connection: Connection, opened: stored.OpenedVolume) -> None:
        self.info = opened.info
        self.files = AsyncVolumeFiles(connection, opened.info.id, opened.token)

    def __repr__(self) -> str:
        return f"<AsyncVolume {self.name!r}, {self.id}>"

    @property
    def id(self) -> str:
        """The volume's id."""
        return self.info.id

    @property
    def name(self) -> str:
        """The volume's name."""
        return self.info.name

    @classmethod
    async def create(
        cls,
        name: str,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> Self:
        """
        Create an empty volume.

        Args:
            name: 1 to 63 letters, digits, ``-`` and ``_``, a letter or digit first.

        Raises:
            AlreadyExistsError: the team has one of this name.
            InvalidArgumentError: the name has another form.
            ResourceExhaustedError: there are as many as there may be, or the server's disk is full.
            UnavailableError: the server's machine has no loop devices, or Atoll does not answer.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            made = await async_whole(
                lambda: api.create_volume(name), lambda made: api.delete_volume(made.info.id)
            )
            return cls(api.connection, made)

    @classmethod
    async def get(
        cls,
        reference: str,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> Self:
        """
        Find a volume, by name or id.

        Raises:
            NotFoundError: there is none.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            return cls(api.connection, await api.get_volume(reference))

    @classmethod
    async def list(
        cls, *, api_url: str | None = None, api_key: str | None = None, request_timeout: float | None = None
    ) -> builtins.list[VolumeInfo]:
        """List your volumes, oldest first."""
        async with open_api(api_url, api_key, request_timeout) as api:
            return await api.volumes()

    @classmethod
    async def delete(
        cls,
        reference: str,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> None:
        """
        Delete a volume, by name or id, with all that is in it.

        Raises:
            NotFoundError: there is none.
            FailedPreconditionError: a sandbox has it: kill that first.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            await api.delete_volume(reference)

    async def close(self) -> None:
        """Close the connections. The volume stays."""
        await self.files.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await async_undo(self.close)
