"""Snapshots: ``AsyncSandbox.snapshot`` takes one, ``AsyncSandbox.create`` takes its id or name."""

import builtins

from atoll.sdk._async.api import open_api
from atoll.sdk.models import SnapshotInfo


class AsyncSnapshot:
    """
    What sandboxes were at one moment, on the server's disk until it is deleted.

    Every call takes ``api_url``, ``api_key`` and ``request_timeout``, as ``AsyncSandbox``'s do.
    """

    @classmethod
    async def list(
        cls,
        *,
        sandbox_id: str | None = None,
        name: str | None = None,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> builtins.list[SnapshotInfo]:
        """
        List snapshots, newest first.

        Args:
            sandbox_id: only those of this sandbox.
            name: only those of this name.

        Raises:
            InvalidArgumentError: no id, or no name, looks like that.
        """
        given = {"sandbox_id": sandbox_id, "name": name}
        async with open_api(api_url, api_key, request_timeout) as api:
            return await api.snapshots({key: value for key, value in given.items() if value is not None})

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
        Delete a snapshot, by id or name; what was created from it lives on.

        Raises:
            NotFoundError: there is none.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            await api.delete_snapshot(reference)
