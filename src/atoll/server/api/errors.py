"""
The one table from an error's code to HTTP, and the one place where an exception becomes an answer.

A dialect gives the answer its form. The caller sees code and message; details and resolution go to the log.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from atoll.server.domain.errors import AtollError, Code, Reason

log = structlog.get_logger(__name__)

STATUS: Mapping[Code, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.FAILED_PRECONDITION: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.INTERNAL: 500,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}

# What HTTP itself can complain about before a verb is reached.
CODE_OF_STATUS: Mapping[int, Code] = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    413: Code.RESOURCE_EXHAUSTED,
    415: Code.INVALID_ARGUMENT,
    431: Code.RESOURCE_EXHAUSTED,
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """
    An error as HTTP, before a dialect gives it its form.

    Attributes:
        status: of HTTP.
        message: what happened, for the caller.
        request_id: the same as in the log.
        headers: of the response.
        reason: where programs tell apart what has one code.
    """

    status: int
    code: Code
    message: str
    request_id: str
    reason: Reason | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def new_request_id() -> str:
    """Make an id under which the log and the caller speak of the same request."""
    return "req_" + secrets.token_hex(8)


def answer_to(error: BaseException, request_id: str) -> Answer:
    """Turn any exception into an answer, and log what the caller does not see."""
    if not isinstance(error, AtollError):
        log.error("request failed by our fault", request_id=request_id, exc_info=error)
        return answer(Code.INTERNAL, f"internal error; the log has it as {request_id}", request_id)
    _teller(error.code)(
        "request answered with an error",
        request_id=request_id,
        code=error.code.value,
        message=error.message,
        details=error.details,
        resolution=error.resolution,
    )
    told = answer(error.code, error.message, request_id)
    if error.reason is None:
        return told
    return replace(told, reason=error.reason, headers={**told.headers, **_advice_for(error.reason)})


def _teller(code: Code) -> Callable[..., None]:
    """Choose how loud the log is: what operators must look at, what they may, what callers did themselves."""
    match code:
        case Code.INTERNAL:
            return log.error  # type: ignore[no-any-return]
        case Code.UNAVAILABLE | Code.DEADLINE_EXCEEDED | Code.RESOURCE_EXHAUSTED:
            return log.warning  # type: ignore[no-any-return]
        case _:
            return log.debug  # type: ignore[no-any-return]


def answer(code: Code, message: str, request_id: str, status: int | None = None) -> Answer:
    """Build an answer; ``status`` is HTTP's, where the code alone does not say it."""
    return Answer(
        status=STATUS[code] if status is None else status,
        code=code,
        message=message,
        request_id=request_id,
        headers={"X-Request-Id": request_id, **_advice(code)},
    )


def _advice(code: Code) -> Mapping[str, str]:
    """
    Say whether the same call may work when it is sent again.

    Clients that find no advice send 429, 502, 503 and 504 again, three times.
    """
    match code:
        case Code.UNAVAILABLE:
            return {"Should-Retry": "true", "Retry-After": "1"}
        case Code.RESOURCE_EXHAUSTED | Code.DEADLINE_EXCEEDED | Code.UNIMPLEMENTED | Code.INTERNAL:
            return {"Should-Retry": "false"}
        case _:
            return {}


def _advice_for(reason: Reason) -> Mapping[str, str]:
    match reason:
        case Reason.REQUEST_IN_PROGRESS:
            return {"Should-Retry": "true", "Retry-After": "1"}
        case (
            Reason.REQUEST_MISMATCH
            | Reason.LIMIT_OF_SECRETS
            | Reason.LIMIT_OF_SANDBOXES
            | Reason.PAUSE_REFUSED
            | Reason.DISK_FULL
            | Reason.ADDRESSES_USED_UP
        ):
            return {"Should-Retry": "false"}
        case Reason.NO_ROOM | Reason.NO_TURN | Reason.CREATE_FAILED | Reason.GUEST_SILENT:
            return {}  # what the code says


def in_e2bs_words(answer: Answer) -> str:
    """Return the message with the words that programs written for E2B look for."""
    if answer.reason is Reason.LIMIT_OF_SANDBOXES:
        return answer.message.replace("concurrent sandboxes", "concurrent E2B sandboxes")
    return answer.message
