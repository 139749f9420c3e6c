"""The form of an error in our own API, and where its documentation names it."""

from typing import Any

from starlette.responses import JSONResponse

from atoll.server.api.errors import Answer
from atoll.server.api.rest.models import Problem

_MEANINGS = {
    400: "Something in the request can never work; the message names it.",
    401: "No API key, or an unknown one.",
    403: "Not with this key.",
    404: "No such thing, or not yours.",
    409: "Not in the status that this needs, taken, in use, or changed meanwhile.",
    413: "The body is too long.",
    429: "A limit is reached; the message names it. Sending the same again soon does not help.",
    500: "Our fault; the log has it under request_id.",
    503: "Not now. The same call may work later.",
    504: "It took too long.",
}


def render(answer: Answer) -> JSONResponse:
    """Write a problem."""
    body = {"code": answer.code.value, "message": answer.message, "request_id": answer.request_id}
    return JSONResponse(body, status_code=answer.status, headers=dict(answer.headers))


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route, those that each can have included."""
    named = sorted({401, 500, *statuses})
    return {status: {"model": Problem, "description": _MEANINGS[status]} for status in named}
