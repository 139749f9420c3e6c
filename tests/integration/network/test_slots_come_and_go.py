"""Slots are made, held, found again and removed; nothing is left."""

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import textwrap
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from support.network import PUBLIC4, TestHome, acquire, home_record, ip, network_home, probe

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import FailedPreconditionError, Reason, ResourceExhaustedError
from atoll.server.domain.ids import new_sandbox_id
from atoll.server.host import netns
from atoll.server.host.netlink import Netlink
from atoll.server.network import home_network, ranges
from atoll.server.network.names import AddressRange

# A server of its own process, which is killed: opens a pool, takes two slots, tells them, and waits.
SERVER = """
import asyncio, json, sys
from ipaddress import IPv4Network
from pathlib import Path
from atoll.server.domain.ids import new_sandbox_id
from atoll.server.domain.egress import EgressPolicy
from atoll.server.network.home_network import RUN_DIR
from atoll.server.network.names import AddressRange
from atoll.server.network.slots import SlotPool

async def main():
    home = json.loads(sys.argv[1])
    pool = SlotPool(home["id"], AddressRange.of(home["id"], IPv4Network(home["v4"])),
        slots_dir=Path(home["path"]) / "run" / "slots", run_dir=RUN_DIR, dns_port=home["dns"],
        egress_port=1, ready=4)
    await pool.open()
    for internet in (True, False):
        sandbox_id = new_sandbox_id()
        slot = await pool.acquire(sandbox_id, EgressPolicy(internet=internet))
        print(sandbox_id, slot.name, flush=True)
    while len(pool._ready) < 4:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def objects_of(home: TestHome) -> dict[str, list[str]]:
    """List everything in the kernel that carries the home's id."""
    commands = {
        "namespaces": "ip netns list",
        "links": "ip -o link",
        "tables": "nft list tables",
        "routes": "ip route show table all",
        "routes6": "ip -6 route show table all",
    }
    marks = (home.id, str(home.addresses.v4), str(home.addresses.v6), f"metric {home.names.route_priority} ")
    return {
        kind: [line for line in run(command).splitlines() if any(mark in line for mark in marks)]
        for kind, command in commands.items()
    }


def run(command: str) -> str:
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


def the_host() -> str:
    """Describe the host's network, without what belongs to homes that others run meanwhile."""
    commands = ("ip netns list", "ip -o link", "ip route show table all", "ip -6 route show table all",
                "nft list tables", "ip -o addr", "sysctl net.ipv4.ip_forward vm.max_map_count")  # fmt: skip
    text = "\n".join(run(command) for command in commands)
    text = re.sub(r"expires \d+sec|valid_lft \d+sec|preferred_lft \d+sec| \(id: \d+\)", "", text)
    return "\n".join(
        line for line in text.splitlines() if not re.search(r"at[0-9a-f]{6}-|atoll|proto 201", line)
    )


async def until_ready(pool_home: TestHome, count: int) -> None:
    async with asyncio.timeout(10):
        while len([name for name in netns.names() if pool_home.id in name]) < count:
            await asyncio.sleep(0.01)


async def test_a_slot_is_found_by_its_sandbox_until_it_is_released(home: TestHome) -> None:
    async with home.pool() as pool:
        sandbox_id, slot = await acquire(pool)
        held, found = await pool.held(), await pool.find(sandbox_id)
        await pool.release(sandbox_id)

        assert held == {sandbox_id}
        assert found == slot
        assert await pool.held() == frozenset()
        assert await pool.find(sandbox_id) is None
        assert slot.name not in netns.names()


async def test_releasing_again_or_what_was_never_held_is_nothing(home: TestHome) -> None:
    async with home.pool() as pool:
        sandbox_id, _ = await acquire(pool)
        await pool.release(sandbox_id)
        await pool.release(sandbox_id)
        await pool.release(new_sandbox_id())

        assert await pool.held() == frozenset()


async def test_a_crowd_gets_addresses_of_its_own(home: TestHome) -> None:
    async with home.pool() as pool:
        taken = await asyncio.gather(*(acquire(pool) for _ in range(12)))
        addresses = {slot.address for _, slot in taken}
        await asyncio.gather(*(pool.release(sandbox_id) for sandbox_id, _ in taken))

    assert len(addresses) == 12


async def test_a_crowd_that_goes_at_once_leaves_nothing_and_takes_nobody_with_it(home: TestHome) -> None:
    stranger = f"x{home.id}"
    run(f"ip link add {stranger} type veth peer name {stranger}p")
    try:
        async with home.pool() as pool:
            staying = await acquire(pool)
            going = [await acquire(pool) for _ in range(20)]

            await asyncio.gather(*(pool.release(sandbox_id) for sandbox_id, _ in going))

            names = {slot.name for _, slot in going}
            assert names.isdisjoint(netns.names())
            assert await pool.held() == {staying[0]}
            links = set(await asyncio.to_thread(all_links))
            ours = {home.names.number(name) for name in links} - {None}
            assert ours <= {home.names.number(name) for name in netns.names()}
            assert stranger in links
            assert (await probe(staying[1].name, PUBLIC4)).startswith("reached")
    finally:
        run(f"ip link del {stranger}")


def all_links() -> list[str]:
    with Netlink() as netlink:
        return list(netlink.names().values())


async def test_an_address_is_not_given_out_again_soon_not_even_after_a_restart(home: TestHome) -> None:
    async with home.pool() as pool:
        sandbox_id, first = await acquire(pool)
        await pool.release(sandbox_id)
        _, second = await acquire(pool)
    async with home.pool() as pool:
        _, third = await acquire(pool)

    assert len({first.address, second.address, third.address}) == 3


async def test_the_kernel_of_a_slot_that_is_addressed_again_does_not_answer_in_the_sandboxs_stead(
    home: TestHome,
) -> None:
    async with home.pool() as pool:
        sandbox_id, slot = await acquire(pool)
        ip(f"-n {slot.name} addr flush dev eth0")

        await pool.acquire(sandbox_id, EgressPolicy())

        addresses = run(f"ip -n {slot.name} addr show dev eth0")
        local = run(f"ip -n {slot.name} route show table local")
        assert f"inet {slot.address}/32" in addresses
        assert slot.address not in local


async def test_a_used_up_range_says_so_and_recovers(home: TestHome) -> None:
    home.addresses = AddressRange.of(home.id, next(home.addresses.v4.subnets(new_prefix=29)))
    async with home.pool(ready=2) as pool:
        held = [await acquire(pool) for _ in range(4)]
        with contextlib.suppress(ResourceExhaustedError):
            while True:
                held.append(await acquire(pool))
        with pytest.raises(ResourceExhaustedError, match="6 addresses") as refused:
            await acquire(pool)
        assert refused.value.reason is Reason.ADDRESSES_USED_UP
        await pool.release(held[0][0])

        _, again = await acquire(pool)

    assert again.address == held[0][1].address


async def test_a_cancelled_acquire_is_cleaned_by_release(home: TestHome) -> None:
    async with home.pool(ready=0) as pool:
        sandbox_id = new_sandbox_id()
        acquiring = asyncio.create_task(pool.acquire(sandbox_id, EgressPolicy()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        acquiring.cancel()
        await asyncio.gather(acquiring, return_exceptions=True)
        held = await pool.held()
        await pool.release(sandbox_id)

        assert held == {sandbox_id}
        assert objects_of(home)["namespaces"] == []


async def test_half_a_slot_is_removed_like_a_whole_one(home: TestHome) -> None:
    async with home.pool() as pool:
        one, slot = await acquire(pool)
        other, other_slot = await acquire(pool)
        number = home.names.number(slot.name)
        assert number is not None
        ip(f"link del {home.names.veth(number)}")
        ip(f"netns del {other_slot.name}")

        await pool.release(one)
        await pool.release(other)

        assert await pool.held() == frozenset()
        assert slot.name not in netns.names()


async def test_a_killed_servers_slots_are_found_and_its_leavings_removed(home: TestHome) -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(SERVER), home.as_json(), stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        async with asyncio.timeout(20):
            lines = [(await server.stdout.readline()).decode().split() for _ in range(3)]
    finally:
        server.send_signal(signal.SIGKILL)
        await server.wait()
    # And what it had just begun to make.
    ip(f"netns add {home.names.namespace(4001)}")
    ip(f"link add {home.names.veth(4002)} type veth peer name eth0 netns {home.names.namespace(4001)}")
    (netns.DIRECTORY / home.names.namespace(4003)).touch()
    left = objects_of(home)

    async with home.pool(ready=0) as pool:
        held = await pool.held()
        slots = [await pool.find(sandbox_id) for sandbox_id in sorted(held)]
        after = objects_of(home)
        answers = {name: await probe(name, PUBLIC4) for _, name in lines[:2]}

    assert len(left["namespaces"]) == 8
    assert held == {line[0] for line in lines[:2]}
    assert {slot.name for slot in slots if slot} == {line[1] for line in lines[:2]}
    assert len(after["namespaces"]) == len(after["links"]) == 2
    # The fence is as it was, for each of them.
    assert answers[lines[0][1]].startswith("reached")
    assert answers[lines[1][1]].startswith("not reached")


async def test_slots_of_a_machine_that_was_restarted_are_released_without_a_word(home: TestHome) -> None:
    async with home.pool(ready=0) as pool:
        sandbox_id, slot = await acquire(pool)
    number = home.names.number(slot.name)
    assert number is not None
    ip(f"link del {home.names.veth(number)}")
    netns.delete(slot.name)

    async with home.pool(ready=0) as pool:
        held = await pool.held()
        await pool.release(sandbox_id)
        after = await pool.held()

    assert held == {sandbox_id}
    assert after == frozenset()


async def test_teardown_leaves_the_host_as_it_was(tmp_path: Path) -> None:
    before = await asyncio.to_thread(the_host)
    async with network_home(tmp_path) as home:
        pool = home.new_pool()
        await pool.open()
        await acquire(pool)
        await acquire(pool, internet=False)
        await until_ready(home, 6)
        during = objects_of(home)
        await pool.close()
        await home.teardown()
        # Again, and for a home that has nothing any more.
        await home.teardown()

        assert all(during.values()), during
        assert not any(objects_of(home).values())
        assert not home.slots_dir.exists()
    assert await asyncio.to_thread(the_host) == before


async def test_one_home_goes_and_the_other_stays(home: TestHome, tmp_path: Path) -> None:
    async with network_home(tmp_path / "other") as other, home.pool() as pool:
        async with other.pool() as other_pool:
            _, theirs = await acquire(other_pool)
            _, ours = await acquire(pool)
            both = [await probe(slot.name, PUBLIC4) for slot in (theirs, ours)]
        await other.teardown()

        assert not other.addresses.v4.overlaps(home.addresses.v4)
        assert all(answer.startswith("reached") for answer in both)
        assert (await probe(ours.name, PUBLIC4)).startswith("reached")
        assert not any(objects_of(other).values())


async def test_a_home_claims_its_range_again_and_no_other_can(home: TestHome, tmp_path: Path) -> None:
    wanted = home.addresses.v4
    again = await asyncio.to_thread(home_network.prepare, home.id, record=home.record, wanted=wanted)
    async with network_home(tmp_path) as other:
        elsewhere = await asyncio.to_thread(
            home_network.prepare, other.id, record=other.record, wanted=wanted
        )

    assert again.addresses == home.addresses
    assert not elsewhere.addresses.v4.overlaps(wanted)


async def test_a_range_that_the_host_began_to_use_is_reported(home: TestHome) -> None:
    third = list(home.addresses.v4.subnets(new_prefix=24))[-1]
    ip(f"route add blackhole {third}")
    try:
        async with home.pool() as pool:
            await acquire(pool)
            with pytest.raises(FailedPreconditionError, match=re.escape(f"{third} is a route")):
                await asyncio.to_thread(
                    home_network.prepare, home.id, record=home.record, wanted=home.addresses.v4
                )
    finally:
        ip(f"route del blackhole {third}")


async def test_a_home_that_was_down_while_its_range_was_taken_gets_another(
    home: TestHome, tmp_path: Path
) -> None:
    before = home.addresses.v4
    await home.teardown()
    ip(f"route add blackhole {before}")
    try:
        prepared = await asyncio.to_thread(home_network.prepare, home.id, record=home.record, wanted=before)
    finally:
        ip(f"route del blackhole {before}")

    assert not prepared.addresses.v4.overlaps(before)


async def test_homes_that_start_at_once_get_different_ranges(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        homes = await asyncio.gather(
            *(stack.enter_async_context(network_home(tmp_path / str(n))) for n in range(4))
        )
        claimed = {home.addresses.v4 for home in homes}

    assert len(claimed) == 4


def test_a_supernet_that_is_full_is_named(tmp_path: Path) -> None:
    record = home_record("abcdef", tmp_path)
    with Netlink() as netlink, pytest.raises(ResourceExhaustedError, match=r"127\.0\.0\.0/16"):
        ranges.claim("abcdef", netlink, record=record, supernet=IPv4Network("127.0.0.0/16"), run_dir=tmp_path)
