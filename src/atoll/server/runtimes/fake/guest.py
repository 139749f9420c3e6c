"""A guestd that takes notes."""

from collections.abc import Sequence

from typing_extensions import override

from atoll.server.domain.errors import UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.logs import Line
from atoll.server.domain.machine import GuestConfiguration, KilledProcess, Machine
from atoll.server.domain.template import StartCommand
from atoll.server.ports.guest import Guest
from atoll.server.runtimes.fake.faults import Faults


class FakeGuest(Guest):
    """Keeps what it was told, by sandbox."""

    def __init__(self, *, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.configurations: dict[SandboxId, GuestConfiguration] = {}
        # What happened inside; given two lines at a time.
        self.journals: dict[SandboxId, list[Line]] = {}
        self.trusting: set[SandboxId] = set()
        self.launched: dict[SandboxId, StartCommand] = {}

    @override
    async def configure(
        self, machine: Machine, configuration: GuestConfiguration, *, waits: bool = False
    ) -> None:
        await self.faults.at("configure")
        old = self.configurations.get(machine.sandbox_id)
        if old is not None and old.generation >= configuration.generation:
            raise UnavailableError(f"generation {configuration.generation} is not newer")
        self.configurations[machine.sandbox_id] = configuration

    @override
    async def trust_edge(self, machine: Machine) -> None:
        await self.faults.at("trust")
        self.trusting.add(machine.sandbox_id)

    @override
    async def launch(self, machine: Machine, start: StartCommand) -> None:
        await self.faults.at("launch")
        if machine.sandbox_id not in self.configurations:
            raise UnavailableError("the sandbox has not been configured yet")
        self.launched[machine.sandbox_id] = start

    @override
    async def kill_greediest(self, machine: Machine, *, excess_bytes: int) -> Sequence[KilledProcess]:
        await self.faults.at("kill_greediest")
        return [KilledProcess(pid=42, command="greedy", resident_bytes=1_000_000_000)]

    @override
    async def probe(self, machine: Machine) -> None:
        await self.faults.at("probe")

    @override
    async def read_journal(self, machine: Machine, *, after: int) -> tuple[Sequence[Line], bool]:
        await self.faults.at("read_journal")
        lines = [line for line in self.journals.get(machine.sandbox_id, ()) if line.number > after]
        return lines[:2], len(lines) > 2
