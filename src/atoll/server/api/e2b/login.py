"""
What ``e2b auth`` calls: a page for people, and OAuth's two calls for the program.

No key is needed here: showing one is what the page is for. It takes forms that it has sent itself only, and
sends keys nowhere but to this person's own machine.
"""

import re
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse

from atoll.server.api.dialect import route_class
from atoll.server.api.e2b import login_page
from atoll.server.api.e2b.form import render
from atoll.server.control.owned.signing_in import SigningIn
from atoll.server.domain.errors import InvalidArgumentError, ResourceExhaustedError, UnauthenticatedError

PAGE = "/docs/api/cli"
_TOKEN, _REVOKE = f"{PAGE}/token", f"{PAGE}/revoke"
# Whoever calls these has no key yet, or shows it in the body.
PATHS = (PAGE, _TOKEN, _REVOKE)
# The whole text, in one form: browsers and parsers do not read all others alike.
_LOOPBACK = re.compile(r"(http://(?:localhost|127\.0\.0\.1):([1-9][0-9]{0,4}))/?")
_ENDINGS = {
    "success": ("Signed in", "Go back to the terminal; this page can be closed."),
    "error": ("Not signed in", "The terminal says why. Try again from there."),
}
_MOST_FIELDS = 16


def router(signing_in: SigningIn) -> APIRouter:
    """Build the routes."""
    routes = APIRouter(route_class=route_class(render))

    @routes.get(PAGE)
    async def page(request: Request) -> Response:
        state = request.query_params.get("state")
        if state in _ENDINGS:
            return _html(login_page.message(*_ENDINGS[state]))
        following = _next(request.query_params.get("next", ""))
        return _html(login_page.form(following)) if following else _dead_link()

    @routes.post(PAGE)
    async def sign_in(request: Request) -> Response:
        return await _sign_in(signing_in, request)

    @routes.post(_TOKEN)
    async def renew(request: Request) -> Response:
        """Say that a key is good still: API keys have no end, so that there is no other to give."""
        key = (await _fields(request)).get("refresh_token", "")
        try:
            await signing_in.check(key)
        except UnauthenticatedError:
            return _json({"error": "invalid_grant", "error_description": "The key was revoked"}, 400)
        return _json({"access_token": key, "refresh_token": key, "token_type": "Bearer", "expires_in": 3600})

    @routes.post(_REVOKE)
    async def revoke(request: Request) -> Response:
        """As RFC 7009 has it: done, whatever was shown."""
        await signing_in.sign_out((await _fields(request)).get("token", ""))
        return _json({})

    return routes


async def _sign_in(signing_in: SigningIn, request: Request) -> Response:
    if not _own_form(request):
        text = "The form came from another page. Start again from the terminal."
        return _html(login_page.message("Refused", text), 403)
    fields = await _fields(request)
    following = _next(fields.get("next", ""))
    if following is None:
        return _dead_link()
    try:
        signed_in = await signing_in.sign_in(fields.get("key", "").strip())
    except UnauthenticatedError:
        return _html(login_page.form(following, "This key is not known here."), 401)
    except ResourceExhaustedError as error:
        return _html(login_page.form(following, error.message), 429)
    told = {
        "email": signed_in.who,
        "accessToken": signed_in.key,
        "refreshToken": signed_in.key,
        "tokenEndpoint": _address(request) + _TOKEN,
        "revokeEndpoint": _address(request) + _REVOKE,
        "clientId": "atoll",
    }
    return RedirectResponse(f"{following}?{urlencode(told)}", 303, login_page.HEADERS)


def _next(untrusted: str) -> str | None:
    """Return where the program listens; None: that is not this person's own machine."""
    found = _LOOPBACK.fullmatch(untrusted)
    return f"{found[1]}/" if found and int(found[2]) < 65536 else None


def _own_form(request: Request) -> bool:
    """Say whether the page that sent a form is ours: another could sign somebody in as somebody else."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    sender = urlsplit(request.headers.get("origin", "")).netloc
    return bool(sender) and sender == request.headers.get("host", "").lower()


def _address(request: Request) -> str:
    """Return under which address the edge was called."""
    scheme = "https" if request.headers.get("x-forwarded-proto") == "https" else "http"
    return f"{scheme}://{request.headers.get('host', '')}"


async def _fields(request: Request) -> dict[str, str]:
    """Read a form; its length is bounded by the gate, its fields by this."""
    try:
        parsed = parse_qs((await request.body()).decode(), max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise InvalidArgumentError("The form cannot be read") from error
    return {name: values[0] for name, values in parsed.items()}


def _dead_link() -> HTMLResponse:
    text = "It would lead to another place than this machine. Run 'e2b auth login' for a new one."
    return _html(login_page.message("This link does not work", text), 400)


def _html(text: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(text, status, login_page.HEADERS)


def _json(content: dict[str, Any], status: int = 200) -> JSONResponse:
    return JSONResponse(content, status, {"Cache-Control": "no-store"})
