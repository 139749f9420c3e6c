"""
Makes the machine of a sandbox that is created, and tells it who it is.

It waited in the pool, or is restored from a snapshot or from its warm template, or boots. What was of no use
on that way is removed here; the row, and what becomes of the machine when a create fails, are ``creating``'s.
"""

import asyncio
from dataclasses import dataclass

import structlog

from atoll.server.control.lifecycle.starting import Starting
from atoll.server.control.limits import ControlLimits
from atoll.server.control.machines.configuring import Configuring, spec_of
from atoll.server.control.machines.killing import End
from atoll.server.control.turns.admission import Turn
from atoll.server.control.warm.pool import Pool
from atoll.server.control.warm.shelf import Waiting
from atoll.server.control.warm.warming import GENERATION, Warming
from atoll.server.control.work.tasks import Job
from atoll.server.control.work.waiting import within
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import AtollError, FailedPreconditionError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import Machine
from atoll.server.domain.sandbox import Sandbox
from atoll.server.domain.snapshot import Snapshot
from atoll.server.domain.team_limits import TeamLimits
from atoll.server.domain.template import Template
from atoll.server.ports.runtime import Runtime

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """
    A checkpoint that a machine is restored from.

    Attributes:
        checkpoint: its name.
        kind: what is in it.
        generation: what it holds; the sandbox is newer.
        is_warm: whether it is a template's, where nobody's environment was known yet.
    """

    checkpoint: str
    kind: CheckpointKind
    generation: int
    is_warm: bool = False


@dataclass(kw_only=True)
class Creation:
    """
    A create under way.

    Attributes:
        team: the limits of whose it is.
        origin: what the machine is restored from, unless it waits already; None: it boots.
        waiting: the machine from the pool that it becomes, until it is; None: there is none, or not any more.
        waiting_ended: that machine ended meanwhile.
        job: what does it.
        turn: what it holds of the queue; None: nothing.
        step: how far it is.
        stopped: why it was stopped from outside, and what its caller is told; None: it was not.
    """

    team: TeamLimits
    origin: Origin | None
    waiting: Waiting | None
    waiting_ended: bool = False
    job: Job[Sandbox] | None = None
    turn: Turn | None = None
    step: str = "row"
    stopped: tuple[End, AtollError] | None = None


class Making:
    """Makes machines for creates."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        configuring: Configuring,
        limits: ControlLimits,
        pool: Pool,
        warming: Warming,
        starting: Starting,
    ) -> None:
        self._runtime = runtime
        self._configuring = configuring
        self._limits = limits
        self._pool = pool
        self._warming = warming
        self._starting = starting

    def origin(self, row: Sandbox, template: Template, snapshot: Snapshot | None) -> Origin | None:
        """Say what a machine is restored from that does not wait in the pool; None: it boots."""
        if snapshot is not None:
            return Origin(checkpoint=snapshot.id, kind=snapshot.kind, generation=snapshot.generation)
        fits = self._pool.enabled and row.limits.disk_bytes == template.limits.disk_bytes
        if fits and self._warming.is_warm(template):
            name = self._warming.origin(template)
            return Origin(checkpoint=name, kind=CheckpointKind.MEMORY, generation=GENERATION, is_warm=True)
        return None

    async def claim(self, creation: Creation, row: Sandbox, template: Template) -> Machine | None:
        """
        Make a machine that waits the sandbox's; None: there is none, or it was of no use and is gone.

        Raises:
            AtollError: what was of no use does not go.
        """
        waiting = creation.waiting
        if waiting is None:
            return None
        try:
            async with asyncio.timeout(self._pool.claim_timeout.total_seconds()):
                creation.step = "claim"
                await self._runtime.set_egress(row.id, row.egress.fenced())
                if row.volumes:
                    await self._runtime.attach(row.id, row.volumes)
                await self._tell(creation, row, waiting.machine, template, claimed=True)
            if creation.waiting_ended:
                raise UnavailableError("It ended as soon as it was claimed")
        except (AtollError, TimeoutError) as error:
            log.warning("machine of the pool not claimed", sandbox_id=row.id, error=str(error))
        else:
            # It is the sandbox's from here on: its end is the create's.
            creation.waiting = None
            await self._run_again(creation, row, waiting.machine, template)
            return waiting.machine
        # Its end is not told, and its id is free for another.
        await self._make_room(row.id)
        creation.waiting = None
        return None

    async def make(self, creation: Creation, row: Sandbox, template: Template) -> Machine:
        """
        Return a machine that was made for the sandbox, and knows that.

        Raises:
            AtollError: it did not come up, or did not take its configuration; what there is of it is left.
        """
        if creation.origin is None or not creation.origin.is_warm:
            return await self._make_once(creation, row, template)
        try:
            return await self._make_once(creation, row, template)
        except (FailedPreconditionError, UnavailableError) as error:
            if creation.step != "restore":
                raise
            # Damaged, gone, of another runsc, or crashing whoever restores it: nobody asked for it, so nobody
            # fails for it.
            log.warning("warm template not restored", template=template.id, error=str(error))
        await self._warming.forget(template)
        await self._make_room(row.id)
        creation.origin = None
        return await self._make_once(creation, row, template)

    async def _make_once(self, creation: Creation, row: Sandbox, template: Template) -> Machine:
        origin = creation.origin
        creation.step = "start" if origin is None else "restore"
        checkpoint = origin.checkpoint if origin is not None else None
        machine = await self._starting.bring_up(
            spec_of(row),
            checkpoint,
            clear=lambda: self._make_room(row.id),
            came=creation.turn.guest_is_awaited if creation.turn is not None else lambda: None,
        )
        booted = origin is None or origin.kind is CheckpointKind.FILES
        await self._tell(creation, row, machine, template, booted=booted)
        if origin is not None and origin.is_warm:
            await self._run_again(creation, row, machine, template)
        return machine

    async def _make_room(self, sandbox_id: SandboxId) -> None:
        await within(self._limits.destroy_timeout, "make room", self._runtime.destroy(sandbox_id))

    async def _tell(
        self,
        creation: Creation,
        row: Sandbox,
        machine: Machine,
        template: Template,
        *,
        booted: bool = True,
        claimed: bool = False,
    ) -> None:
        def step(name: str) -> None:
            creation.step = name

        await self._configuring.configure(
            row, machine, template, booted=booted and not claimed, claimed=claimed, step=step
        )

    async def _run_again(
        self, creation: Creation, row: Sandbox, machine: Machine, template: Template
    ) -> None:
        """Have a start command that ran before there was a sandbox know the sandbox's environment."""
        if template.start is not None and template.start.needs_env and row.env:
            creation.step = "launch"
            await self._configuring.launch(machine, template.start)
