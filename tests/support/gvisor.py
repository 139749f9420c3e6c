"""
Real gVisor machines for tests, without a server: slots made by hand, a tiny root, guestd as built.

Needs root, and the Debian packages of scripts/packages.
"""

import asyncio
import base64
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from connectrpc.codec import proto_json_codec
from pyqwest import Client, HTTPTransport

from atoll._gen.process.process_connect import ProcessClient
from atoll._gen.process.process_pb import ProcessConfig, StartRequest
from atoll.server.domain.errors import NotFoundError
from atoll.server.domain.ids import SandboxId, TeamId, TemplateId, new_sandbox_id
from atoll.server.domain.limits import EgressPolicy, Limits
from atoll.server.domain.machine import GuestConfiguration, Machine, MachineEnded, MachineEvent, MachineSpec
from atoll.server.guests.client import HttpGuest
from atoll.server.ports.slots import Slot
from atoll.server.runtimes.gvisor.options import GVisorOptions
from atoll.server.runtimes.gvisor.places import Places
from atoll.server.runtimes.gvisor.release import RunscRelease
from atoll.server.runtimes.gvisor.runtime import GVisorRuntime

CACHE = Path(os.environ.get("ATOLL_CACHE_DIR") or Path.home() / ".cache" / "atoll")
GUESTD = Path(sys.executable).parent / "atoll-guestd"
TEMPLATE = TemplateId("tiny-000000000000")
MIB = 1024 * 1024
SMALL = Limits(cpus=1, memory_bytes=256 * MIB, processes=64, disk_bytes=256 * MIB)
GATEWAY = "169.254.1.1"


def rootfs() -> Path:
    """Return a root file system with Python and a user, built once and kept."""
    path = CACHE / "tests" / "rootfs-1"
    if path.is_dir():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".building-", dir=path.parent))
    hook = "chroot $1 useradd --create-home --uid 1000 --shell /bin/bash user"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3-minimal,libpython3-stdlib",
         f"--customize-hook={hook}", "trixie", str(new)],
        check=True, timeout=900, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    new.chmod(0o755)
    try:
        new.rename(path)
    except OSError:
        # Another run was quicker.
        shutil.rmtree(new)
    return path


class OneTemplate:
    """ports.Templates with one root file system."""

    async def get(self, name: str):
        raise NotImplementedError

    async def list(self):
        raise NotImplementedError

    async def rootfs(self, template_id: TemplateId) -> Path:
        if template_id != TEMPLATE:
            raise NotFoundError(f"template {template_id!r} not found")
        return rootfs()


class SimpleSlots:
    """ports.Slots, made with ip(8) when asked for; no fence."""

    def __init__(self, home_id: str) -> None:
        self._home_id = home_id
        self._held: dict[SandboxId, Slot] = {}
        self._next = 1

    async def acquire(self, sandbox_id: SandboxId, egress: EgressPolicy) -> Slot:
        number, self._next = self._next, self._next + 1
        name = f"atoll-{self._home_id}-{number}"
        slot = Slot(name=name, netns=f"/run/netns/{name}", address=self._address(number), dns_servers=())
        self._held[sandbox_id] = slot
        outer, inner = f"at{self._home_id}-{number}", "eth0"
        lines = [
            f"netns add {name}",
            f"link add {outer} type veth peer name {inner} netns {name}",
            f"addr add {GATEWAY}/32 dev {outer}",
            f"link set {outer} up",
            f"route add {slot.address}/32 dev {outer} src {GATEWAY}",
            f"-n {name} link set lo up",
            f"-n {name} addr add {slot.address}/32 dev {inner}",
            f"-n {name} link set {inner} up",
            f"-n {name} route add {GATEWAY} dev {inner} scope link",
            f"-n {name} route add default via {GATEWAY} dev {inner}",
        ]
        for line in lines:
            await asyncio.to_thread(subprocess.run, ["ip", *line.split()], check=True, capture_output=True)
        return slot

    def _address(self, number: int) -> str:
        # A part of 10/8 that depends on the home, so that two runs at once do not meet.
        return f"10.{200 + int(self._home_id, 16) % 50}.{int(self._home_id[2:4], 16)}.{number + 1}"

    async def find(self, sandbox_id: SandboxId) -> Slot | None:
        return self._held.get(sandbox_id)

    async def release(self, sandbox_id: SandboxId) -> None:
        slot = self._held.pop(sandbox_id, None)
        if slot is None:
            return
        number = slot.name.rpartition("-")[2]
        for line in (f"link del at{self._home_id}-{number}", f"netns del {slot.name}"):
            await asyncio.to_thread(subprocess.run, ["ip", *line.split()], capture_output=True)

    async def held(self) -> frozenset[SandboxId]:
        return frozenset(self._held)


class SystemClock:
    """ports.Clock: the machine's."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep_until(self, when: datetime) -> None:
        await asyncio.sleep(max(0, (when - self.now()).total_seconds()))


@dataclass
class Output:
    """What a command said."""

    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    error: str = ""


@dataclass
class Home:
    """A home for machines, and a runtime that may be dropped and made again."""

    path: Path
    places: Places
    slots: SimpleSlots
    guest: HttpGuest
    options: GVisorOptions
    http: Client
    runtime: GVisorRuntime = field(init=False)

    def __post_init__(self) -> None:
        self.runtime = self.new_runtime()

    def new_runtime(self) -> GVisorRuntime:
        return GVisorRuntime(
            places=self.places,
            templates=OneTemplate(),
            slots=self.slots,
            guest=self.guest,
            options=self.options,
        )

    def spec(self, limits: Limits = SMALL) -> MachineSpec:
        return MachineSpec(
            sandbox_id=new_sandbox_id(),
            template_id=TEMPLATE,
            hostname="tiny",
            limits=limits,
            egress=EgressPolicy(),
        )

    async def start(self, limits: Limits = SMALL) -> Machine:
        """Start a machine and configure it."""
        spec = self.spec(limits)
        machine = await self.runtime.start(spec)
        await self.configure(machine, limits)
        return machine

    async def configure(self, machine: Machine, limits: Limits = SMALL) -> None:
        await self.guest.configure(
            machine,
            GuestConfiguration(
                generation=1,
                sandbox_id=machine.sandbox_id,
                template_id=TEMPLATE,
                team_id=TeamId("test"),
                hostname="tiny",
                machine_id="0" * 32,
                env=(),
                access_token="",
                default_user="user",
                default_workdir="",
                processes=limits.processes,
                memory_bytes=limits.memory_bytes,
                address=machine.address,
                dns_servers=(GATEWAY,),
            ),
        )

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
                        output.error = event.value.error or event.value.status
        return output

    async def python(self, machine: Machine, code: str, user: str = "root", timeout_s: float = 60) -> Output:
        return await self.command(machine, "python3", "-c", code, user=user, timeout_s=timeout_s)

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

    def traces(self) -> list[str]:
        """List all that is on this host with the home's name in it."""
        found = [
            str(path)
            for path in Path("/sys/fs/cgroup").glob(f"*/atoll-{self.places.home_id}/*")
            if path.is_dir()
        ]
        found += [str(path) for path in self.places.sandboxes.glob("*")]
        found += [str(path) for path in self.places.runsc_state.glob("*") if path.name != "null-netns"]
        found += [str(path) for path in Path("/run/netns").glob(f"atoll-{self.places.home_id}-*")]
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.path).encode() in (process / "cmdline").read_bytes():
                    found.append(f"process {process.name}")
        return found


@contextlib.asynccontextmanager
async def home(options: GVisorOptions | None = None) -> AsyncIterator[Home]:
    """Make a home, and take down whatever is left in it."""
    home_id = secrets.token_hex(3)
    path = Path(tempfile.mkdtemp(prefix="atoll-"))
    runsc = await RunscRelease(CACHE / "runsc", probe=GUESTD).ensure()
    places = Places(
        home_id=home_id,
        sandboxes=path / "sandboxes",
        runsc_state=path / "runsc-state",
        runsc=runsc,
        guestd=GUESTD,
    )
    async with (
        HttpGuest(clock=SystemClock()) as guest,
        HTTPTransport() as transport,
    ):
        made = Home(
            path=path,
            places=places,
            slots=SimpleSlots(home_id),
            guest=guest,
            options=options or GVisorOptions(),
            http=Client(transport),
        )
        await made.runtime.open()
        try:
            yield made
        finally:
            for sandbox_id in await made.runtime.remains():
                await made.runtime.destroy(sandbox_id)
            await made.runtime.close()
            made.runtime.remove_shared()
            shutil.rmtree(path)
