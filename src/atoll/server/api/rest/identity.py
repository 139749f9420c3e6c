"""What others verify tokens of sandboxes with: OpenID's discovery document and the keys; for everybody."""

from fastapi import APIRouter, Response
from pydantic import BaseModel

from atoll.server.api.dialect import route_class
from atoll.server.api.rest.form import render
from atoll.server.control.owned.identity import Identity

DISCOVERY = "/.well-known/openid-configuration"
KEYS = "/.well-known/jwks.json"
# Keys are published for days before they sign, so answers may be kept for a while.
_KEEP = "public, max-age=300"


class Discovery(BaseModel):
    """OpenID Connect Discovery 1.0, as far as verifiers of tokens read it; nobody signs in here."""

    issuer: str
    jwks_uri: str
    response_types_supported: list[str] = ["id_token"]
    subject_types_supported: list[str] = ["public"]
    id_token_signing_alg_values_supported: list[str] = ["RS256"]
    claims_supported: list[str] = ["iss", "sub", "aud", "iat", "exp", "jti"]


class PublicKey(BaseModel):
    """A key, as RFC 7517 has it."""

    kty: str
    use: str = "sig"
    alg: str = "RS256"
    kid: str
    n: str
    e: str


class PublicKeys(BaseModel):
    """The keys whose signatures are to be believed."""

    keys: list[PublicKey]


def router(identity: Identity) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(tags=["identity"], route_class=route_class(render))

    @routes.get(DISCOVERY, summary="Say where the keys are")
    async def discovery(response: Response) -> Discovery:
        """OpenID Connect's discovery document. Needs no key."""
        response.headers["Cache-Control"] = _KEEP
        address = identity.issuer.address
        return Discovery(issuer=address, jwks_uri=address + KEYS)

    @routes.get(KEYS, summary="List the keys that sign tokens of sandboxes")
    async def keys(response: Response) -> PublicKeys:
        """A key is here two days before it signs, and two days after. Needs no key."""
        response.headers["Cache-Control"] = _KEEP
        published = await identity.published()
        return PublicKeys(keys=[PublicKey(kid=key.id, **key.public) for key in published])

    return routes
