"""
Boots a template once, has its start command get ready, and keeps what the machine is then.

A create restores that checkpoint instead of booting again. It is named after the build of the template and
the programs of machines: what is built anew is warmed anew, after an update everything is, and what nothing
has left is removed at the next start.
"""

import asyncio

import structlog

from atoll.server.control.limits import ControlLimits
from atoll.server.control.machines.configuring import Configuring
from atoll.server.control.machines.killing import Killing
from atoll.server.control.work.waiting import within
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import AtollError
from atoll.server.domain.ids import SandboxId, new_sandbox_id
from atoll.server.domain.limits import Limits
from atoll.server.domain.machine import MachineSpec
from atoll.server.domain.template import Template
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.templates import Templates

log = structlog.get_logger(__name__)

# The generation that a warm checkpoint holds; what is restored from it is newer.
GENERATION = 1
# No sandbox's id begins so, nor a snapshot's.
_PREFIX = "warm-"


class Warming:
    """Makes and knows the warm checkpoints of templates."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        checkpoints: Checkpoints,
        templates: Templates,
        configuring: Configuring,
        killing: Killing,
        limits: ControlLimits,
    ) -> None:
        self._runtime = runtime
        self._checkpoints = checkpoints
        self._templates = templates
        self._configuring = configuring
        self._killing = killing
        self._limits = limits
        self._there: set[str] = set()
        # The programs of machines that boot now; known from ``take_up`` on.
        self._release = ""
        # The machine that is being warmed.
        self.underway: frozenset[SandboxId] = frozenset()
        self._turn = asyncio.Lock()

    async def take_up(self) -> frozenset[str]:
        """Find those that an earlier server made, of templates that are there still; return their names."""
        self._release = await self._runtime.release()
        built = {self.origin(template) for template in await self._templates.list()}
        self._there = {one for one in await self._checkpoints.names() if one in built}
        for one in self._there:
            self._checkpoints.pin(one)
        return frozenset(self._there)

    def is_warm(self, template: Template) -> bool:
        """Say whether creates from a template can be restores."""
        return self.origin(template) in self._there

    def must_wait(self, template: Template) -> bool:
        """Say whether ``ensure`` would wait until another call of it is done."""
        return bool(self.underway) and not self.is_warm(template)

    def origin(self, template: Template) -> str:
        """Name the checkpoint that a warm template is restored from, whether or not it is there."""
        return f"{_PREFIX}{template.id}-{int(template.built_at.timestamp())}-{self._release}"

    async def ensure(self, template: Template) -> None:
        """
        Make a template's checkpoint, unless it is there.

        Raises:
            AtollError: it does not start, get ready or get written; nothing is left of it.
        """
        if self.is_warm(template):
            # Not behind another one, whose start command may take long.
            return
        async with self._turn:
            if self.is_warm(template):
                return
            sandbox_id = new_sandbox_id()
            self.underway = frozenset({sandbox_id})
            try:
                await self._write(template, sandbox_id)
            finally:
                # Its slot, or all of it; what a killed server leaves is a machine without a row.
                self._killing.remove_later(sandbox_id)
                self.underway = frozenset()
            self._there.add(self.origin(template))

    async def forget(self, template: Template) -> None:
        """Remove a template's checkpoint, because it is of no use here; the next ``ensure`` makes another."""
        self._there.discard(self.origin(template))
        self._checkpoints.unpin(self.origin(template))
        try:
            await self._checkpoints.remove(self.origin(template))
        except AtollError as error:
            log.warning("warm checkpoint not removed", template=template.id, error=str(error))

    async def _write(self, template: Template, sandbox_id: SandboxId) -> None:
        started = self._runtime.start(machine_spec(template, sandbox_id, template.limits))
        machine = await within(self._limits.start_timeout, "start", started)
        await self._configuring.introduce(machine, template, template.limits, GENERATION)
        if template.start is not None:
            await self._configuring.launch(machine, template.start)
        path = self._checkpoints.path(self.origin(template))
        # Restored all the time, so never packed; and no row names it.
        self._checkpoints.pin(self.origin(template))
        # What an attempt has left that was cut off behind its last step.
        await self._checkpoints.remove(self.origin(template))
        written = self._runtime.checkpoint(sandbox_id, path, kind=CheckpointKind.MEMORY, leave_running=False)
        checkpoint = await within(self._limits.pause_timeout, "stand still on the disk", written)
        await self._runtime.seal(path)
        log.info("template warmed", template=template.id, size_bytes=checkpoint.size)


def machine_spec(template: Template, sandbox_id: SandboxId, limits: Limits) -> MachineSpec:
    """Say which machine waits for its sandbox: of the default policy, without volumes."""
    return MachineSpec(
        sandbox_id=sandbox_id,
        template_id=template.id,
        hostname=sandbox_id,
        limits=limits,
        egress=EgressPolicy(),
    )
