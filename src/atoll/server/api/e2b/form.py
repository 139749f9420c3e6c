"""The form of an error in the E2B dialect."""

from starlette.responses import JSONResponse

from atoll.server.api.errors import Answer
from atoll.server.domain.errors import Code


def render(answer: Answer) -> JSONResponse:
    """Write ``{"code": <HTTP status>, "message": ...}``."""
    body: dict[str, object] = {"code": answer.status, "message": answer.message}
    if answer.code is Code.INTERNAL:
        body["error_code"] = "internal_server_error"
    return JSONResponse(body, status_code=answer.status, headers=dict(answer.headers))
