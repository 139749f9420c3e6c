"""
Translates what HTTP libraries raise into the SDK's errors, once, at the edge.

Also the headers that name a sandbox to the edge, the names and times of the daemon's protocol, and when a
call is sent again.
"""

import base64
import json
import time
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import httpx
from connectrpc.code import Code
from connectrpc.errors import ConnectError

from atoll.sdk.errors import (
    BY_CODE,
    AtollError,
    ConnectionLostError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)

# The daemon's port in every sandbox.
DAEMON_PORT = 49983
# Seconds of silence after which the daemon says that a stream still lives; each wakes an idle sandbox once.
KEEPALIVE = 30
# Seconds without a byte, not even a keepalive: the connection is taken for lost.
SILENCE = 3.0 * KEEPALIVE
# Asks the daemon, of a connect to a command, for what was printed lately; E2B's clients never do.
RECENT_OUTPUT = "Atoll-Recent-Output"
# Largest message that is taken from a guest, who may be hostile. A list of 100,000 files has about 20 MB.
MOST_MESSAGE_BYTES = 64 * 1024 * 1024
# Bytes of an error's body that are read.
MOST_ERROR_BYTES = 64 * 1024

# Seconds for which a call is sent again, from the first lost answer on: a server takes some to start anew.
_REPEATED_FOR = 15.0
# Seconds between two tries: they double, up to a bound.
_FIRST_PAUSE, _MOST_PAUSE = 0.1, 1.0

_HTTP_CODES = {
    400: "invalid_argument", 401: "unauthenticated", 403: "permission_denied", 404: "not_found",
    409: "aborted", 413: "resource_exhausted", 429: "resource_exhausted", 499: "canceled",
    501: "unimplemented", 502: "unavailable", 503: "unavailable", 504: "deadline_exceeded",
    507: "resource_exhausted",
}  # fmt: skip


class Repeats:
    """
    Says whether a call that has a name is sent again under it: while its answer may have been lost.

    Its answer is lost when the connection broke after the call had begun, or when the server ended behind the
    edge (502). What follows that is waited for, too, for a few seconds: a server that starts, and the first
    call's end, of which the server says that it may be asked again (``Should-Retry``).
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until: float | None = None
        self._pause = _FIRST_PAUSE

    def after_error(self, error: AtollError) -> bool:
        """Tell, after a call without an answer."""
        if isinstance(error, ConnectionLostError):
            self._lose()
        return self._goes_on() and isinstance(error, UnavailableError)

    def after_answer(self, status: int, headers: Mapping[str, str]) -> bool:
        """Tell, after an answer; the names of its headers are found in any case."""
        if status == 502:
            self._lose()
        if not self._goes_on():
            return False
        return status in (502, 503) or (status == 409 and headers.get("Should-Retry") == "true")

    def pause(self) -> float:
        """Return how many seconds to wait before the next try."""
        pause, self._pause = self._pause, min(2 * self._pause, _MOST_PAUSE)
        return pause

    def _lose(self) -> None:
        if self._until is None:
            self._until = self._now() + _REPEATED_FOR

    def _goes_on(self) -> bool:
        return self._until is not None and self._now() < self._until


def sandbox_headers(sandbox_id: str, access_token: str | None, user: str | None = None) -> dict[str, str]:
    """Build the headers of a call to a sandbox's daemon; ``user``: on whose behalf."""
    headers = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(DAEMON_PORT)}
    if access_token:
        headers["X-Access-Token"] = access_token
    if user is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:".encode()).decode()
    return headers


def error_from_response(status: int, body: bytes) -> AtollError:
    """Read an error answer: ``{"code", "message"}``, whatever the code's type."""
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    fields: Mapping[str, object] = content if isinstance(content, dict) else {}
    code, message = fields.get("code"), fields.get("message")
    text = str(message) if message else f"the server answered with HTTP status {status}"
    name = code if isinstance(code, str) and code in BY_CODE else _HTTP_CODES.get(status, "internal")
    return _refined(name, text[:2000])


def _refined(code: str, message: str) -> AtollError:
    # The edge speaks of a sandbox that is not there as an unreachable one, because E2B's clients want it so.
    if code == "unavailable" and "was not found" in message:
        return NotFoundError(
            message, resolution="It is paused, and resume() wakes it; or it has ended, or never was."
        )
    return BY_CODE[code](message)


@contextmanager
def map_http_errors(address: str) -> Iterator[None]:
    """Raise the SDK's errors in place of httpx's."""
    try:
        yield
    except httpx.ConnectError as error:
        raise UnavailableError(
            f"Atoll does not answer at {address}.",
            details=str(error) or None,
            resolution="Is it up? `sudo atoll up` starts it; `atoll doctor` says what is wrong.",
        ) from error
    except httpx.TimeoutException as error:
        raise DeadlineExceededError(
            f"No answer from {address} in time.", details=type(error).__name__
        ) from error
    except (httpx.RemoteProtocolError, httpx.NetworkError) as error:
        raise ConnectionLostError(
            "The connection was lost in the middle of the call.",
            details=str(error) or type(error).__name__,
            resolution="Whether the call took effect is not known: look before you repeat it.",
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InternalError(f"The call failed: {error}") from error


@contextmanager
def map_connect_errors(address: str) -> Iterator[None]:
    """Raise the SDK's errors in place of connectrpc's; let a cancellation be one again."""
    try:
        yield
    except ConnectError as error:
        if isinstance(error.__cause__, CancelledError):
            # connectrpc makes an error of a cancellation, which would keep asyncio from ending the task.
            raise error.__cause__ from None
        raise _translated(error, address) from error


def _translated(error: ConnectError, address: str) -> AtollError:
    cause, message = error.__cause__, error.message[:2000]
    match error.code:
        case Code.UNAVAILABLE if isinstance(cause, ConnectionError):
            return UnavailableError(
                f"Atoll does not answer at {address}.",
                details=message,
                resolution="Is it up? `sudo atoll up` starts it; `atoll doctor` says what is wrong.",
            )
        case Code.UNAVAILABLE if cause is not None:
            return ConnectionLostError(
                "The connection to the sandbox was lost in the middle of the call.",
                details=message or type(cause).__name__,
                resolution="A command may still run: commands.list() finds it, commands.connect() attaches.",
            )
        case Code.DEADLINE_EXCEEDED if cause is not None:
            return DeadlineExceededError("No answer from the sandbox in time.", details=message)
        case Code.RESOURCE_EXHAUSTED if "larger than configured max" in message:
            return ResourceExhaustedError("The sandbox's answer is too large.", details=message)
        case _:
            return _refined(error.code.value, message or f"the call failed: {error.code.value}")


def check_text(name: str, value: str) -> str:
    """
    Refuse text that no header, path or argument can carry.

    Raises:
        InvalidArgumentError: it contains NUL, or is no text.
    """
    if "\0" in value:
        raise InvalidArgumentError(f"{name} must not contain NUL.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{name} is not valid Unicode: {value[:200]!a}.") from None
    return value
