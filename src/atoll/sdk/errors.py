"""
The SDK's one tree of errors.

    AtollError                      code, message, details, resolution
    ├── InvalidArgumentError            what you gave can never work
    ├── UnauthenticatedError            no API key, or a wrong one
    ├── PermissionDeniedError           you are known, and not allowed
    ├── NotFoundError                   no such sandbox, file, command …
    ├── AlreadyExistsError
    ├── FailedPreconditionError         not in the status that this needs
    ├── AbortedError                    somebody else changed it meanwhile, or the call was given up
    ├── ResourceExhaustedError          a limit with a name is reached
    ├── UnavailableError                not now; the same call may succeed later
    │   └── ConnectionLostError         the connection broke after the call had begun
    ├── DeadlineExceededError           it took longer than its limit
    ├── UnimplementedError
    ├── InternalError                   the server's fault
    └── CommandFailedError              a command ended with another code than 0 (``results.py``)

The codes are Connect's. Nothing of an HTTP library gets out of the SDK: see ``transport.py``.
"""

from typing import ClassVar


class AtollError(Exception):
    """
    What happened (message), the facts (details), what to do (resolution).

    Attributes:
        code: one of Connect's codes, the same that the server uses.
        message: one sentence.
        details: facts, or None.
        resolution: what to do, or None.
    """

    code: ClassVar[str] = "unknown"

    def __init__(self, message: str, *, details: str | None = None, resolution: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.resolution = resolution

    def __str__(self) -> str:
        return "\n".join(part for part in (self.message, self.details, self.resolution) if part)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code}: {self.message!r})"


class InvalidArgumentError(AtollError):
    """What you gave can never work."""

    code = "invalid_argument"


class UnauthenticatedError(AtollError):
    """No API key, or a wrong one."""

    code = "unauthenticated"


class PermissionDeniedError(AtollError):
    """You are known, and not allowed."""

    code = "permission_denied"


class NotFoundError(AtollError):
    """No such sandbox, file or command."""

    code = "not_found"


class AlreadyExistsError(AtollError):
    """It is there already."""

    code = "already_exists"


class FailedPreconditionError(AtollError):
    """It is not in the status that this needs."""

    code = "failed_precondition"


class AbortedError(AtollError):
    """Somebody else changed it meanwhile, or the call was given up."""

    code = "aborted"


class ResourceExhaustedError(AtollError):
    """A limit with a name is reached."""

    code = "resource_exhausted"


class UnavailableError(AtollError):
    """Not now; the same call may succeed later."""

    code = "unavailable"


class ConnectionLostError(UnavailableError):
    """The connection broke after the call had begun: whether it took effect is not known."""


class DeadlineExceededError(AtollError):
    """It took longer than its limit."""

    code = "deadline_exceeded"


class UnimplementedError(AtollError):
    """Atoll does not do this."""

    code = "unimplemented"


class InternalError(AtollError):
    """The server's fault; its log says more under the request's id."""

    code = "internal"


BY_CODE: dict[str, type[AtollError]] = {
    kind.code: kind
    for kind in (
        InvalidArgumentError, UnauthenticatedError, PermissionDeniedError, NotFoundError, AlreadyExistsError,
        FailedPreconditionError, AbortedError, ResourceExhaustedError, UnavailableError,
        DeadlineExceededError, UnimplementedError, InternalError,
    )
}  # fmt: skip
# Connect's codes that are too fine for us.
BY_CODE |= {
    "canceled": AbortedError,
    "unknown": InternalError,
    "data_loss": InternalError,
    "out_of_range": InvalidArgumentError,
}
