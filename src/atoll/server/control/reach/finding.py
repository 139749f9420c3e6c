"""
Finds sandboxes for requests that name none, by what only the sandbox's own clients can show.

Signed URLs of E2B's clients carry no id when all sandboxes share one address, and some clients send
their token only. Each running sandbox is tried; for a thousand that takes 5 ms.
"""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass

from atoll.server.control.requests import Route
from atoll.server.control.rows import access
from atoll.server.control.rows.reading import Reading
from atoll.server.domain.errors import NotFoundError
from atoll.server.domain.ids import SandboxId
from atoll.server.ports.store import Store


@dataclass(frozen=True, kw_only=True)
class SignedFile:
    """
    What the URL of a signed file says.

    Attributes:
        path: as in the URL.
        operation: "read" or "write".
        user: as in the URL; empty: none.
        expires: seconds since 1970 as in the URL; empty: never. Whether it is over is the daemon's to say.
        signature: ``v1_`` and base64 of a SHA-256, without padding.
    """

    path: str
    operation: str
    user: str
    expires: str
    signature: str

    def is_signed_with(self, token: str) -> bool:
        """Say whether the signature was made with this access token."""
        parts = [self.path, self.operation, self.user, token, *([self.expires] if self.expires else [])]
        digest = hashlib.sha256(":".join(parts).encode("utf-8", "surrogatepass")).digest()
        signature = "v1_" + b64encode(digest).decode().rstrip("=")
        return hmac.compare_digest(signature.encode(), self.signature.encode("utf-8", "surrogatepass"))


class Finding:
    """Finds running sandboxes by proof."""

    def __init__(self, *, store: Store, reading: Reading, secret: bytes) -> None:
        self._store = store
        self._reading = reading
        self._secret = secret

    async def by_token(self, untrusted_token: str) -> Route:
        """Do what ``Routing.route_by_token`` promises."""
        shown = untrusted_token.encode("utf-8", "surrogatepass")
        return await self._first(lambda token: hmac.compare_digest(token.encode(), shown))

    async def by_signature(self, untrusted: SignedFile) -> Route:
        """Do what ``Routing.route_by_signature`` promises."""
        return await self._first(untrusted.is_signed_with)

    async def _first(self, fits: Callable[[str], bool]) -> Route:
        found: SandboxId | None = None
        for sandbox_id in await self._store.secured_ids():
            if fits(access.access_token(self._secret, sandbox_id)):
                found = sandbox_id
        if found is None:
            raise NotFoundError("No running sandbox has this token, or signed this")
        return await self._reading.route(found)
