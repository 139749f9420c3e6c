"""
Where sandboxes are, for the edge: by id, by access token, by the signature of a file's URL.

No key: the socket lies in the home, which only its owner can enter.
"""

from collections.abc import Sequence
from typing import Literal

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from starlette.responses import JSONResponse

from atoll.server.api.dialect import add_error_forms, route_class
from atoll.server.api.errors import Answer, in_e2bs_words
from atoll.server.api.gate import Dialect
from atoll.server.control.owned.identity import Identity
from atoll.server.control.owned.secrets import Secrets
from atoll.server.control.reach.finding import SignedFile
from atoll.server.control.reach.naming import Naming
from atoll.server.control.requests import Route as Found
from atoll.server.control.service import Control
from atoll.server.domain.egress import fingerprint
from atoll.server.domain.egress_rules import SECRETS, TOKENS
from atoll.server.domain.errors import Reason
from atoll.server.domain.sandbox import Sandbox


class Route(BaseModel):
    """Where a sandbox is, if it runs, what its clients must show, and how its programs are asked."""

    sandbox_id: str
    address: str | None
    status: str
    traffic_token: str | None = None
    mask_host: str = ""
    https_ports: list[int] = []


class Heard(BaseModel):
    """Nothing to say."""


class Header(BaseModel):
    """A header, whose value may have placeholders."""

    name: str
    value: str


class Rule(BaseModel):
    """What requests for a name get, and the placeholders in there."""

    domain: str
    headers: list[Header]
    placeholders: list[str]


class ProxyTLS(BaseModel):
    """Whom a proxy must prove to be."""

    server_name: str
    ca_cert: str


class Proxy(BaseModel):
    """What a sandbox's TCP goes through."""

    address: str
    username: str
    password: str
    tls: ProxyTLS | None


class Egress(BaseModel):
    """What a sandbox reaches, who resolves names for it, and what is done to its requests."""

    sandbox_id: str
    fingerprint: str
    domains: list[str]
    dns_servers: list[str]
    allowed: list[str]
    denied: list[str]
    open: bool
    rules: list[Rule]
    proxy: Proxy | None


class Placeholders(BaseModel):
    """What is between ``${e2b.`` and ``}`` in a sandbox's rules."""

    names: list[str]


class Values(BaseModel):
    """The values of those that are there."""

    values: dict[str, str]


class VolumeToken(BaseModel):
    """What the client of a volume's contents showed."""

    token: str


class VolumeDirectory(BaseModel):
    """Where a volume's files are on this host."""

    directory: str


class Token(BaseModel):
    """What the client of a sandbox showed."""

    access_token: str


class Signed(BaseModel):
    """The query of a signed file's URL, and what the request would do: "read" or "write"."""

    path: str
    operation: Literal["read", "write"]
    user: str
    expires: str
    signature: str


def render(answer: Answer) -> JSONResponse:
    """Write ``{"code": <word>, "message": ...}``; the edge passes the message on to clients of sandboxes."""
    body = {"code": answer.code.value, "message": in_e2bs_words(answer)}
    # Clients take 429 for too many requests.
    status = 507 if answer.reason is Reason.DISK_FULL else answer.status
    return JSONResponse(body, status_code=status, headers=dict(answer.headers))


def told_egress(sandbox: Sandbox) -> Egress:
    """Say all that the edge has to know of a sandbox's policy."""
    policy, proxy = sandbox.egress, sandbox.egress.proxy
    return Egress(
        sandbox_id=sandbox.id,
        fingerprint=fingerprint(policy),
        domains=list(policy.domains),
        dns_servers=list(policy.dns_servers),
        allowed=[str(network) for version in (4, 6) for network in policy.allowed(version)],
        denied=[str(network) for version in (4, 6) for network in policy.denied(version)],
        open=not policy.denies_all,
        rules=[
            Rule(
                domain=rule.domain,
                headers=[Header(name=name, value=value) for name, value in rule.headers],
                placeholders=list(rule.placeholders),
            )
            for rule in policy.rules
        ],
        proxy=None
        if proxy is None
        else Proxy(
            address=proxy.address,
            username=proxy.username,
            password=proxy.password,
            tls=None
            if proxy.tls is None
            else ProxyTLS(server_name=proxy.tls.server_name, ca_cert=proxy.tls.ca_cert),
        ),
    )


async def filled(
    secrets: Secrets, identity: Identity, sandbox: Sandbox, names: Sequence[str]
) -> dict[str, str]:
    """Find what stands for placeholders of a sandbox's rules; what is not there is left out."""

    def behind(prefix: str) -> list[str]:
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    values = await secrets.values_for(sandbox, behind(SECRETS))
    tokens = await identity.tokens_for(sandbox, behind(TOKENS))
    return {SECRETS + name: value for name, value in values.items()} | {
        TOKENS + name: token for name, token in tokens.items()
    }


def build(control: Control, secrets: Secrets, identity: Identity, naming: Naming | None = None) -> Dialect:
    """Put the routes together."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    add_error_forms(app, render)
    routes = APIRouter(route_class=route_class(render))

    _add_places(routes, control)

    @routes.get("/v1/egress/{address}")
    async def egress(address: str) -> Egress:
        return told_egress(await control.routing.egress_at(address))

    # POST, and a body: names are none of a log's business.
    @routes.post("/v1/egress/{address}/values")
    async def values(address: str, body: Placeholders) -> Values:
        sandbox = await control.routing.egress_at(address)
        return Values(values=await filled(secrets, identity, sandbox, body.names))

    @routes.post("/v1/volumes/{volume_id}/directory")
    async def volume(volume_id: str, body: VolumeToken) -> VolumeDirectory:
        return VolumeDirectory(directory=str(await control.volumes.directory(volume_id, body.token)))

    if naming is not None:

        @routes.post("/v1/names", status_code=204)
        async def names() -> None:
            await naming.refresh()

    app.include_router(routes)
    return Dialect(app=app, open_prefixes=("/",), render=render)


def _add_places(routes: APIRouter, control: Control) -> None:
    """Add the questions where a sandbox is."""

    def told(found: Found) -> Route:
        return Route(
            sandbox_id=found.sandbox_id,
            address=found.address,
            status=found.status.value,
            traffic_token=control.traffic_token(found),
            mask_host=found.ingress.mask_host,
            https_ports=list(found.ingress.https_ports),
        )

    @routes.get("/v1/routes/{sandbox_id}")
    async def route(sandbox_id: str) -> Route:
        return told(await control.routing.route(sandbox_id))

    @routes.post("/v1/routes/{sandbox_id}/suspect")
    async def suspect(sandbox_id: str) -> Heard:
        await control.routing.suspect(sandbox_id)
        return Heard()

    @routes.post("/v1/routes/{sandbox_id}/silent", status_code=204)
    async def silent(sandbox_id: str) -> None:
        control.routing.silent(sandbox_id)

    # POST, since what is asked for is a secret, and paths of requests are logged.
    @routes.post("/v1/routes/by-token")
    async def by_token(body: Token) -> Route:
        return told(await control.routing.route_by_token(body.access_token))

    @routes.post("/v1/routes/by-signature")
    async def by_signature(body: Signed) -> Route:
        return told(await control.routing.route_by_signature(SignedFile(**body.model_dump())))
