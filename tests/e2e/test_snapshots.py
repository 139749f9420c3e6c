"""Snapshots and forks of real machines, with E2B's released client."""

from typing import Any

import httpx
import pytest
from e2b import AsyncSandbox, NotFoundException, Sandbox, SandboxException

# Prints its pid and counts; a machine that goes on has it at the same pid, further on.
COUNTER = "sh -c 'n=0; while :; do n=$((n+1)); echo $n > /tmp/count; sleep 0.05; done' >/dev/null 2>&1 &"


def counted(sandbox: Sandbox) -> int:
    """Read a count that is whole."""
    return int(sandbox.commands.run("until [ -s /tmp/count ]; do :; done; cat /tmp/count").stdout or 0)


def counting(sandbox: Sandbox) -> bool:
    """Say whether the counter goes on."""
    before = counted(sandbox)
    waiting = f"until [ $(cat /tmp/count || echo 0) -gt {before} ]; do sleep 0.1; done"
    return sandbox.commands.run(waiting, timeout=20).exit_code == 0


def test_what_is_created_from_a_snapshot_goes_on_from_there(client_options: dict[str, Any]) -> None:
    with Sandbox.create("minimal", timeout=300, envs={"A": "1"}, **client_options) as sandbox:
        sandbox.commands.run(COUNTER)
        sandbox.files.write("/home/user/kept", "kept")
        snapshot = sandbox.create_snapshot(name="counting")
        sandbox.files.write("/home/user/kept", "later")
        assert counting(sandbox)
        assert snapshot.names == ["default/counting:default"]

        listed = sandbox.list_snapshots().next_items()
        assert [one.snapshot_id for one in listed] == [snapshot.snapshot_id]
        for reference in (snapshot.snapshot_id, "counting"):
            with Sandbox.create(reference, timeout=300, envs={"B": "2"}, **client_options) as child:
                assert child.files.read("/home/user/kept") == "kept"
                assert counting(child)
                assert child.commands.run("echo $A$B").stdout == "12\n"
                assert child.commands.run("hostname").stdout.strip() == child.sandbox_id
                assert child.commands.run("hostname").stdout != sandbox.commands.run("hostname").stdout
        assert sandbox.files.read("/home/user/kept") == "later"

        assert Sandbox.delete_snapshot(snapshot.snapshot_id, **client_options)
        assert not Sandbox.delete_snapshot(snapshot.snapshot_id, **client_options)
        with pytest.raises((NotFoundException, SandboxException), match="not found"):
            Sandbox.create(snapshot.snapshot_id, **client_options)


def test_a_snapshot_of_files_boots_and_outlives_its_sandbox(client_options: dict[str, Any]) -> None:
    sandbox = Sandbox.create("minimal", timeout=300, **client_options)
    sandbox.commands.run(COUNTER)
    sandbox.files.write("/home/user/kept", "kept")
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = sandbox.commands.run(boot).stdout
    snapshot = sandbox.create_snapshot(mode="filesystem")
    sandbox.kill()

    with Sandbox.create(snapshot.snapshot_id, timeout=300, **client_options) as child:
        assert child.files.read("/home/user/kept") == "kept"
        assert child.commands.run(boot).stdout != before
        assert child.commands.run("pgrep -f tmp/count || echo none").stdout == "none\n"
    assert Sandbox.delete_snapshot(snapshot.snapshot_id, **client_options)


def hardware_address(sandbox: Sandbox) -> str:
    """Ask for it as programs do."""
    siocgifhwaddr, its_place = 0x8927, "[18:24]"
    ask = f"fcntl.ioctl(socket.socket(), {siocgifhwaddr}, b'eth0' + bytes(28)){its_place}.hex()"
    return sandbox.commands.run(f'python3 -c "import fcntl, socket; print({ask})"').stdout.strip()


def test_forks_are_different_machines_that_go_on(client_options: dict[str, Any]) -> None:
    with Sandbox.create("minimal", timeout=300, metadata={"a": "b"}, **client_options) as sandbox:
        sandbox.commands.run(COUNTER)
        forks = sandbox.fork(timeout=120, count=3)
        children = [fork for fork in forks if isinstance(fork, Sandbox)]
        assert len(children) == 3, forks
        try:
            told = set()
            for child in children:
                assert counting(child)
                assert child.get_info().metadata == {"a": "b"}
                seen = "hostname; cat /etc/machine-id; head -c 16 /dev/urandom | base64"
                told.add((*child.commands.run(seen).stdout.split(), hardware_address(child)))
            assert len({word for words in told for word in words}) == 12, told
            assert hardware_address(sandbox) not in {words[-1] for words in told}
            assert counting(sandbox)
        finally:
            for child in children:
                child.kill()
        assert sandbox.list_snapshots().next_items() == []


def test_a_fork_has_a_token_and_an_environment_of_its_own(client_options: dict[str, Any]) -> None:
    with Sandbox.create("minimal", timeout=300, envs={"A": "1"}, **client_options) as sandbox:
        told = "echo $A $E2B_SANDBOX_ID"
        first, second = (one for one in sandbox.fork(timeout=120, count=2) if isinstance(one, Sandbox))
        try:
            all_three = (sandbox, first, second)
            # The same of who was there before, and its own id.
            assert [one.commands.run(told).stdout for one in all_three] == [
                f"1 {one.sandbox_id}\n" for one in all_three
            ]
            tokens = [token(one) for one in all_three]
            assert len(set(tokens)) == 3
            for whose in all_three:
                for shown in tokens:
                    expected = 200 if shown == token(whose) else 401
                    assert asked(client_options, whose, shown) == expected
        finally:
            for child in (first, second):
                child.kill()


def token(sandbox: Sandbox) -> str:
    return str(sandbox.connection_config.sandbox_headers["X-Access-Token"])


def asked(client_options: dict[str, Any], sandbox: Sandbox, shown: str) -> int:
    """Read a file of a sandbox with a token; return the status."""
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983", "X-Access-Token": shown}
    url = f"{client_options['sandbox_url']}/files"
    return httpx.get(url, params={"path": "/etc/hostname"}, headers=headers, timeout=20).status_code


async def test_asyncio_has_them_too(client_options: dict[str, Any]) -> None:
    sandbox = await AsyncSandbox.create("minimal", timeout=120, **client_options)
    try:
        snapshot = await sandbox.create_snapshot()
        assert [one.snapshot_id for one in await sandbox.list_snapshots().next_items()] == [
            snapshot.snapshot_id
        ]
        [fork] = await sandbox.fork()
        assert isinstance(fork, AsyncSandbox), fork
        assert await fork.kill()
        assert await AsyncSandbox.delete_snapshot(snapshot.snapshot_id, **client_options)
    finally:
        await sandbox.kill()
