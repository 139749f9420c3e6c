"""The pool: machines that wait to become sandboxes."""

import builtins

from atoll.sdk._async.api import open_api
from atoll.sdk.models import PoolInfo


class AsyncPool:
    """Machines that were restored from a template and wait, so that a create only claims one."""

    @classmethod
    async def list(
        cls, *, api_url: str | None = None, api_key: str | None = None, request_timeout: float | None = None
    ) -> builtins.list[PoolInfo]:
        """
        List the pools, one for each template and size that was asked for lately, by name of the template.

        Raises:
            PermissionDeniedError: not with the home's own key.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            return await api.pools()
