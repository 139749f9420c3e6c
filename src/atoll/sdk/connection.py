"""
Where Atoll answers and who calls: arguments first, then the environment.

``ATOLL_API_URL`` and ``ATOLL_API_KEY`` are what ``atoll env`` exports.
Nothing else is read: no key file, no default home.
"""

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from atoll.sdk.errors import InvalidArgumentError, UnauthenticatedError

# Seconds for one call that moves no bulk. A create on a full machine queues for up to 50 s.
REQUEST_TIMEOUT = 60.0
# Beyond this, some clocks' arithmetic overflows; the server's own bound of seconds.
_MOST_SECONDS = 10**9
_HOW = 'Run `eval "$(sudo atoll env)"`, or give api_url= and api_key=.'


@dataclass(frozen=True, kw_only=True)
class Connection:
    """
    How to reach one Atoll.

    Attributes:
        api_url: without a slash at the end; sandboxes are reached through the same address.
        api_key: who calls; not shown in repr.
        request_timeout: seconds for one call.
    """

    api_url: str
    api_key: str = field(repr=False)
    request_timeout: float = REQUEST_TIMEOUT

    @property
    def authority(self) -> str:
        """Host and port of the address."""
        return urlsplit(self.api_url).netloc

    @property
    def scheme(self) -> str:
        """Scheme of the address: http or https."""
        return urlsplit(self.api_url).scheme


def resolve(
    api_url: str | None = None, api_key: str | None = None, request_timeout: float | None = None
) -> Connection:
    """
    Find out how to reach Atoll.

    Raises:
        InvalidArgumentError: no address, or not one of HTTP; a timeout that is not positive, or
            longer than clocks can tell.
        UnauthenticatedError: no key.
    """
    url = (api_url or os.environ.get("ATOLL_API_URL") or "").rstrip("/")
    key = api_key or os.environ.get("ATOLL_API_KEY") or ""
    if not url:
        raise InvalidArgumentError(
            "It is not known where Atoll answers: ATOLL_API_URL is not set.", resolution=_HOW
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgumentError(
            f"{url!r} is not an address of the form http://host:port.", resolution=_HOW
        )
    if not key:
        raise UnauthenticatedError("There is no API key: ATOLL_API_KEY is not set.", resolution=_HOW)
    if not key.isascii() or not key.isprintable():
        raise UnauthenticatedError("The API key has characters that no key has.", resolution=_HOW)
    timeout = REQUEST_TIMEOUT if request_timeout is None else request_timeout
    if not 0 < timeout <= _MOST_SECONDS:
        raise InvalidArgumentError(
            f"request_timeout must be positive, and {_MOST_SECONDS} at most, not {timeout!r}."
        )
    return Connection(api_url=url, api_key=key, request_timeout=timeout)
