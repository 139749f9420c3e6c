"""
The gVisor runtime: ports.Runtime over runsc, control groups and slots.

Here the parts are put together; what they do is in launch.py (starts), saving.py (checkpoints), removing.py
(destroys, also behind the answer: runtimes/leaving.py), ending.py (sees ends), memory.py (keeps promises of
memory) and record.py (what the next server finds).
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from typing_extensions import override

from atoll.server.domain.checkpoint import Checkpoint, CheckpointKind
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId, parse_sandbox_id
from atoll.server.domain.machine import Machine, MachineEnded, MachineEvent, MachineSpec, Observation, Usage
from atoll.server.domain.sandbox import EndReason
from atoll.server.domain.volume import VolumeMount
from atoll.server.host.cgroup_base import CgroupError
from atoll.server.host.pidfd import Pidfd
from atoll.server.host.runsc import Runsc, RunscError
from atoll.server.host.threads import finish_in_thread
from atoll.server.ports.guest import Guest
from atoll.server.ports.runtime import Runtime
from atoll.server.ports.slots import Slots
from atoll.server.ports.templates import Templates
from atoll.server.ports.volumes import VolumeFiles
from atoll.server.runtimes.events import EventQueue
from atoll.server.runtimes.gvisor.ending import EndWatch
from atoll.server.runtimes.gvisor.flags import FLAGS
from atoll.server.runtimes.gvisor.guestds import Guestds
from atoll.server.runtimes.gvisor.launch import Launcher, translated
from atoll.server.runtimes.gvisor.memory import MemoryWatch
from atoll.server.runtimes.gvisor.options import GVisorOptions
from atoll.server.runtimes.gvisor.origin import Origins
from atoll.server.runtimes.gvisor.places import Directory, Places
from atoll.server.runtimes.gvisor.programs import Programs
from atoll.server.runtimes.gvisor.record import Record, boot_id, directories
from atoll.server.runtimes.gvisor.removing import Remover, mark
from atoll.server.runtimes.gvisor.running import Running
from atoll.server.runtimes.gvisor.saving import HungError, Saver
from atoll.server.runtimes.gvisor.usage import UsageReader
from atoll.server.runtimes.gvisor.volume_mounts import VolumeMounts
from atoll.server.runtimes.leaving import Leaving

log = structlog.get_logger(__name__)


class GVisorRuntime(Runtime):
    """Runs machines in gVisor; open and close it in one and the same task."""

    def __init__(
        self,
        *,
        places: Places,
        templates: Templates,
        slots: Slots,
        guest: Guest,
        volumes: VolumeFiles,
        options: GVisorOptions | None = None,
    ) -> None:
        """
        Args:
            places: of this home; its runsc is ready to use (release.py).
            templates: where root file systems are.
            slots: network namespaces.
            guest: told to kill processes for memory.
            volumes: where those of sandboxes are on this host.
            options: limits and patience.
        """
        self._places = places
        self._options = options or GVisorOptions()
        self._slots = slots
        self._runsc = Runsc(places.runsc, places.runsc_state, flags=FLAGS)
        self.programs = Programs(
            runsc=self._runsc,
            runscs=places.runscs,
            guestds=Guestds(places.guestds, places.guestd),
            timeout_s=self._options.start_timeout_s,
        )
        self._origins = Origins(
            runsc=self._runsc, programs=self.programs, timeout_s=self._options.start_timeout_s
        )
        self._saver = Saver(runsc=self._runsc, slots=slots, origins=self._origins, options=self._options)
        self._mounts = VolumeMounts(places.volume_mounts)
        self._launcher = Launcher(
            places=places,
            runsc=self._runsc,
            templates=templates,
            slots=slots,
            volumes=volumes,
            mounts=self._mounts,
            origins=self._origins,
            gone=self._gone,
            options=self._options,
        )
        self._remover = Remover(
            places=places, runsc=self._runsc, slots=slots, mounts=self._mounts, options=self._options
        )
        self._leaving = Leaving(self._remove_rest)
        self._events = EventQueue(self._options.events)
        self._running: dict[SandboxId, Running] = {}
        # Those of them that ended by themselves: one each, whatever the events' bound is.
        self._ended: dict[SandboxId, MachineEnded] = {}
        self._memory = MemoryWatch(
            guest=guest,
            options=self._options,
            killed=self._tell,
            wall_fell=self._wall_fell,
            no_answer=self._no_answer,
            spawn=self._spawn,
        )
        self._usages = UsageReader()
        self._ends = EndWatch(self._tell, is_short_of_memory=self._memory.is_short)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    @override
    def name(self) -> str:
        return "gvisor"

    @override
    async def release(self) -> str:
        with translated(self._options):
            facts = await self._origins.facts()
        return hashlib.sha256(f"{facts.runtime_version} {facts.guestd}".encode()).hexdigest()[:12]

    @override
    async def open(self) -> Sequence[Machine]:
        for directory in (self._places.sandboxes, self._places.runsc_state):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            await finish_in_thread(self._mounts.open)
        except OSError as error:
            raise UnavailableError("Sandboxes cannot have volumes here", details=str(error)) from error
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        for path in await asyncio.to_thread(directories, self._places.sandboxes):
            record = Record.read(path)
            if Directory(path=path).leaving.exists():
                self._leaving.begin(SandboxId(path.name))
            elif record is not None and (running := self._adopt(record)):
                self._watch(running, adopted=True)
                if running.directory.pausing.exists():
                    self._spawn(self._go_on(running), "go on")
            elif record is not None and record.sentry is not None:
                # It ran, and ended while nobody looked. A mark made just before the host fell may be lost.
                self._leaving.begin(record.sandbox_id)
        self._spawn(self._memory.run(), "memory of machines")
        return [_machine(running) for running in self._running.values()]

    @override
    async def close(self) -> None:
        await self._leaving.close()
        self._ends.close()
        self._memory.close()
        group, self._group = self._group, None
        if group is not None:
            for task in self._tasks:
                task.cancel()
            await group.__aexit__(None, None, None)
        for running in self._running.values():
            running.close()
        self._running.clear()
        self._ended.clear()

    @override
    async def start(self, spec: MachineSpec) -> Machine:
        running = await self._launcher.launch(spec)
        self._watch(running)
        return _machine(running)

    @override
    async def checkpoint(
        self, sandbox_id: SandboxId, into: Path, *, kind: CheckpointKind, leave_running: bool
    ) -> Checkpoint:
        running = self._running.get(sandbox_id)
        if running is None or sandbox_id in self._ended:
            raise NotFoundError("No such machine", details=sandbox_id)
        if leave_running:
            return await self._saver.save(running, into, kind)
        try:
            async with self._saver.unheard(running):
                checkpoint = await self._saver.save(running, into, kind)
                # On the disk: from here on it is over, and nothing of that can be cancelled.
                self._end(running)
        except HungError as error:
            self._ends.ended_otherwise(running, EndReason.RUNTIME_HUNG, f"after a checkpoint: {error}")
            running.cgroup.kill_once()
            raise DeadlineExceededError(
                f"Sandbox {sandbox_id} hung while it was written down", details=str(error)
            ) from error
        return checkpoint

    @override
    async def seal(self, origin: Path) -> Checkpoint:
        return await self._origins.seal(origin)

    @override
    async def restore(
        self,
        spec: MachineSpec,
        origin: Path,
        *,
        listens: bool = True,
        came: Callable[[], None] = lambda: None,
    ) -> Machine:
        async def launched() -> Running:
            return await self._launcher.launch(spec, origin, listens=listens, came=came)

        try:
            running = await launched()
        except UnavailableError as error:
            # Now and then a sentry crashes in a restore, and mostly the next one does not:
            # https://github.com/google/gvisor/issues/12189
            log.warning("restored once more", sandbox_id=spec.sandbox_id, error=str(error))
            await self.abandon(spec.sandbox_id)
            running = await launched()
        self._watch(running)
        return _machine(running)

    @override
    async def abandon(self, sandbox_id: SandboxId) -> None:
        self._forget(sandbox_id)
        await self._leaving.now(sandbox_id, self._remove_rest)

    @override
    async def attach(self, sandbox_id: SandboxId, mounts: Sequence[VolumeMount]) -> None:
        running = self._running.get(sandbox_id)
        if running is None or sandbox_id in self._ended:
            raise NotFoundError("No such machine", details=sandbox_id)
        attached = await self._launcher.attach(running, mounts)
        if self._running.get(sandbox_id) is running:
            self._running[sandbox_id] = attached

    @override
    async def set_egress(self, sandbox_id: SandboxId, egress: EgressPolicy) -> None:
        if sandbox_id not in self._running:
            raise NotFoundError("No such machine", details=sandbox_id)
        await self._slots.update(sandbox_id, egress)

    @override
    async def destroy(self, sandbox_id: SandboxId) -> None:
        self._forget(sandbox_id)
        await self._leaving.now(sandbox_id, self._remover.remove)

    @override
    async def remains(self) -> Sequence[SandboxId]:
        found = []
        for name in sorted(await self._remover.remains()):
            try:
                found.append(parse_sandbox_id(name))
            except InvalidArgumentError:
                log.warning("something that is no sandbox's is in the way", name=name[:100])
        return found

    @override
    def events(self) -> AsyncIterator[MachineEvent]:
        return self._events.read()

    @override
    async def observe(self) -> Observation:
        living = [running for name, running in self._running.items() if name not in self._ended]
        return Observation(
            machines=tuple(_machine(running) for running in living), ended=tuple(self._ended.values())
        )

    @override
    async def usage(self, sandbox_id: SandboxId) -> Usage:
        running = self._running.get(sandbox_id)
        if running is None:
            raise NotFoundError("No such machine", details=sandbox_id)
        try:
            return await asyncio.to_thread(self._usages.read, running)
        except CgroupError as error:
            raise NotFoundError("No such machine", details=f"{sandbox_id}: {error}") from error

    @override
    async def usages(self) -> Mapping[SandboxId, Usage]:
        return await asyncio.to_thread(self._usages.read_all, list(self._running.values()))

    @override
    async def end_if_hung(self, sandbox_id: SandboxId) -> None:
        if (running := self._running.get(sandbox_id)) and sandbox_id not in self._ended:
            why = "it accepts no connection, and its sentry does not answer"
            await self._end_if_hung(running, why, timeout_s=self._options.hung_timeout_s)

    async def answers(self, sandbox_id: SandboxId, *, timeout_s: float | None = None) -> bool:
        """Ask a machine's sentry whether it lives, for ``probe_timeout_s`` at most, unless said otherwise."""
        running = self._running.get(sandbox_id)
        runsc = self._runsc.of(Path(running.record.runsc)) if running else self._runsc
        try:
            await runsc.state(sandbox_id, timeout_s=timeout_s or self._options.probe_timeout_s)
        except RunscError as error:
            log.warning("a sentry does not answer", sandbox_id=sandbox_id, error=str(error))
            return False
        return True

    def remove_shared(self) -> None:
        """
        Remove what the machines of this home share, for when the home is taken down and none is left.

        Raises:
            UnavailableError: the kernel would not let go.
        """
        self._remover.remove_shared()

    def _adopt(self, record: Record) -> Running | None:
        """Take up a machine of an earlier server, if it is one that runs."""
        if record.sentry is None or record.address is None or record.boot_id != boot_id():
            return None
        cgroup = self._places.cgroup(record.sandbox_id)
        try:
            sentry = Pidfd.open(record.sentry.pid, start_time=record.sentry.start_time)
        except ProcessLookupError:
            return None
        gofer = None
        if record.gofer is not None:
            try:
                gofer = Pidfd.open(record.gofer.pid, start_time=record.gofer.start_time)
            except ProcessLookupError:
                # The sentry follows.
                sentry.close()
                return None
        if sentry.has_ended() or (gofer is not None and gofer.has_ended()):
            # It ended while nobody looked, and nobody has waited for it yet.
            for process in (sentry, gofer):
                if process is not None:
                    process.close()
            return None
        # A server may have died between having it stand still, for its end, and marking it.
        cgroup.thaw()
        directory = self._places.directory(record.sandbox_id)
        return Running(record=record, directory=directory, cgroup=cgroup, sentry=sentry, gofer=gofer)

    def _watch(self, running: Running, *, adopted: bool = False) -> None:
        self._running[running.record.sandbox_id] = running
        self._memory.add(running, adopted=adopted)
        self._ends.add(running)

    def _forget(self, sandbox_id: SandboxId) -> None:
        """Stop watching, before it ends: then its end is not told."""
        self._ends.remove(sandbox_id)
        self._memory.remove(sandbox_id)
        if running := self._running.pop(sandbox_id, None):
            running.close()
        self._ended.pop(sandbox_id, None)

    def _end(self, running: Running) -> None:
        """
        End a machine that is written down; what is left of it is removed behind this.

        It stands still first, and SIGKILL comes before it goes on: none of its programs, nor its sentry, runs
        again. What others sent for it is not answered either: its slot is silent until it is gone.
        """
        sandbox_id = running.record.sandbox_id
        self._forget(sandbox_id)
        running.cgroup.freeze()
        mark(running.directory)
        try:
            running.cgroup.kill_once()
        except (OSError, CgroupError) as error:
            # The removal kills it, too.
            log.warning("a paused machine does not end at once", sandbox_id=sandbox_id, error=str(error))
        self._leaving.begin(sandbox_id)

    async def _remove_rest(self, sandbox_id: SandboxId) -> None:
        await self._remover.remove_but_slot(sandbox_id)
        await self._slots.hush(sandbox_id, False)

    async def _gone(self, sandbox_id: SandboxId) -> None:
        await self._leaving.now(sandbox_id, self._remove_marked)

    async def _remove_marked(self, sandbox_id: SandboxId) -> None:
        if self._places.directory(sandbox_id).leaving.exists():
            # It would not go before.
            await self._remove_rest(sandbox_id)

    async def _go_on(self, running: Running) -> None:
        """Have a machine go on that an earlier server had stand still."""
        try:
            await self._saver.go_on(running)
        except HungError as error:
            if not self._is_held(running):
                return
            self._ends.ended_otherwise(
                running, EndReason.RUNTIME_HUNG, f"it stood still for a checkpoint: {error}"
            )
            running.cgroup.kill_once()

    def _tell(self, event: MachineEvent) -> None:
        if isinstance(event, MachineEnded):
            self._memory.remove(event.sandbox_id)
            self._ended[event.sandbox_id] = event
        self._events.put(event)

    def _wall_fell(self, running: Running, how: str) -> None:
        # Told before its processes end, which would be told as another end.
        self._ends.ended_otherwise(running, EndReason.OOM, f"at the host's memory wall: {how}")
        running.cgroup.kill_once()

    def _no_answer(self, running: Running) -> None:
        why = "above its promised memory, and its sentry does not answer"
        self._spawn(self._end_if_hung(running, why), "probe")

    async def _end_if_hung(self, running: Running, why: str, *, timeout_s: float | None = None) -> None:
        answered = await self.answers(running.record.sandbox_id, timeout_s=timeout_s)
        if answered or not self._is_held(running) or running.sentry.has_ended():
            return
        self._ends.ended_otherwise(running, EndReason.RUNTIME_HUNG, why)
        running.cgroup.kill_once()

    def _is_held(self, running: Running) -> bool:
        """Say whether this machine was neither removed nor replaced by the sandbox's next one meanwhile."""
        held = self._running.get(running.record.sandbox_id)
        # Of one that got volumes meanwhile, the record is another.
        return held is not None and held.sentry is running.sentry

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        assert self._group is not None, "not open"
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _machine(running: Running) -> Machine:
    assert running.record.address is not None
    return Machine(sandbox_id=running.record.sandbox_id, address=running.record.address)
