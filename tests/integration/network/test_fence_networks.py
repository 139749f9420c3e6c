"""Network rules of single sandboxes, in the kernel."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.network import (
    FORBIDDEN4,
    HOST_LINK4,
    PUBLIC4,
    PUBLIC6,
    TCP_PORT,
    TestHome,
    acquire,
    probe,
    probe_from_host,
    tcp_server,
)

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.ids import SandboxId, new_sandbox_id
from atoll.server.network.names import EGRESS_MARK, GATEWAY
from atoll.server.network.slots import SlotPool
from atoll.server.ports.slots import Slot

ALL = ("0.0.0.0/0",)

# Connects, says so, and then says whether the connection still lives when told to look.
HELD = """
import socket, sys
held = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
held.recv(100)
print("held", flush=True)
sys.stdin.readline()
try:
    held.sendall(b"x")
    held.recv(100)
    print("alive", flush=True)
except OSError as error:
    print("cut", error, flush=True)
"""


@asynccontextmanager
async def fenced(home: TestHome, **policy: object) -> AsyncIterator[tuple[SlotPool, SandboxId, Slot]]:
    sandbox_id = new_sandbox_id()
    async with home.pool() as pool:
        yield pool, sandbox_id, await pool.acquire(sandbox_id, EgressPolicy(**policy))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "reached4", "reached6"),
    [
        ({"deny_out": ("192.175.48.0/24",)}, False, True),
        ({"deny_out": (PUBLIC6,)}, True, False),
        ({"deny_out": ("8.8.8.8",)}, True, True),
        ({"deny_out": ALL}, False, False),
        ({"deny_out": ALL, "allow_out": (PUBLIC4,)}, True, False),
        ({"deny_out": ALL, "allow_out": ("2001:db8:77::/48",)}, False, True),
        ({"deny_out": ("::/0",)}, True, False),
        ({"internet": False, "allow_out": ("192.175.48.64/26", "8.8.8.8")}, True, False),
        ({"deny_out": ("192.0.0.0/8",), "allow_out": ("192.175.48.0/24", "192.175.48.77/32")}, True, True),
    ],
)
async def test_networks_are_allowed_and_denied(
    home: TestHome, policy: dict[str, object], reached4: bool, reached6: bool
) -> None:
    async with fenced(home, **policy) as (_, _, slot):
        answers = [await probe(slot.name, address) for address in (PUBLIC4, PUBLIC6)]

    assert [answer.startswith("reached") for answer in answers] == [reached4, reached6]
    assert all("refused" in answer for answer in answers if not answer.startswith("reached"))


async def test_what_is_closed_to_all_is_closed_whatever_is_allowed(home: TestHome) -> None:
    async with fenced(home, allow_out=("0.0.0.0/0", "::/0")) as (pool, _, slot):
        _, other = await acquire(pool)
        private = [await probe(slot.name, address) for address in (*FORBIDDEN4, other.address)]
        with tcp_server("0.0.0.0") as port:
            host = await probe(slot.name, str(GATEWAY), port)

    assert not any(answer.startswith("reached") for answer in (*private, host))


async def test_names_resolve_where_anything_is_allowed(home: TestHome) -> None:
    with tcp_server(str(GATEWAY), home.dns_port, free_bind=True):
        async with fenced(home, deny_out=ALL, allow_out=("8.8.8.8",)) as (_, _, slot):
            answer = await probe(slot.name, str(GATEWAY), 53)

    assert answer.startswith("reached")


async def test_new_rules_hold_at_once_and_cut_what_they_forbid(home: TestHome) -> None:
    async with fenced(home) as (pool, sandbox_id, slot):
        holder = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", slot.name, "python3", "-I", "-c", HELD, PUBLIC4, "8077",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert holder.stdout is not None
        assert await asyncio.wait_for(holder.stdout.readline(), 10) == b"held\n"

        await pool.update(sandbox_id, EgressPolicy(deny_out=(PUBLIC4,)))
        denied = await probe(slot.name, PUBLIC4)
        said, _ = await asyncio.wait_for(holder.communicate(b"\n"), 20)
        await pool.update(sandbox_id, EgressPolicy(deny_out=ALL, allow_out=(PUBLIC4,)))
        allowed = await probe(slot.name, PUBLIC4)
        await pool.update(sandbox_id, EgressPolicy())

        assert denied.startswith("not reached")
        assert said.startswith(b"cut")
        assert allowed.startswith("reached")
        assert (await probe(slot.name, PUBLIC6)).startswith("reached")


async def test_rules_outlive_a_restart_and_a_release_leaves_none(home: TestHome) -> None:
    async with fenced(home) as (pool, sandbox_id, slot):
        await pool.update(sandbox_id, EgressPolicy(deny_out=(PUBLIC4,)))

    async with home.pool() as pool:
        assert (await probe(slot.name, PUBLIC4)).startswith("not reached")
        assert (await probe(slot.name, PUBLIC6)).startswith("reached")
        await pool.release(sandbox_id)
        process = await asyncio.create_subprocess_exec(
            "nft", "list", "table", "inet", home.names.table, stdout=asyncio.subprocess.PIPE
        )
        listing, _ = await process.communicate()

    assert b"own_" not in listing


async def test_many_networks_and_many_changes_take_little_time(home: TestHome) -> None:
    async with fenced(home) as (pool, sandbox_id, slot):
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(20):
            many = tuple(f"8.{number}.{part}.0/25" for part in range(256))
            await pool.update(sandbox_id, EgressPolicy(deny_out=ALL, allow_out=(*many[1:], PUBLIC4)))
        took = loop.time() - began

        assert (await probe(slot.name, PUBLIC4)).startswith("reached")
    assert took / 20 < 0.1


def marked_reaches(address: str, port: int) -> bool:
    """Connect from the host as the edge does for a sandbox."""
    with socket.socket() as marked:
        marked.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, EGRESS_MARK)
        marked.settimeout(5)
        return marked.connect_ex((address, port)) == 0


async def test_what_the_edge_sends_for_a_sandbox_reaches_no_more_than_a_sandbox(home: TestHome) -> None:
    async with home.pool() as pool:
        _, slot = await acquire(pool)
        with tcp_server("0.0.0.0") as port:
            host = marked_reaches("127.0.0.1", port) or marked_reaches(HOST_LINK4, port)

        assert not host
        assert not any(marked_reaches(address, TCP_PORT) for address in (*FORBIDDEN4, slot.address))
        assert marked_reaches(PUBLIC4, TCP_PORT)
        assert probe_from_host(FORBIDDEN4[0])
