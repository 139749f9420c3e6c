"""
Refilling: makes the machines that wait in the pool, and follows what only time changes.

A machine is restored from its template's warm checkpoint, which is made first where there is none. That is
done when nobody wants anything else (``Admission.spare``).
"""

from datetime import timedelta

import structlog

from atoll.server.control.limits import ControlLimits
from atoll.server.control.machines.configuring import Configuring
from atoll.server.control.machines.killing import Killing
from atoll.server.control.turns.admission import Admission
from atoll.server.control.warm.pool import Pool, PoolLimits
from atoll.server.control.warm.shelf import Shelf, Waiting
from atoll.server.control.warm.warming import GENERATION, Warming, machine_spec
from atoll.server.control.work.tasks import Tasks
from atoll.server.control.work.waiting import within
from atoll.server.domain.errors import AtollError, FailedPreconditionError, NotFoundError, UnavailableError
from atoll.server.domain.ids import SandboxId, new_sandbox_id
from atoll.server.domain.limits import Limits
from atoll.server.domain.machine import Machine
from atoll.server.domain.template import Template
from atoll.server.ports.checkpoints import Checkpoints
from atoll.server.ports.clock import Clock
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.templates import Templates

log = structlog.get_logger(__name__)


class Refilling:
    """Keeps machines waiting."""

    def __init__(
        self,
        *,
        pool: Pool,
        runtime: Runtime,
        checkpoints: Checkpoints,
        templates: Templates,
        warming: Warming,
        configuring: Configuring,
        killing: Killing,
        admission: Admission,
        clock: Clock,
        limits: ControlLimits,
        pool_limits: PoolLimits,
    ) -> None:
        """
        Args:
            pool: where they wait.
            pool_limits: how many are made at once, and when.
            The rest: as everywhere in control.
        """
        self._pool = pool
        self._runtime = runtime
        self._checkpoints = checkpoints
        self._templates = templates
        self._warming = warming
        self._configuring = configuring
        self._killing = killing
        self._admission = admission
        self._clock = clock
        self._limits = limits
        self._pool_limits = pool_limits

    def start(self, tasks: Tasks) -> None:
        """Begin to keep machines waiting."""
        if not self._pool.enabled:
            return
        tasks.run("look after the pool", self._look_after)
        for number in range(max(self._pool_limits.refills_at_once, 1)):
            tasks.run(f"refill the pool {number}", self._refill)

    async def _refill(self) -> None:
        while True:
            await self._pool.wait_until_needy()
            async with self._admission.spare():
                shelf = self._pool.neediest()
                if shelf is None:
                    continue
                shelf.making += 1
                try:
                    await self._make(shelf)
                    shelf.problem = shelf.again_at = None
                # Whatever it was: creates go on without the pool.
                except Exception as error:
                    log.warning(
                        "pool not refilled",
                        template=shelf.template.id,
                        error=str(error) or type(error).__name__,
                        exc_info=not isinstance(error, AtollError),
                    )
                    shelf.problem = str(error) or type(error).__name__
                    shelf.again_at = self._clock.now() + self._pool_limits.again
                finally:
                    shelf.making -= 1
                    # Whoever was not to wait for this template, or found enough under way, looks again.
                    self._pool.look_again()

    async def _make(self, shelf: Shelf) -> None:
        template, limits = shelf.template, shelf.key.limits
        await self._warming.ensure(template)
        if not self._pool.lacks(shelf):
            return
        sandbox_id = new_sandbox_id()
        with self._pool.making(sandbox_id):
            try:
                machine = await self._restore(template, sandbox_id, limits)
                generation = GENERATION + 1
                await self._configuring.introduce(machine, template, limits, generation)
                usage = await self._runtime.usage(sandbox_id)
            except BaseException:
                self._killing.remove_later(sandbox_id)
                raise
        since = self._clock.now()
        waiting = Waiting(machine=machine, key=shelf.key, generation=generation, since=since)
        self._pool.add(shelf, waiting, usage.memory_bytes)

    async def _restore(self, template: Template, sandbox_id: SandboxId, limits: Limits) -> Machine:
        path = self._checkpoints.path(self._warming.origin(template))
        restored = self._runtime.restore(machine_spec(template, sandbox_id, limits), path)
        try:
            return await within(self._limits.resume_timeout, "come back", restored)
        except (FailedPreconditionError, NotFoundError, UnavailableError):
            # Damaged, of another runsc, gone, or crashing whoever restores it.
            await self._warming.forget(template)
            raise

    async def _look_after(self) -> None:
        """Follow what only time changes: demand that is forgotten, memory that runs short, failures."""
        while True:
            try:
                await self._keep_templates()
            except AtollError as error:
                log.warning("templates of the pool not looked at", error=str(error))
            self._pool.shrink()
            await self._clock.sleep_until(
                self._clock.now() + max(self._pool_limits.look_every, timedelta(seconds=0.1))
            )

    async def _keep_templates(self) -> None:
        kept = set()
        for name in self._pool_limits.kept:
            try:
                template = await self._templates.get(name)
            except NotFoundError:
                # Not built yet, perhaps.
                continue
            kept.add(self._pool.open(template))
        self._pool.keep(kept)
