"""
Brings a machine up: it boots, or is restored from a checkpoint.

Where all addresses are taken, it is given somebody else's. What it is told then is its caller's
(``configuring``).
"""

from collections.abc import Awaitable, Callable

from atoll.server.control.lifecycle.addresses import Addresses
from atoll.server.control.limits import ControlLimits
from atoll.server.control.work.waiting import within
from atoll.server.domain.errors import FailedPreconditionError, NotFoundError
from atoll.server.domain.machine import Machine, MachineSpec
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.runtime import Runtime


class Starting:
    """Starts and restores machines."""

    def __init__(
        self, *, runtime: Runtime, checkpoints: Checkpoints, addresses: Addresses, limits: ControlLimits
    ) -> None:
        self._runtime = runtime
        self._checkpoints = checkpoints
        self._addresses = addresses
        self._limits = limits

    async def bring_up(
        self,
        spec: MachineSpec,
        checkpoint: str | None,
        *,
        clear: Callable[[], Awaitable[None]],
        listens: bool = True,
        came: Callable[[], None] = lambda: None,
    ) -> Machine:
        """
        Return a machine that runs, and was told nothing yet.

        Args:
            spec: which.
            checkpoint: what it is restored from; None: it boots.
            clear: removes what a try left that found no address, before the next one.
            listens: whether one that is restored counts as up only once its guest listens.
            came: called when it runs, and only what is inside is waited for; at the latest before the return.

        Raises:
            ResourceExhaustedError: nobody can do without an address (``ADDRESSES_USED_UP``).
            FailedPreconditionError: the checkpoint is damaged, gone or belongs to something that is not here.
            DeadlineExceededError: it did not come up in ``start_timeout``, or ``resume_timeout``.
            AtollError: it did not come up, and why.
        """
        machine = await self._addresses.have(
            lambda: self._once(spec, checkpoint, listens=listens, came=came), clear
        )
        came()
        return machine

    async def _once(
        self, spec: MachineSpec, checkpoint: str | None, *, listens: bool, came: Callable[[], None]
    ) -> Machine:
        if checkpoint is None:
            return await within(self._limits.start_timeout, "start", self._runtime.start(spec))
        try:
            async with self._checkpoints.raw(checkpoint) as path:
                restored = self._runtime.restore(spec, path, listens=listens, came=came)
                return await within(self._limits.resume_timeout, "come back", restored)
        except NotFoundError as error:
            # What comes back from it is there: "not found" would be read as if it was not.
            raise FailedPreconditionError(
                f"Checkpoint '{checkpoint}' cannot be restored",
                details=f"{error.message}: {error.details}",
                resolution="restore an older one",
            ) from error
