"""Secrets: values that requests of sandboxes carry, and that no sandbox sees."""

import builtins
from collections.abc import Mapping

from atoll.sdk._async.api import open_api
from atoll.sdk.models import SecretInfo
from atoll.sdk.network import secret_placeholder


class AsyncSecret:
    """
    Values under names, for ``Network(headers=...)``: written, and never read again.

    A reference is a name, in whatever case, or an id. Every call but ``fill`` takes ``api_url``, ``api_key``
    and ``request_timeout``, as ``AsyncSandbox``'s do.
    """

    @staticmethod
    def fill(name: str) -> str:
        """
        Return what stands for a secret in a header's value: ``${e2b.secrets.<name>}``.

        Raises:
            InvalidArgumentError: no secret is called that.
        """
        return secret_placeholder(name)

    @classmethod
    async def create(
        cls,
        name: str,
        value: str,
        *,
        metadata: Mapping[str, str] | None = None,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> SecretInfo:
        """
        Keep a value.

        Args:
            name: 1 to 128 characters, no braces, slashes or control characters; kept in lower case.
            value: at most 64 KiB of UTF-8.
            metadata: your own words about it, at most 32 pairs; not secret.

        Raises:
            AlreadyExistsError: the team has one of this name.
            InvalidArgumentError: name, value or metadata outside their bounds.
            ResourceExhaustedError: the team has as many as it may.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            return await api.create_secret(name, value, metadata or {})

    @classmethod
    async def get(
        cls,
        reference: str,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> SecretInfo:
        """
        Read what is known of a secret.

        Raises:
            NotFoundError: there is none.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            return await api.get_secret(reference)

    @classmethod
    async def list(
        cls, *, api_url: str | None = None, api_key: str | None = None, request_timeout: float | None = None
    ) -> builtins.list[SecretInfo]:
        """List your secrets, in the order of their names."""
        async with open_api(api_url, api_key, request_timeout) as api:
            return await api.secrets()

    @classmethod
    async def update(
        cls,
        reference: str,
        value: str,
        *,
        metadata: Mapping[str, str] | None = None,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
    ) -> SecretInfo:
        """
        Give a secret another value; requests of running sandboxes carry it, too, after some 5 s.

        Args:
            reference: its name or id.
            value: at most 64 KiB of UTF-8.
            metadata: None: as it is.

        Raises:
            NotFoundError: there is none.
            InvalidArgumentError: value or metadata outside their bounds.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            return await api.update_secret(reference, value, metadata)

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
        Delete a secret; requests whose rule names it are refused from then on.

        Raises:
            NotFoundError: there is none.
        """
        async with open_api(api_url, api_key, request_timeout) as api:
            await api.delete_secret(reference)
