"""The form of an error in the E2B dialect."""

from collections.abc import Mapping

from starlette.responses import JSONResponse

from atoll.server.api.errors import Answer, in_e2bs_words
from atoll.server.domain.errors import Code, Reason

# What E2B calls a reason, and with which status, where that is not the code's.
_NAMES: Mapping[Reason, tuple[str, int | None]] = {
    Reason.REQUEST_MISMATCH: ("idempotency_request_mismatch", 422),
    Reason.LIMIT_OF_SECRETS: ("secret_limit_reached", None),
    Reason.REQUEST_IN_PROGRESS: ("idempotency_in_progress", None),
}


def render(answer: Answer) -> JSONResponse:
    """Write ``{"code": <HTTP status>, "message": ..., "error_code"?: ...}``."""
    name, status = _NAMES.get(answer.reason, (None, None)) if answer.reason else (None, None)
    status = status or answer.status
    if answer.code is Code.INTERNAL:
        name = "internal_server_error"
    body = {"code": status, "message": in_e2bs_words(answer), **({"error_code": name} if name else {})}
    return JSONResponse(body, status_code=status, headers=dict(answer.headers))
