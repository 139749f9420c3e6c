"""
Creates that their callers name, so that one sent twice is done once.

The row of the sandbox is the record of its create: written before the act, kept as long as rows are. What a
named create that failed left is no answer: the next call under its name tries again.
"""

import hashlib
import json
import re
from dataclasses import asdict, replace

from atoll.server.control.requests import CreateSandbox
from atoll.server.domain.errors import AbortedError, FailedPreconditionError, InvalidArgumentError, Reason
from atoll.server.domain.sandbox import NamedRequest, Sandbox, Status
from atoll.server.ports.store import Store

# As E2B has it.
_KEY = re.compile(r"[a-z0-9-]{1,255}")


def named(wish: CreateSandbox) -> NamedRequest | None:
    """
    Say which create this is; None: its caller gave it no name.

    Raises:
        InvalidArgumentError: the name has another form.
    """
    if wish.request_key is None:
        return None
    if not _KEY.fullmatch(wish.request_key):
        raise InvalidArgumentError("An idempotency key is 1 to 255 of a-z, 0-9 and -")
    asked = json.dumps(asdict(replace(wish, request_key=None)), sort_keys=True, default=str)
    return NamedRequest(key=wish.request_key, fingerprint=hashlib.sha256(asked.encode()).hexdigest())


async def answered(store: Store, row: Sandbox) -> Sandbox | None:
    """
    Find the sandbox that the same create made before; None: it is new, or failed before.

    Raises:
        AbortedError: the first call is still under way.
        FailedPreconditionError: the name stands for another wish.
    """
    if row.request is None:
        return None
    earlier = await store.find_request(row.team_id, row.request.key)
    if earlier is None or earlier.request is None:
        return None
    if earlier.request.fingerprint != row.request.fingerprint:
        raise FailedPreconditionError(
            "The idempotency key was used for another request",
            resolution="Use a new key for each new sandbox.",
            reason=Reason.REQUEST_MISMATCH,
        )
    if earlier.status is Status.CREATING:
        raise AbortedError(
            "The request with this idempotency key is still under way", reason=Reason.REQUEST_IN_PROGRESS
        )
    return earlier
