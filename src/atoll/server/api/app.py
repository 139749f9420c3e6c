"""
The two apps of a server, put together from dialects.

The public one is behind the edge, for everybody with a key. The private one is for our own programs.
"""

from dataclasses import dataclass

from starlette.types import ASGIApp

from atoll.server.api.e2b import dialect as e2b
from atoll.server.api.e2b.translate import Reach
from atoll.server.api.gate import Gate
from atoll.server.api.internal import routes as internal
from atoll.server.api.limits import ApiLimits
from atoll.server.api.rest import dialect as rest
from atoll.server.control.owned.identity import Identity
from atoll.server.control.owned.secrets import Secrets
from atoll.server.control.reach.naming import Naming
from atoll.server.control.service import Control
from atoll.server.control.verbs import Verbs


@dataclass(frozen=True, kw_only=True)
class PublicAddress:
    """
    Where clients find sandboxes.

    Attributes:
        domain: what follows ``<port>-<sandbox id>.`` in a sandbox's host name: "localhost:<port>", say.
    """

    domain: str


def build_public(verbs: Verbs, address: PublicAddress, limits: ApiLimits) -> ASGIApp:
    """
    Build what ``api.sock`` serves.

    /v1, /docs, /openapi.json and /.well-known are ours; every other path is E2B's.
    """
    dialects = (
        rest.build(verbs, address.domain),
        e2b.build(verbs, Reach(domain=address.domain)),
    )
    return Gate(dialects, verbs.control.authenticate, limits)


def build_private(
    control: Control,
    secrets: Secrets,
    identity: Identity,
    limits: ApiLimits,
    naming: Naming | None = None,
) -> ASGIApp:
    """Build what ``control.sock`` serves."""
    return Gate((internal.build(control, secrets, identity, naming),), control.authenticate, limits)
