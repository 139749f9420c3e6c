"""Changes one row, whatever happens to it meanwhile."""

from collections.abc import Callable

from atoll.server.domain.errors import AbortedError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import Sandbox
from atoll.server.ports.store import Store

# Each try fails only if somebody else's succeeded in between; more than a few in a row is a bug.
MOST_TRIES = 20


async def change(store: Store, sandbox_id: SandboxId, to: Callable[[Sandbox], Sandbox]) -> Sandbox:
    """
    Replace a row by ``to(row)``, which may be asked several times; the same row: nothing to do.

    Raises:
        NotFoundError: there is no such row.
        AbortedError: others changed it all the time.
    """
    for _ in range(MOST_TRIES):
        old = await store.get_sandbox(sandbox_id)
        new = to(old)
        if new == old:
            return old
        try:
            await store.replace_sandbox(old, new)
        except AbortedError:
            continue
        return new
    raise AbortedError(f"Sandbox {sandbox_id} changes all the time")
