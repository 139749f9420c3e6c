"""What processes inside of slots reach, and what not."""

import asyncio
import re
import socket
import subprocess
from pathlib import Path

import pytest
from support.network import (
    FORBIDDEN4,
    FORBIDDEN6,
    HOST_LINK4,
    HOST_LINK6,
    PUBLIC4,
    PUBLIC6,
    TCP_PORT,
    UDP_PORT,
    WORLD_LINK4,
    WORLD_LINK6,
    TestHome,
    World,
    acquire,
    ip,
    network_home,
    probe,
    probe_from_host,
    run_in,
    tcp_server,
)

GATEWAY = "169.254.1.1"

# Opens connections and keeps them; prints how many of them there were, then how many after closing some.
CROWD = """
import socket, sys, time
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def try_one():
    probe = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    probe.settimeout(2)
    try:
        probe.connect((address, port)); probe.recv(100); return probe
    except OSError:
        probe.close(); return None
print(sum(one is not None for one in [try_one() for _ in range(count)]))
"""

# Sends one datagram with a source address that is not the sandbox's, and one with its own.
SPOOF = """
import socket, subprocess, sys
forged, own, target, port = *sys.argv[1:4], int(sys.argv[4])
six = ":" in forged
subprocess.run(["ip", "addr", "add", forged + ("/128" if six else "/32"), "dev", "eth0"]
    + (["nodad"] if six else []), check=True)
for source, text in ((forged, "forged"), (own, "genuine")):
    sender = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind((source, 0))
    sender.sendto(text.encode(), (target, port))
"""

# Frames as a guest that owns its network card can send them.
FRAMES = """
import socket, struct, sys
card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
card.bind(("eth0", 0))
gateway, own = bytes.fromhex("02a701000001"), bytes.fromhex("02a701000002")
for number in range(1500):
    sender = socket.inet_aton(f"10.99.{number // 256}.{number % 256}")
    card.send(gateway + own + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
        + own + sender + bytes(6) + socket.inet_aton("169.254.1.1"))
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16: total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
source, all_nodes = (socket.inet_pton(socket.AF_INET6, a) for a in ("fe80::2", "ff02::1"))
body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
pseudo = source + all_nodes + struct.pack("!II", len(body), 58)
body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
card.send(bytes.fromhex("333300000001") + own + struct.pack("!H", 0x86DD)
    + struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + all_nodes + body)
"""


def host_addresses() -> list[str]:
    found = re.findall(r"inet6? ([0-9a-f.:]+)/", ip("-o addr"))
    return sorted({address for address in found if not address.startswith(("127.", "::1", "fe80"))})


@pytest.mark.parametrize(("address", "seen"), [(PUBLIC4, HOST_LINK4), (PUBLIC6, HOST_LINK6)])
async def test_the_internet_is_reached_under_the_hosts_address(
    home: TestHome, address: str, seen: str
) -> None:
    async with home.pool() as pool:
        _, slot = await acquire(pool)

        assert await probe(slot.name, address) == f"reached {seen}"


@pytest.mark.parametrize("address", [PUBLIC4, PUBLIC6])
async def test_without_internet_nothing_is_reached_and_refused_at_once(home: TestHome, address: str) -> None:
    async with home.pool() as pool:
        _, slot = await acquire(pool, internet=False)

        assert "Connection refused" in await probe(slot.name, address)


async def test_a_slot_that_nobody_holds_is_closed(home: TestHome) -> None:
    pool = home.new_pool(ready=0)
    await pool.open()
    try:
        await pool._making.run(pool._make, 4000)

        assert (await probe(home.names.namespace(4000), PUBLIC4)).startswith("not reached")
    finally:
        await pool.close()


async def test_no_address_of_the_host_is_reached(home: TestHome) -> None:
    async with home.pool() as pool:
        _, slot = await acquire(pool)
        with tcp_server() as port:
            addresses = [*host_addresses(), "fe80::1"]
            answers = {address: await probe(slot.name, address, port) for address in addresses}

    assert GATEWAY in answers
    assert HOST_LINK6 in answers
    assert all(answer.startswith("not reached") for answer in answers.values()), answers


async def test_the_host_reaches_a_sandbox_from_the_gateways_address(home: TestHome) -> None:
    async with home.pool() as pool:
        _, slot = await acquire(pool, internet=False)
        serving = asyncio.create_task(serve_once(slot.name))
        port = await serving_port(slot.name)
        seen = await asyncio.to_thread(probe_from_host, slot.address, port)
        await serving

    assert seen == GATEWAY


@pytest.mark.parametrize("same_home", [True, False])
async def test_other_sandboxes_are_not_reached(home: TestHome, tmp_path: Path, same_home: bool) -> None:
    async with network_home(tmp_path / "other") as other, home.pool() as pool, other.pool() as other_pool:
        _, slot = await acquire(pool)
        _, neighbour = await acquire(pool if same_home else other_pool)
        owner = home if same_home else other
        number = owner.names.number(neighbour.name)
        assert number is not None
        serving = asyncio.create_task(serve_once(neighbour.name))
        port = await serving_port(neighbour.name)
        answers = [
            await probe(slot.name, address, port)
            for address in (neighbour.address, str(owner.addresses.address6(number)))
        ]
        # It does answer to the host, so it is the fence that the sandbox could not get through.
        await asyncio.to_thread(probe_from_host, neighbour.address, port)
        await serving

    assert all(answer.startswith("not reached") for answer in answers), answers


@pytest.mark.parametrize("address", [*FORBIDDEN4, *FORBIDDEN6, WORLD_LINK4, WORLD_LINK6])
async def test_what_the_host_reaches_privately_a_sandbox_does_not(home: TestHome, address: str) -> None:
    from_host = await asyncio.to_thread(probe_from_host, address)
    async with home.pool() as pool:
        _, slot = await acquire(pool)

        answer = await probe(slot.name, address)

    assert from_host
    assert answer.startswith("not reached")


async def test_rules_of_others_that_accept_do_not_open_the_fence(home: TestHome) -> None:
    table = f"test_{home.id}"
    rules = "".join(
        f"chain {hook}{number} {{ type filter hook {hook} priority {priority}; accept; }}\n"
        for hook in ("prerouting", "input", "forward")
        for number, priority in enumerate((-400, -10, 10))
    )
    rules += (
        "chain nat { type nat hook prerouting priority dstnat; "
        f"ip daddr {PUBLIC4} tcp dport 99 dnat ip to {FORBIDDEN4[0]}:{TCP_PORT}; "
        f"ip daddr {PUBLIC4} tcp dport 98 redirect to :{TCP_PORT}; }}\n"
    )
    subprocess.run(["nft", "-f", "-"], input=f"table inet {table} {{\n{rules}\n}}\n", text=True, check=True)
    try:
        async with home.pool() as pool:
            _, slot = await acquire(pool)
            with tcp_server(port=TCP_PORT):
                answers = [
                    await probe(slot.name, FORBIDDEN4[0]),
                    await probe(slot.name, HOST_LINK4),
                    await probe(slot.name, PUBLIC4, 99),
                    await probe(slot.name, PUBLIC4, 98),
                ]
    finally:
        subprocess.run(["nft", "delete", "table", "inet", table], check=True)

    assert all(answer.startswith("not reached") for answer in answers), answers


@pytest.mark.parametrize("kind", ["public", "neighbour", "host", "public6", "neighbour6"])
async def test_a_forged_source_address_goes_nowhere(home: TestHome, outside: World, kind: str) -> None:
    async with home.pool() as pool:
        _, slot = await acquire(pool)
        _, neighbour = await acquire(pool)
        number = home.names.number(neighbour.name)
        assert number is not None
        forged = {
            "public": "192.175.48.99", "neighbour": neighbour.address, "host": HOST_LINK4,
            "public6": "2001:db8:99::1", "neighbour6": str(home.addresses.address6(number)),
        }[kind]  # fmt: skip
        own_number = home.names.number(slot.name)
        assert own_number is not None
        target, own = PUBLIC4, slot.address
        if ":" in forged:
            target, own = PUBLIC6, str(home.addresses.address6(own_number))
        await run_in(slot.name, SPOOF, forged, own, target, str(UDP_PORT))
        first = await asyncio.to_thread(outside.next_datagram)

    assert first == "genuine"


async def test_a_guest_that_owns_its_card_changes_nothing_on_the_host(home: TestHome) -> None:
    async with home.pool() as pool:
        _, slot = await acquire(pool)
        number = home.names.number(slot.name)
        assert number is not None
        veth = home.names.veth(number)
        before = (ip(f"neigh show dev {veth}"), ip(f"-6 route show dev {veth}"))
        await run_in(slot.name, FRAMES)
        # It comes behind the frames, so they have been handled when it is answered.
        reached = await probe(slot.name, PUBLIC4)

        assert (ip(f"neigh show dev {veth}"), ip(f"-6 route show dev {veth}")) == before
        assert reached.startswith("reached")


@pytest.mark.parametrize("address", [PUBLIC4, PUBLIC6])
async def test_one_sandbox_has_only_so_many_connections(home: TestHome, address: str) -> None:
    async with home.pool(most_connections=5) as pool:
        _, slot = await acquire(pool)
        _, neighbour = await acquire(pool)
        greedy = await run_in(slot.name, CROWD, address, str(TCP_PORT), "12")
        other = await run_in(neighbour.name, CROWD, address, str(TCP_PORT), "3")

    assert greedy == "5"
    assert other == "3"


async def test_names_are_asked_at_the_gateway_and_nowhere_else_on_the_host(home: TestHome) -> None:
    async with home.pool() as pool:
        _, slot = await acquire(pool)
        with tcp_server(GATEWAY, home.dns_port, free_bind=True):
            redirected = await probe(slot.name, GATEWAY, 53)
            direct = await probe(slot.name, GATEWAY, home.dns_port)
        datagram = await ask_datagram(home, slot.name)

    assert redirected == f"reached host {slot.address}"
    assert direct.startswith("not reached")
    assert datagram == "answer"


async def test_without_internet_names_do_not_resolve(home: TestHome) -> None:
    async with home.pool() as pool:
        _, slot = await acquire(pool, internet=False)
        with tcp_server(GATEWAY, home.dns_port, free_bind=True):
            answer = await probe(slot.name, GATEWAY, 53)

    assert answer.startswith("not reached")


async def test_another_policy_holds_at_once(home: TestHome) -> None:
    from atoll.server.domain.egress import EgressPolicy

    async with home.pool() as pool:
        sandbox_id, slot = await acquire(pool)
        again = await pool.acquire(sandbox_id, EgressPolicy(internet=False))

        assert again == slot
        assert (await probe(slot.name, PUBLIC4)).startswith("not reached")


async def test_a_removed_fence_comes_back_by_itself(home: TestHome) -> None:
    async with home.pool() as pool:
        _, slot = await acquire(pool)
        subprocess.run(["nft", "delete", "table", "inet", home.names.table], check=True)
        async with asyncio.timeout(10):
            while not await asyncio.to_thread(table_stands, home):
                await asyncio.sleep(0.05)

        assert (await probe(slot.name, PUBLIC4)).startswith("reached")
        assert (await probe(slot.name, FORBIDDEN4[0])).startswith("not reached")


async def test_a_new_neighbour_of_the_host_becomes_unreachable(home: TestHome) -> None:
    link = f"d{home.id}"
    async with home.pool() as pool:
        _, slot = await acquire(pool)
        before = await probe(slot.name, PUBLIC4)
        ip(f"link add {link} type veth peer name {link}p")
        try:
            ip(f"link set {link} up")
            ip(f"addr add 192.175.48.78/30 dev {link} noprefixroute")
            async with asyncio.timeout(10):
                while (await probe(slot.name, PUBLIC4)).startswith("reached"):
                    await asyncio.sleep(0.05)
        finally:
            ip(f"link del {link}")

    assert before.startswith("reached")


def table_stands(home: TestHome) -> bool:
    done = subprocess.run(
        ["nft", "list", "table", "inet", home.names.table], capture_output=True, check=False
    )
    return done.returncode == 0


SERVE_ONCE = """
import socket
server = socket.create_server(("::", 8099), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection, peer = server.accept()
    connection.sendall(peer[0].removeprefix("::ffff:").encode())
    connection.close()
    break
"""


async def serve_once(netns: str) -> None:
    await run_in(netns, SERVE_ONCE)


async def serving_port(netns: str) -> int:
    """Return when somebody listens in a namespace."""
    async with asyncio.timeout(10):
        while ":8099" not in await asyncio.to_thread(ip, f"netns exec {netns} ss -Hltn"):
            await asyncio.sleep(0.02)
    return 8099


ASK = """
import socket
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.settimeout(5)
probe.connect(("169.254.1.1", 53))
probe.send(b"question")
print(probe.recv(100).decode())
"""


async def ask_datagram(home: TestHome, netns: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_IP, 15, 1)
        server.bind((GATEWAY, home.dns_port))
        server.settimeout(10)

        def answer() -> None:
            _, peer = server.recvfrom(100)
            server.sendto(b"answer", peer)

        answering = asyncio.create_task(asyncio.to_thread(answer))
        said = await run_in(netns, ASK)
        await answering
    return said
