"""
The one tree of errors.

    AtollError                  (abstract: code, message, details, resolution)
    ├── InvalidArgumentError        the caller's input can never work
    ├── UnauthenticatedError        no proof, or a wrong one, of who calls
    ├── PermissionDeniedError       known caller, not allowed
    ├── NotFoundError               no such thing, or not the caller's
    ├── AlreadyExistsError
    ├── FailedPreconditionError     not in the status that this needs
    ├── AbortedError                somebody else changed it meanwhile
    ├── ResourceExhaustedError      a limit with a name is reached
    ├── UnavailableError            cannot now; the same call may succeed later
    ├── DeadlineExceededError       took longer than its limit
    ├── UnimplementedError
    └── InternalError               our fault

Tenants see code and message.
Operators also see details (the facts) and resolution (what to do).
"""

from enum import StrEnum
from typing import ClassVar


class Code(StrEnum):
    """Connect's codes, those we use."""

    INVALID_ARGUMENT = "invalid_argument"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    FAILED_PRECONDITION = "failed_precondition"
    ABORTED = "aborted"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"


class Reason(StrEnum):
    """Why, where programs tell apart what has one code."""

    # The key was used for another wish.
    REQUEST_MISMATCH = "request_mismatch"
    # The first call under the key is not answered yet.
    REQUEST_IN_PROGRESS = "request_in_progress"
    # The team has as many secrets as it may.
    LIMIT_OF_SECRETS = "limit_of_secrets"
    # The team has as many sandboxes as it may.
    LIMIT_OF_SANDBOXES = "limit_of_sandboxes"
    # No more sandboxes fit on the server, or wait for their turn.
    NO_ROOM = "no_room"
    # The sandbox had no turn in time.
    NO_TURN = "no_turn"
    # The sandbox did not come up.
    CREATE_FAILED = "create_failed"
    # Its guest hung when it was paused, and does again with the memory from then.
    GUEST_SILENT = "guest_silent"
    # It was to be paused only if its guest answers, and that does not.
    PAUSE_REFUSED = "pause_refused"
    # There is no room on the host's disk.
    DISK_FULL = "disk_full"
    # Every address of the home's range is held.
    ADDRESSES_USED_UP = "addresses_used_up"


class AtollError(Exception):
    """What happened (message), the facts (details), what to do (resolution); reason is for programs."""

    code: ClassVar[Code] = Code.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        details: str | None = None,
        resolution: str | None = None,
        reason: Reason | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.resolution = resolution
        self.reason = reason

    def __str__(self) -> str:
        return "\n".join(part for part in (self.message, self.details, self.resolution) if part)


class InvalidArgumentError(AtollError):
    """The caller's input can never work."""

    code = Code.INVALID_ARGUMENT


class UnauthenticatedError(AtollError):
    """No proof, or a wrong one, of who calls."""

    code = Code.UNAUTHENTICATED


class PermissionDeniedError(AtollError):
    """A known caller who is not allowed this."""

    code = Code.PERMISSION_DENIED


class NotFoundError(AtollError):
    """No such thing, or not the caller's."""

    code = Code.NOT_FOUND


class AlreadyExistsError(AtollError):
    """It is there already."""

    code = Code.ALREADY_EXISTS


class FailedPreconditionError(AtollError):
    """It is not in the status that this needs."""

    code = Code.FAILED_PRECONDITION


class AbortedError(AtollError):
    """Somebody else changed it meanwhile."""

    code = Code.ABORTED


class ResourceExhaustedError(AtollError):
    """A limit with a name is reached."""

    code = Code.RESOURCE_EXHAUSTED


class UnavailableError(AtollError):
    """Not now; the same call may succeed later."""

    code = Code.UNAVAILABLE


class DeadlineExceededError(AtollError):
    """It took longer than its limit."""

    code = Code.DEADLINE_EXCEEDED


class UnimplementedError(AtollError):
    """Atoll does not do this."""

    code = Code.UNIMPLEMENTED


class InternalError(AtollError):
    """Our fault."""

    code = Code.INTERNAL
