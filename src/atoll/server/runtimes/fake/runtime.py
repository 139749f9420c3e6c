"""
A runtime whose machines are directories.

    <home>/<sandbox id>/slot        its address, once it has one
    <home>/<sandbox id>/process     while its "process" runs
    <home>/<sandbox id>/ready       once its start is complete
    <home>/<sandbox id>/memory      what it remembers until it ends
    <home>/<sandbox id>/files       what it wrote on its disk
    <home>/<sandbox id>/spec        what a checkpoint of it fits to
    <home>/<sandbox id>/leaving     once it is to go, until all of it but its slot is removed

A new object with the same home sees what an old one left, so a test kills a server by dropping it.
"""

import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from typing_extensions import override

from atoll.server.domain.checkpoint import Checkpoint, CheckpointKind
from atoll.server.domain.egress import EgressPolicy, to_plain
from atoll.server.domain.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    NotFoundError,
    Reason,
    ResourceExhaustedError,
)
from atoll.server.domain.ids import SandboxId, TemplateId
from atoll.server.domain.machine import (
    Machine,
    MachineEnded,
    MachineEvent,
    MachineSpec,
    Observation,
    ProcessKilledForMemory,
    Usage,
)
from atoll.server.domain.sandbox import EndReason
from atoll.server.domain.volume import VolumeMount
from atoll.server.ports.runtime import Runtime
from atoll.server.runtimes import images
from atoll.server.runtimes.events import EventQueue
from atoll.server.runtimes.fake import checkpoints as fake_checkpoints
from atoll.server.runtimes.fake.faults import Faults
from atoll.server.runtimes.leaving import AGAIN_S, Leaving

FIRST_ADDRESS = IPv4Address("10.255.0.2")
# Events that nobody has read yet; more would mean that nobody reads.
MOST_EVENTS = 10_000
# Places in Faults that a start and a destroy pass, in this order.
START_PLACES = ("start:1", "start:2", "start:3", "start:4")
DESTROY_PLACES = ("destroy:1", "destroy:2", "destroy:3")


class FakeRuntime(Runtime):
    """Keeps machines as directories below ``home``; no isolation, no processes."""

    def __init__(
        self,
        home: Path,
        *,
        templates: frozenset[TemplateId] | None = None,
        faults: Faults | None = None,
        most_machines: int = 1000,
        most_events: int = MOST_EVENTS,
        again_s: float = AGAIN_S,
    ) -> None:
        """
        Args:
            home: where the directories are; shared by the objects that follow each other.
            templates: those that are built here; None: every one.
            faults: where to fail.
            most_machines: how many addresses there are.
            most_events: how many wait for their reader.
            again_s: the first pause after what would not go, in seconds.
        """
        self.faults = faults or Faults()
        self._home = home
        self._templates = templates
        self._most = most_machines
        self._events = EventQueue(most_events)
        self._checkpoints = fake_checkpoints.Checkpoints()
        self._leaving = Leaving(self._remove_rest, again_s=again_s)
        self._ended: dict[SandboxId, MachineEnded] = {}
        # Those that do not answer, because a test said so.
        self.hung: set[SandboxId] = set()
        # What machines are made of.
        self.programs = "r1"
        # What each has used so far.
        self.cpu_seconds = 0.5

    @property
    @override
    def name(self) -> str:
        return "fake"

    @override
    async def release(self) -> str:
        return self.programs

    @override
    async def open(self) -> Sequence[Machine]:
        await self.faults.at("open")
        self._home.mkdir(parents=True, exist_ok=True)
        for path in self._directories():
            ended_unseen = (path / "ready").exists() and not (path / "process").exists()
            if (path / "leaving").exists() or ended_unseen:
                self._leaving.begin(SandboxId(path.name))
        return [self._machine(path) for path in self._directories() if _runs(path)]

    @override
    async def close(self) -> None:
        await self.faults.at("close")
        await self._leaving.close()

    @override
    async def start(self, spec: MachineSpec) -> Machine:
        if self._templates is not None and spec.template_id not in self._templates:
            raise NotFoundError(f"template '{spec.template_id}' is not built here")
        directory = self._home / spec.sandbox_id
        await self.faults.at("start:1")
        await self._gone(spec.sandbox_id)
        directory.mkdir()
        await self.faults.at("start:2")
        (directory / "slot").write_text(str(self._free_address()))
        await self.faults.at("start:3")
        (directory / "spec").write_text(fake_checkpoints.describe(spec))
        (directory / "process").touch()
        await self.faults.at("start:4")
        (directory / "ready").touch()
        return self._machine(directory)

    @override
    async def checkpoint(
        self, sandbox_id: SandboxId, into: Path, *, kind: CheckpointKind, leave_running: bool
    ) -> Checkpoint:
        directory = self._home / sandbox_id
        if not _runs(directory):
            raise NotFoundError(f"no machine {sandbox_id}")
        await self.faults.at("checkpoint:1")
        checkpoint = await self._checkpoints.save(directory, into, kind)
        await self.faults.at("checkpoint:2")
        if not leave_running:
            self._ended.pop(sandbox_id, None)
            (directory / "leaving").touch()
            self._leaving.begin(sandbox_id)
        return checkpoint

    @override
    async def seal(self, origin: Path) -> Checkpoint:
        await self.faults.at("seal")
        return images.seal(origin)

    @override
    async def restore(
        self,
        spec: MachineSpec,
        origin: Path,
        *,
        listens: bool = True,
        came: Callable[[], None] = lambda: None,
    ) -> Machine:
        if self._templates is not None and spec.template_id not in self._templates:
            raise NotFoundError(f"template '{spec.template_id}' is not built here")
        directory = self._home / spec.sandbox_id
        checkpoint = self._checkpoints.read(origin, spec)
        await self.faults.at("restore:1")
        await self._gone(spec.sandbox_id)
        if (directory / "process").exists():
            raise AlreadyExistsError(f"machine {spec.sandbox_id} runs")
        directory.mkdir(exist_ok=True)
        if not (directory / "slot").exists():
            (directory / "slot").write_text(str(self._free_address()))
        await self.faults.at("restore:2")
        (directory / "spec").write_text(fake_checkpoints.describe(spec))
        for file in checkpoint.files:
            shutil.copyfile(origin / file.name, directory / file.name)
        (directory / "process").touch()
        await self.faults.at("restore:3")
        if listens:
            came()
            await self.faults.at("listens")
        if listens and spec.sandbox_id in self.hung and checkpoint.kind is CheckpointKind.MEMORY:
            raise DeadlineExceededError("its guestd does not listen")
        (directory / "ready").touch()
        return self._machine(directory)

    @override
    async def abandon(self, sandbox_id: SandboxId) -> None:
        self._ended.pop(sandbox_id, None)
        await self._leaving.now(sandbox_id, self._remove_rest)

    @override
    async def attach(self, sandbox_id: SandboxId, mounts: Sequence[VolumeMount]) -> None:
        await self.faults.at("attach")
        if not _runs(self._home / sandbox_id):
            raise NotFoundError(f"no machine {sandbox_id}")
        spec = self._home / sandbox_id / "spec"
        content = json.loads(spec.read_text())
        paths = {*content["volume_paths"], *(mount.path for mount in mounts)}
        spec.write_text(json.dumps({**content, "volume_paths": sorted(paths)}))

    @override
    async def set_egress(self, sandbox_id: SandboxId, egress: EgressPolicy) -> None:
        await self.faults.at("egress")
        if not _runs(self._home / sandbox_id):
            raise NotFoundError(f"no machine {sandbox_id}")
        (self._home / sandbox_id / "egress").write_text(json.dumps(to_plain(egress)))

    @override
    async def destroy(self, sandbox_id: SandboxId) -> None:
        self._ended.pop(sandbox_id, None)
        await self._leaving.now(sandbox_id, self._destroy)

    async def _destroy(self, sandbox_id: SandboxId) -> None:
        directory = self._home / sandbox_id
        await self.faults.at("destroy:1")
        (directory / "ready").unlink(missing_ok=True)
        (directory / "process").unlink(missing_ok=True)
        await self.faults.at("destroy:2")
        (directory / "slot").unlink(missing_ok=True)
        await self.faults.at("destroy:3")
        shutil.rmtree(directory, ignore_errors=True)

    @override
    async def remains(self) -> Sequence[SandboxId]:
        await self.faults.at("remains")
        return [SandboxId(path.name) for path in self._directories()]

    @override
    def events(self) -> AsyncIterator[MachineEvent]:
        return self._events.read()

    @override
    async def observe(self) -> Observation:
        await self.faults.at("observe")
        machines = tuple(self._machine(path) for path in self._directories() if _runs(path))
        return Observation(machines=machines, ended=tuple(self._ended.values()))

    @override
    async def end_if_hung(self, sandbox_id: SandboxId) -> None:
        await self.faults.at("probe")
        if sandbox_id in self.hung:
            self.end(sandbox_id, EndReason.RUNTIME_HUNG)

    @override
    async def usage(self, sandbox_id: SandboxId) -> Usage:
        await self.faults.at("usage")
        if not _runs(self._home / sandbox_id):
            raise NotFoundError(f"no machine {sandbox_id}")
        return Usage(
            cpu_seconds=self.cpu_seconds, memory_bytes=30_000_000, cache_bytes=1_000_000, disk_bytes=4096
        )

    @override
    async def usages(self) -> Mapping[SandboxId, Usage]:
        return {sandbox_id: await self.usage(sandbox_id) for sandbox_id in self.running()}

    def end(
        self, sandbox_id: SandboxId, reason: EndReason = EndReason.GUEST_ENDED, detail: str = "fake end"
    ) -> None:
        """Let a machine end by itself."""
        (self._home / sandbox_id / "process").unlink()
        event = MachineEnded(sandbox_id=sandbox_id, reason=reason, detail=detail)
        self._ended[sandbox_id] = event
        self._events.put(event)

    def remember(self, sandbox_id: SandboxId, text: str) -> None:
        """Have a machine's programs hold a text, and write it on its disk."""
        for name in ("memory", "files"):
            (self._home / sandbox_id / name).write_text(text)

    def recall(self, sandbox_id: SandboxId) -> tuple[str, str]:
        """Return what its programs hold and what is on its disk, "" for nothing."""
        paths = [self._home / sandbox_id / name for name in ("memory", "files")]
        memory, files = (path.read_text() if path.exists() else "" for path in paths)
        return memory, files

    def end_unseen(self, sandbox_id: SandboxId) -> None:
        """Let a machine end while no server looks."""
        (self._home / sandbox_id / "process").unlink()

    def kill_for_memory(self, sandbox_id: SandboxId, *, pid: int, command: str) -> None:
        """Report that a process inside was killed."""
        event = ProcessKilledForMemory(
            sandbox_id=sandbox_id, pid=pid, command=command, resident_bytes=1_000_000_000
        )
        self._events.put(event)

    def running(self) -> set[SandboxId]:
        """List the machines that run."""
        return {SandboxId(path.name) for path in self._directories() if _runs(path)}

    async def _remove_rest(self, sandbox_id: SandboxId) -> None:
        directory = self._home / sandbox_id
        if directory.exists():
            (directory / "leaving").touch()
        await self.faults.at("abandon")
        for name in ("ready", "process", "memory", "files", "spec", "egress", "leaving"):
            (directory / name).unlink(missing_ok=True)
        if directory.exists() and not (directory / "slot").exists():
            directory.rmdir()

    async def _gone(self, sandbox_id: SandboxId) -> None:
        await self._leaving.now(sandbox_id, self._remove_marked)

    async def _remove_marked(self, sandbox_id: SandboxId) -> None:
        if (self._home / sandbox_id / "leaving").exists():
            # It would not go before.
            await self._remove_rest(sandbox_id)

    def _directories(self) -> list[Path]:
        return sorted(path for path in self._home.iterdir() if path.is_dir()) if self._home.exists() else []

    def _machine(self, directory: Path) -> Machine:
        return Machine(sandbox_id=SandboxId(directory.name), address=(directory / "slot").read_text().strip())

    def _free_address(self) -> IPv4Address:
        taken = {path.read_text().strip() for path in self._home.glob("*/slot")}
        for number in range(self._most):
            address = FIRST_ADDRESS + number
            if str(address) not in taken:
                return address
        raise ResourceExhaustedError(f"all {self._most} addresses are taken", reason=Reason.ADDRESSES_USED_UP)


def _runs(directory: Path) -> bool:
    there = {name for name in ("ready", "process", "leaving") if (directory / name).exists()}
    return there == {"ready", "process"}
