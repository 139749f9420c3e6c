"""A server as a whole: ``AsyncServer.collect`` frees what nobody needs on its disk."""

from atoll.sdk._async.api import open_api
from atoll.sdk.models import Collection


class AsyncServer:
    """
    What concerns a whole server; only the home's own key may do it.

    Every call takes ``api_url``, ``api_key`` and ``request_timeout``, as ``AsyncSandbox``'s do.
    """

    @classmethod
    async def collect(
        cls,
        *,
        dry_run: bool = False,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> Collection:
        """
        Remove what nobody needs: checkpoints that no sandbox or snapshot names, old programs and builds.

        Args:
            dry_run: only find it.

        Raises:
            PermissionDeniedError: not with this key.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            return await api.collect(dry_run)
