"""
What the edge asks and tells: where sandboxes are, whose an address is, and who answers nobody.

A question for a sandbox that sleeps may wake it, and is answered once it runs.
"""

from contextlib import suppress

from atoll.server.control.lifecycle.pausing import Pausing
from atoll.server.control.machines.probing import Probing
from atoll.server.control.reach.finding import Finding, SignedFile
from atoll.server.control.requests import Route
from atoll.server.control.rows.reading import Reading
from atoll.server.control.upkeep.reconciling import Reconciling
from atoll.server.domain.errors import NotFoundError
from atoll.server.domain.ids import parse_sandbox_id
from atoll.server.domain.sandbox import Sandbox, Status


class Routing:
    """Leads the edge to sandboxes."""

    def __init__(
        self,
        *,
        reading: Reading,
        finding: Finding,
        pausing: Pausing,
        reconciling: Reconciling,
        probing: Probing,
    ) -> None:
        self._reading = reading
        self._finding = finding
        self._pausing = pausing
        self._reconciling = reconciling
        self._probing = probing

    async def route(self, untrusted_id: str) -> Route:
        """
        Tell the edge where a running sandbox is, or one that traffic wakes, once it runs.

        One that is being created, paused or resumed otherwise is nowhere yet, or again; its status says so.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: there is none, it has ended, or it is paused.
            AtollError: it was not woken, and why.
        """
        sandbox_id = parse_sandbox_id(untrusted_id)
        with suppress(NotFoundError):
            found = await self._reading.route(sandbox_id)
            if found.status is Status.RUNNING:
                return found
        await self._pausing.wake(sandbox_id)
        return await self._reading.route(sandbox_id)

    async def suspect(self, untrusted_id: str) -> None:
        """
        Hear of the edge that a running sandbox accepts no connection; one that hangs is ended behind this.

        Raises:
            InvalidArgumentError: the id has another form.
            NotFoundError: there never was one.
        """
        await self._reconciling.suspect(parse_sandbox_id(untrusted_id))

    def silent(self, untrusted_id: str) -> None:
        """
        Hear from the edge that a guest answered nobody for long; one that hangs is ended behind this call.

        Raises:
            InvalidArgumentError: the id has another form.
            UnavailableError: the server stops.
        """
        self._probing.suspect(untrusted_id)

    async def egress_at(self, untrusted_address: str) -> Sandbox:
        """
        Tell the edge whose address this is, and so what may be reached from there.

        Raises:
            NotFoundError: no running sandbox has it.
        """
        return await self._reading.at_address(untrusted_address)

    async def route_by_token(self, untrusted_token: str) -> Route:
        """
        Tell the edge which running sandbox has this access token, and where it is.

        Raises:
            NotFoundError: none.
        """
        return await self._finding.by_token(untrusted_token)

    async def route_by_signature(self, untrusted: SignedFile) -> Route:
        """
        Tell the edge which running sandbox's token signed this, and where it is.

        Raises:
            NotFoundError: none.
        """
        return await self._finding.by_signature(untrusted)
