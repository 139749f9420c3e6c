# Generated from sdk/_async/pool.py by scripts/unasync.py. DO NOT EDIT.
"""The pool: machines that wait to become sandboxes."""

import builtins

from atoll.sdk._sync.api import open_api
from atoll.sdk.models import PoolInfo


class Pool:
    """Machines that were restored from a template and wait, so that a create only claims one."""

    @classmethod
    def list(
        cls, *, api_url: str | None = None, api_key: str | None = None, request_timeout: float | None = None
    ) -> builtins.list[PoolInfo]:
        """
        List the pools, one for each template and size that was asked for lately, by name of the template.

        Raises:
            PermissionDeniedError: not with the home's own key.
        """
        with open_api(api_url, api_key, request_timeout) as api:
            return api.pools()
