"""The form of an error in the E2B dialect."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from atoll.server.api.errors import Answer, in_e2bs_words
from atoll.server.domain.errors import Code, Reason

# What E2B calls a reason, and with which status, where that is not the code's.
_NAMES: Mapping[Reason, tuple[str, int | None]] = {
    Reason.REQUEST_MISMATCH: ("idempotency_request_mismatch", 422),
    Reason.LIMIT_OF_SECRETS: ("secret_limit_reached", None),
    Reason.REQUEST_IN_PROGRESS: ("idempotency_in_progress", None),
    Reason.NO_ROOM: ("sandbox_capacity_unavailable", None),
    Reason.ADDRESSES_USED_UP: ("sandbox_capacity_unavailable", None),
    Reason.NO_TURN: ("sandbox_placement_timeout", None),
    Reason.CREATE_FAILED: ("sandbox_create_failed", None),
    Reason.GUEST_SILENT: ("sandbox_snapshot_guest_agent_unresponsive", None),
}


def body_of(answer: Answer) -> dict[str, Any]:
    """Write ``{"code": <HTTP status>, "message": ..., "error_code"?: ...}``."""
    name, status = _NAMES.get(answer.reason, (None, None)) if answer.reason else (None, None)
    if name is None and answer.code is Code.INTERNAL:
        name = "internal_server_error"
    told = {"code": status or answer.status, "message": in_e2bs_words(answer)}
    return told | ({"error_code": name} if name else {})


def render(answer: Answer) -> JSONResponse:
    """Write an error as an answer."""
    body = body_of(answer)
    return JSONResponse(body, status_code=body["code"], headers=dict(answer.headers))
