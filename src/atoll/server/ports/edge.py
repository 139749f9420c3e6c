"""The port to the edge, the program that carries users' bytes to sandboxes."""

from datetime import timedelta
from typing import Protocol

from atoll.server.domain.ids import SandboxId


class Edge(Protocol):
    """Tells the edge what it can no longer know from its cache."""

    async def forget(self, sandbox_id: SandboxId) -> None:
        """
        Drop the route of a sandbox and cut its connections; return when that is done.

        Afterwards the sandbox's address may be given to another one.
        An edge that does not answer is restarted, which forgets everything.
        """
        ...

    async def ask_again(self, sandbox_id: SandboxId) -> None:
        """
        Have requests from now on ask where the sandbox is; those under way, and their connections, go on.

        What answers now is about to stand still: a request that still goes there would be cut with it.
        An edge that does not answer goes on as before; ``forget`` sees to it.
        """
        ...

    async def retire(self, sandbox_id: SandboxId, *, idle_for: timedelta) -> timedelta | None:
        """
        Drop the route of a sandbox that nobody has called for so long, and that has no request under way.

        A stream, a command that somebody follows or an upgraded connection is a request under way. What was
        before the edge started is not known, and counts from then.

        Returns:
            None: it is dropped, or there was none. Else how long it takes at least until that can be.
            An edge that does not answer is restarted, which begins the time anew.
        """
        ...

    async def forget_egress(self, sandbox_id: SandboxId, *, unless: str = "") -> None:
        """
        Drop what a sandbox may reach by domains, and cut what the edge carries to the world for it; its route
        and the connections of its clients stay.

        Nothing happens if what it knows is the policy with the fingerprint ``unless``.
        An edge that does not answer is restarted, which forgets everything.
        """
        ...

    async def check_proxy(self, host: str) -> None:
        """
        Check where a proxy of a sandbox is; its name is resolved and checked again at each connection.

        Raises:
            InvalidArgumentError: the name leads nowhere, or where no sandbox and no proxy may be.
            UnavailableError: the edge does not answer.
        """
        ...
