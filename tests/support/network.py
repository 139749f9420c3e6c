"""
A world for sandboxes to reach, or not: a namespace behind a link of its own, and homes with real slots.

    slot -- host -- link (192.31.196.0/30, 2001:db8:1::/64) -- router, with the world's addresses on it

Needs root. What is made here has names of its own and is removed again.
"""

import asyncio
import contextlib
import json
import queue
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.ids import SandboxId, new_sandbox_id
from atoll.server.host.ports import free_port
from atoll.server.network import home_network
from atoll.server.network.home_records import HomeRecord
from atoll.server.network.names import AddressRange, Names
from atoll.server.network.slots import SlotPool
from atoll.server.ports.slots import Slot
from atoll.server.runtimes.gvisor.places import cgroup_parent

# Public addresses of AS112, which answers what nobody should ask (RFC 7534, 7535): no machine needs them.
# The documentation ranges are really used by some networks, for their package mirror, say.
WORLD_LINK4, WORLD_LINK6 = "192.31.196.2", "2001:db8:1::2"
HOST_LINK4, HOST_LINK6 = "192.31.196.1", "2001:db8:1::1"
PUBLIC4, PUBLIC6 = "192.175.48.77", "2001:db8:77::1"
# Addresses that a sandbox must not reach, though the host does.
FORBIDDEN4 = ("10.250.77.1", "172.20.77.1", "192.168.77.1", "100.64.77.1", "169.254.169.254", "198.18.77.1")
FORBIDDEN6 = ("fd77::1", "64:ff9b::a00:1")
TCP_PORT, UDP_PORT = 8077, 8078

# Answers each TCP connection with the address it comes from and holds it; prints each datagram.
_WORLD = f"""
import socket, sys, threading
def serve():
    server = socket.create_server(("::", {TCP_PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
    print("ready", flush=True)
    held = []
    while True:
        connection, peer = server.accept()
        connection.sendall(peer[0].removeprefix("::ffff:").encode() + b"\\n")
        threading.Thread(target=lambda c=connection: (c.recv(1), c.close()), daemon=True).start()
datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
datagrams.bind(("::", {UDP_PORT}))
threading.Thread(target=serve, daemon=True).start()
while True:
    data, peer = datagrams.recvfrom(2048)
    print(data.decode(), flush=True)
"""

# Run inside a slot: says "reached <what the other end said>" or "not reached <why>".
_PROBE = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
probe = socket.socket(family)
probe.settimeout(float(sys.argv[3]))
try:
    scope = socket.if_nametoindex("eth0") if sys.argv[1].startswith("fe80") else 0
    probe.connect((sys.argv[1], int(sys.argv[2])) + ((0, scope) if scope else ()))
    print("reached", probe.recv(100).decode().strip())
except OSError as error:
    print("not reached", error)
"""


def ip(line: str) -> str:
    """Run ip(8)."""
    return subprocess.run(["ip", *line.split()], check=True, capture_output=True, text=True).stdout


async def run_in(netns: str, code: str, *args: str) -> str:
    """Run Python in a namespace; return its output."""
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", netns, sys.executable, "-I", "-c", code, *args,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, errors = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return out.decode().strip()


async def probe(netns: str, address: str, port: int = TCP_PORT, *, timeout_s: float = 2) -> str:
    """Try to connect from a namespace."""
    return await run_in(netns, _PROBE, address, str(port), str(timeout_s))


def probe_from_host(address: str, port: int = TCP_PORT) -> str:
    """Connect from the host; return what the other end said."""
    with socket.create_connection((address, port), timeout=5) as connection:
        return connection.recv(100).decode().strip()


@dataclass
class World:
    """The namespace with the world's addresses."""

    netns: str
    lines: "queue.Queue[str]" = field(default_factory=queue.Queue)

    def next_datagram(self) -> str:
        """Return the text of the next datagram that arrived; blocks for 10 s at most."""
        return self.lines.get(timeout=10)

    def listen(self, output: IO[str]) -> None:
        """Read what the world's program prints, until it ends."""
        for line in output:
            self.lines.put(line.strip())


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Make the world, with an IPv6 way to it even where the host has none."""
    name = f"world-{secrets.token_hex(2)}"
    link = name
    ip(f"netns add {name}")
    process = None
    try:
        ip(f"link add {link} type veth peer name eth0 netns {name}")
        for where, device, v4, v6 in (
            ("", link, HOST_LINK4, HOST_LINK6),
            (f"-n {name} ", "eth0", WORLD_LINK4, WORLD_LINK6),
        ):
            ip(f"{where}addr add {v4}/30 dev {device}")
            ip(f"{where}addr add {v6}/64 dev {device} nodad")
            ip(f"{where}link set {device} up")
        ip(f"-n {name} link set lo up")
        for address in (PUBLIC4, *FORBIDDEN4):
            ip(f"-n {name} addr add {address}/32 dev lo")
            ip(f"route add {address}/32 via {WORLD_LINK4}")
        for address in (PUBLIC6, *FORBIDDEN6):
            ip(f"-n {name} addr add {address}/128 dev lo nodad")
            ip(f"-6 route add {address}/128 via {WORLD_LINK6}")
        ip(f"-6 route add default via {WORLD_LINK6} metric 40000")
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-I", "-c", _WORLD],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        made = World(netns=name)
        listening = threading.Thread(target=made.listen, args=(process.stdout,), daemon=True)
        listening.start()
        assert made.next_datagram() == "ready"
        yield made
    finally:
        if process is not None:
            process.kill()
            process.wait()
            listening.join(timeout=10)
            assert process.stdout is not None
            process.stdout.close()
        subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)
        ip(f"netns del {name}")


@dataclass
class TestHome:
    """A home's network, prepared."""

    __test__ = False

    id: str
    path: Path
    addresses: AddressRange
    dns_port: int
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> Names:
        return Names(self.id)

    @property
    def slots_dir(self) -> Path:
        return self.path / "run" / "slots"

    def new_pool(self, **more: Any) -> SlotPool:
        return SlotPool(
            self.id,
            self.addresses,
            slots_dir=self.slots_dir,
            run_dir=home_network.RUN_DIR,
            dns_port=self.dns_port,
            egress_port=self.dns_port,
            **more,
        )

    @contextlib.asynccontextmanager
    async def pool(self, **more: Any) -> AsyncIterator[SlotPool]:
        pool = self.new_pool(**more)
        await pool.open()
        try:
            yield pool
        finally:
            await pool.close()

    @property
    def record(self) -> HomeRecord:
        """Where its things are; its server is this process."""
        return home_record(self.id, self.path)

    async def teardown(self) -> None:
        await asyncio.to_thread(home_network.teardown, self.id, slots_dir=self.slots_dir)

    def as_json(self) -> str:
        """What a process of its own needs to make the same home's pool."""
        content = {"id": self.id, "v4": str(self.addresses.v4), "path": str(self.path), "dns": self.dns_port}
        return json.dumps(content)


def home_record(home_id: str, directory: Path) -> HomeRecord:
    """Make a directory a home as far as the network goes, and say where its things are."""
    directory.mkdir(parents=True, exist_ok=True)
    identity = directory / "home.json"
    identity.write_text(json.dumps({"id": home_id}))
    return HomeRecord.by_this_process(
        identity=identity,
        public=directory / "public",
        mounts=(directory / "mounts",),
        cgroup=cgroup_parent(home_id),
    )


@contextlib.asynccontextmanager
async def network_home(path: Path) -> AsyncIterator[TestHome]:
    """Prepare a home's network, and take it down."""
    home_id = secrets.token_hex(3)
    prepared = await asyncio.to_thread(home_network.prepare, home_id, record=home_record(home_id, path))
    home = TestHome(id=home_id, path=path, addresses=prepared.addresses, dns_port=free_port())
    try:
        yield home
    finally:
        await home.teardown()


async def acquire(pool: SlotPool, *, internet: bool = True) -> tuple[SandboxId, Slot]:
    """Acquire a slot for a new sandbox."""
    sandbox_id = new_sandbox_id()
    return sandbox_id, await pool.acquire(sandbox_id, EgressPolicy(internet=internet))


@contextlib.contextmanager
def tcp_server(address: str = "::", port: int = 0, *, free_bind: bool = False) -> Iterator[int]:
    """Serve in the host's namespace: a word to everybody who connects."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if free_bind:
            server.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
        server.bind((address, port))
        server.listen(64)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, peer = server.accept()
                    with connection:
                        connection.sendall(f"host {peer[0]}".encode())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=5)
