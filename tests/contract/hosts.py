"""
The runtimes that tests/contract/test_runtime.py runs on, each on a host of its own.

A new runtime gets a function here, and an entry in ``HOSTS``.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pyqwest import Client, HTTPTransport
from support.network import home_record

from atoll.server.control.work.clock import SystemClock
from atoll.server.domain.errors import AtollError
from atoll.server.domain.ids import SandboxId, TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.domain.machine import GuestConfiguration, Machine
from atoll.server.guests.client import HttpGuest
from atoll.server.host.pidfd import Pidfd
from atoll.server.images.library import TemplateLibrary
from atoll.server.main.gvisor_host import program
from atoll.server.network import home_network
from atoll.server.network.names import AddressRange
from atoll.server.network.slots import SlotPool
from atoll.server.ports.runtime import Runtime
from atoll.server.runtimes.fake.runtime import FakeRuntime
from atoll.server.runtimes.gvisor.options import GVisorOptions
from atoll.server.runtimes.gvisor.places import Places
from atoll.server.runtimes.gvisor.record import Record
from atoll.server.runtimes.gvisor.release import RunscRelease
from atoll.server.runtimes.gvisor.runtime import GVisorRuntime
from atoll.server.volumes.images import VolumeImages

# Shared with other tests, so that templates and runsc are made once.
CACHE = Path(os.environ.get("ATOLL_CACHE_DIR") or Path.home() / ".cache" / "atoll")
# In memory, and on the disk.
_REMEMBERED = ("/dev/shm/text", "/root/text")
TEMPLATE = TemplateId("base-000000000000")
LIMITS = Limits(cpus=0.5, memory_bytes=128 * 1024**2, processes=128, disk_bytes=64 * 1024**2)


@dataclass(frozen=True, kw_only=True)
class RuntimeHost:
    """
    A machine's worth of one runtime.

    Attributes:
        make: makes a runtime object; each has the same home, as servers that follow each other have.
        make_short: the same, with room for one event that nobody has read.
        template: one that is built there.
        end: lets a machine end by itself, as seen by the runtime object that watches it.
        end_unseen: lets a machine end while no runtime object is open.
        remember: has programs inside hold a text, and writes it on the disk; configures the guest if need be.
        recall: what programs hold, and what is on the disk.
        holding: a sandbox's machine that a checkpoint ended is not completely removed during the block.
    """

    make: Callable[[], Runtime]
    make_short: Callable[[], Runtime]
    template: TemplateId
    end: Callable[[Runtime, SandboxId], Awaitable[None]]
    end_unseen: Callable[[SandboxId], Awaitable[None]]
    remember: Callable[[Machine, str], Awaitable[None]]
    recall: Callable[[Machine], Awaitable[tuple[str, str]]]
    holding: Callable[[Runtime, SandboxId], AbstractContextManager[None]]


@asynccontextmanager
async def fake_host(directory: Path) -> AsyncIterator[RuntimeHost]:
    """Give directories for machines."""

    def make(**changes: int) -> FakeRuntime:
        return FakeRuntime(directory, templates=frozenset({TEMPLATE}), **changes)

    async def end(runtime: Runtime, sandbox_id: SandboxId) -> None:
        assert isinstance(runtime, FakeRuntime)
        runtime.end(sandbox_id)

    async def end_unseen(sandbox_id: SandboxId) -> None:
        make().end_unseen(sandbox_id)

    async def remember(machine: Machine, text: str) -> None:
        make().remember(machine.sandbox_id, text)

    async def recall(machine: Machine) -> tuple[str, str]:
        return make().recall(machine.sandbox_id)

    @contextlib.contextmanager
    def holding(runtime: Runtime, _: SandboxId) -> Iterator[None]:
        assert isinstance(runtime, FakeRuntime)
        runtime.faults.hang("abandon")
        yield
        runtime.faults.let_go("abandon")

    yield RuntimeHost(
        make=make,
        make_short=lambda: make(most_events=1),
        template=TEMPLATE,
        end=end,
        end_unseen=end_unseen,
        remember=remember,
        recall=recall,
        holding=holding,
    )


class _HoldingSlots(SlotPool):
    """Lets a slot be heard again, which is the last step of a removal, when a test lets it."""

    held_back: SandboxId | None = None
    may_be_heard = asyncio.Event()

    async def hush(self, sandbox_id: SandboxId, silent: bool) -> None:
        if not silent and sandbox_id == self.held_back:
            await self.may_be_heard.wait()
        await super().hush(sandbox_id, silent)


class _SlottedRuntime(GVisorRuntime):
    """Opens and closes its own slots, as a server's main does."""

    def __init__(
        self,
        home_id: str,
        addresses: AddressRange,
        directory: Path,
        places: Places,
        options: GVisorOptions,
    ) -> None:
        self._slots = _HoldingSlots(
            home_id,
            addresses,
            slots_dir=directory / "slots",
            run_dir=home_network.RUN_DIR,
            dns_port=5353,
            egress_port=5354,
            ready=1,
        )
        self._guest = HttpGuest(clock=SystemClock())
        super().__init__(
            places=places,
            templates=TemplateLibrary(CACHE / "templates"),
            slots=self._slots,
            guest=self._guest,
            volumes=VolumeImages(places.sandboxes.parent / "volumes"),
            options=options,
        )

    @contextlib.contextmanager
    def holding(self, sandbox_id: SandboxId) -> Iterator[None]:
        """Have one removal wait."""
        self._slots.held_back, self._slots.may_be_heard = sandbox_id, asyncio.Event()
        yield
        self._slots.may_be_heard.set()

    async def open(self) -> Sequence[Machine]:
        await self._slots.open()
        return await super().open()

    async def close(self) -> None:
        await super().close()
        await self._slots.close()
        await self._guest.close()


async def _configure(template: TemplateId, machine: Machine) -> None:
    configuration = GuestConfiguration(
        generation=1, sandbox_id=machine.sandbox_id, template_id=template, team_id="test", hostname="tiny",
        machine_id="0" * 32, env=(), access_token="", default_user="root", default_workdir="",
        processes=LIMITS.processes, memory_bytes=LIMITS.memory_bytes, address=machine.address,
        dns_servers=("169.254.1.1",),
    )  # fmt: skip
    async with HttpGuest(clock=SystemClock()) as guest:
        with contextlib.suppress(AtollError):  # It is configured already.
            await guest.configure(machine, configuration)


async def _remember(template: TemplateId, machine: Machine, text: str) -> None:
    await _configure(template, machine)
    async with HTTPTransport() as transport:
        for path in _REMEMBERED:
            answer = await Client(transport).post(
                f"http://{machine.address}:49983/files?path={path}",
                headers={"content-type": "application/octet-stream"}, content=text.encode(),
            )  # fmt: skip
            assert answer.status == 200, answer.text()


async def _recall(template: TemplateId, machine: Machine) -> tuple[str, str]:
    await _configure(template, machine)
    async with HTTPTransport() as transport:
        memory, files = [
            await Client(transport).get(f"http://{machine.address}:49983/files?path={path}")
            for path in _REMEMBERED
        ]
    texts = [answer.text() if answer.status == 200 else "" for answer in (memory, files)]
    return texts[0], texts[1]


@asynccontextmanager
async def gvisor_host(directory: Path) -> AsyncIterator[RuntimeHost]:
    """Give a home with slots, the minimal template and runsc; nothing of it is left on the machine."""
    # runsc's sockets are in it: a short path.
    directory = Path(tempfile.mkdtemp(prefix="atc-"))
    home_id = secrets.token_hex(3)
    guestd = program("atoll-guestd")
    template = await TemplateLibrary(CACHE / "templates").ensure("minimal")
    runsc = await RunscRelease(CACHE / "runsc", probe=guestd).ensure()
    places = Places(
        home_id=home_id,
        sandboxes=directory / "sandboxes",
        volume_mounts=directory / "mounts",
        runsc_state=directory / "runsc-state",
        runsc=runsc,
        guestd=guestd,
        guestds=directory / "guestd",
    )
    prepared = await asyncio.to_thread(home_network.prepare, home_id, record=home_record(home_id, directory))

    def make(**changes: int) -> GVisorRuntime:
        return _SlottedRuntime(home_id, prepared.addresses, directory, places, GVisorOptions(**changes))

    async def end(runtime: Runtime, sandbox_id: SandboxId) -> None:
        await end_unseen(sandbox_id)

    async def end_unseen(sandbox_id: SandboxId) -> None:
        record = Record.read(places.directory(sandbox_id).path)
        assert record is not None
        assert record.sentry is not None
        with Pidfd.open(record.sentry.pid, start_time=record.sentry.start_time) as sentry:
            await sentry.kill(patience_s=10)

    def holding(runtime: Runtime, sandbox_id: SandboxId) -> AbstractContextManager[None]:
        assert isinstance(runtime, _SlottedRuntime)
        return runtime.holding(sandbox_id)

    try:
        yield RuntimeHost(
            make=make,
            make_short=lambda: make(events=1),
            template=template.id,
            end=end,
            end_unseen=end_unseen,
            remember=partial(_remember, template.id),
            recall=partial(_recall, template.id),
            holding=holding,
        )
    finally:
        await asyncio.to_thread(make().remove_shared)
        await asyncio.to_thread(home_network.teardown, home_id, slots_dir=directory / "slots")
        shutil.rmtree(directory)


HOSTS: dict[str, Callable[[Path], AbstractAsyncContextManager[RuntimeHost]]] = {
    "fake": fake_host,
    "gvisor": gvisor_host,
}
