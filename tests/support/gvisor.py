"""
Real gVisor machines for tests, without a server: real slots, the minimal template, guestd as built.

Needs root, and the Debian packages of scripts/packages.
"""

import asyncio
import base64
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from connectrpc.codec import proto_json_codec
from pyqwest import Client, HTTPTransport

from atoll._gen.process.process_connect import ProcessClient
from atoll._gen.process.process_pb import ProcessConfig, StartRequest
from atoll.server.control.work.clock import SystemClock
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.ids import SandboxId, TemplateId, new_sandbox_id
from atoll.server.domain.limits import Limits
from atoll.server.domain.machine import (
    GuestConfiguration,
    Machine,
    MachineEnded,
    MachineEvent,
    MachineSpec,
)
from atoll.server.domain.volume import VolumeMount
from atoll.server.guests.client import HttpGuest
from atoll.server.host.pidfd import ProcessId
from atoll.server.images.library import TemplateLibrary
from atoll.server.network import home_network
from atoll.server.network.slots import SlotPool
from atoll.server.runtimes.gvisor.options import GVisorOptions
from atoll.server.runtimes.gvisor.places import Places
from atoll.server.runtimes.gvisor.record import Record
from atoll.server.runtimes.gvisor.release import RunscRelease
from atoll.server.runtimes.gvisor.runtime import GVisorRuntime
from atoll.server.volumes.images import VolumeImages
from support.leavings import named
from support.network import home_record

CACHE = Path(os.environ.get("ATOLL_CACHE_DIR") or Path.home() / ".cache" / "atoll")
GUESTD = Path(sys.executable).parent / "atoll-guestd"
MIB = 1024 * 1024
SMALL = Limits(cpus=1, memory_bytes=256 * MIB, processes=64, disk_bytes=256 * MIB)
# Nobody listens there: these machines have no name server.
DNS_PORT = 53530


@dataclass
class Output:
    """What a command said."""

    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    status: str = ""


@dataclass
class Host:
    """A home for machines, and a runtime that may be dropped and made again."""

    path: Path
    places: Places
    templates: TemplateLibrary
    template: TemplateId
    slots: SlotPool
    guest: HttpGuest
    options: GVisorOptions
    http: Client
    volumes: VolumeImages = field(init=False)
    runtime: GVisorRuntime = field(init=False)

    def __post_init__(self) -> None:
        self.volumes = VolumeImages(self.path / "volumes")
        self.runtime = self.new_runtime()

    def new_runtime(self) -> GVisorRuntime:
        return GVisorRuntime(
            places=self.places,
            templates=self.templates,
            slots=self.slots,
            guest=self.guest,
            volumes=self.volumes,
            options=self.options,
        )

    def spec(self, limits: Limits = SMALL) -> MachineSpec:
        return MachineSpec(
            sandbox_id=new_sandbox_id(),
            template_id=self.template,
            hostname="tiny",
            limits=limits,
            egress=EgressPolicy(internet=False),
        )

    async def start(self, limits: Limits = SMALL) -> Machine:
        """Start a machine and configure it."""
        machine = await self.runtime.start(self.spec(limits))
        await self.configure(machine, limits)
        return machine

    async def configure(
        self,
        machine: Machine,
        limits: Limits = SMALL,
        volumes: tuple[VolumeMount, ...] = (),
        generation: int = 1,
    ) -> None:
        await self.guest.configure(
            machine,
            GuestConfiguration(
                generation=generation,
                sandbox_id=machine.sandbox_id,
                template_id=self.template,
                team_id="test",
                hostname="tiny",
                machine_id="0" * 32,
                env=(),
                access_token="",
                default_user="user",
                default_workdir="",
                processes=limits.processes,
                memory_bytes=limits.memory_bytes,
                address=machine.address,
                dns_servers=("169.254.1.1",),
                volumes=volumes,
            ),
        )

    def record(self, sandbox_id: SandboxId) -> Record:
        """Read what the runtime wrote down."""
        record = Record.read(self.places.directory(sandbox_id).path)
        assert record is not None
        return record

    def sentry(self, sandbox_id: SandboxId) -> psutil.Process:
        """Find the process that isolates."""
        return _process(self.record(sandbox_id).sentry)

    def gofer(self, sandbox_id: SandboxId) -> psutil.Process:
        """Find the process that opens files."""
        return _process(self.record(sandbox_id).gofer)

    async def command(
        self, machine: Machine, *argv: str, user: str = "root", timeout_s: float = 60
    ) -> Output:
        """Run a command inside, through guestd, and wait for its end."""
        output = Output()
        client = ProcessClient(
            f"http://{machine.address}:49983", codec=proto_json_codec(), http_client=self.http
        )
        basic = base64.b64encode(f"{user}:".encode()).decode()
        request = StartRequest(process=ProcessConfig(cmd=argv[0], args=list(argv[1:])), stdin=False)
        async with asyncio.timeout(timeout_s):
            async for answer in client.start(request, headers={"authorization": f"Basic {basic}"}):
                event = answer.event.event if answer.event else None
                if event is None:
                    continue
                match event.field:
                    case "data":
                        data = event.value.output
                        text = data.value.decode(errors="replace")
                        if data.field == "stdout":
                            output.stdout += text
                        else:
                            output.stderr += text
                    case "end":
                        output.exit_code = event.value.exit_code
                        output.status = event.value.error or event.value.status
        return output

    async def python(self, machine: Machine, code: str, user: str = "root", timeout_s: float = 60) -> Output:
        return await self.command(machine, "python3", "-c", code, user=user, timeout_s=timeout_s)

    async def assert_lives(self, machine: Machine) -> None:
        """Check that a machine still does what it is told."""
        assert (await self.command(machine, "echo", "alive")).stdout == "alive\n"

    async def next_end(self, timeout_s: float) -> MachineEnded:
        """Wait for the next end of a machine, dropping other events."""
        async with asyncio.timeout(timeout_s):
            while True:
                event = await self.next_event(timeout_s)
                if isinstance(event, MachineEnded):
                    return event

    async def next_event(self, timeout_s: float) -> MachineEvent:
        async with asyncio.timeout(timeout_s):
            async for event in self.runtime.events():
                return event
        raise AssertionError("no more events")

    def traces(self, sandbox_id: str) -> list[str]:
        """List all that is on this host with a sandbox's id in its name."""
        found = named(Path("/sys/fs/cgroup"), sandbox_id) + named(self.path, sandbox_id)
        found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if sandbox_id in line]
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if sandbox_id.encode() in (process / "cmdline").read_bytes():
                    found.append(f"process {process.name}")
        return found


@contextlib.asynccontextmanager
async def gvisor_host(options: GVisorOptions | None = None) -> AsyncIterator[Host]:
    """Make a home, and take down whatever is left in it."""
    home_id = secrets.token_hex(3)
    # runsc's sockets are in it, and their paths are short.
    path = Path(tempfile.mkdtemp(prefix="atoll-"))
    templates = TemplateLibrary(CACHE / "templates")
    template = await templates.ensure("minimal")
    places = Places(
        home_id=home_id,
        sandboxes=path / "sandboxes",
        volume_mounts=path / "mounts",
        runsc_state=path / "runsc-state",
        runsc=await RunscRelease(CACHE / "runsc", probe=GUESTD).ensure(),
        guestd=GUESTD,
        guestds=path / "guestd",
    )
    network = await asyncio.to_thread(home_network.prepare, home_id, record=home_record(home_id, path))
    slots = SlotPool(
        home_id,
        network.addresses,
        slots_dir=path / "slots",
        run_dir=home_network.RUN_DIR,
        dns_port=DNS_PORT,
        egress_port=DNS_PORT + 1,
        ready=1,
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, path)
        stack.push_async_callback(
            asyncio.to_thread,
            home_network.teardown,
            home_id,
            slots_dir=path / "slots",
            run_dir=home_network.RUN_DIR,
        )
        await slots.open()
        stack.push_async_callback(slots.close)
        host = Host(
            path=path,
            places=places,
            templates=templates,
            template=template.id,
            slots=slots,
            guest=await stack.enter_async_context(HttpGuest(clock=SystemClock())),
            options=options or GVisorOptions(),
            http=Client(await stack.enter_async_context(HTTPTransport())),
        )
        await host.runtime.open()
        try:
            yield host
        finally:
            for sandbox_id in await host.runtime.remains():
                await host.runtime.destroy(sandbox_id)
            await host.runtime.close()
            host.runtime.remove_shared()


def kill(process: psutil.Process) -> None:
    """End a process as an operator's mistake would."""
    process.send_signal(signal.SIGKILL)


def _process(identity: ProcessId | None) -> psutil.Process:
    assert identity is not None
    return psutil.Process(identity.pid)
