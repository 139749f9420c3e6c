"""What ports/runtime.py promises of checkpoints, for every runtime."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.hosts import HOSTS, LIMITS, RuntimeHost

from atoll.server.domain.checkpoint import Checkpoint, CheckpointKind
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId, new_sandbox_id
from atoll.server.domain.machine import Machine, MachineEnded, MachineSpec
from atoll.server.ports.runtime import Runtime

MEMORY, FILES = CheckpointKind.MEMORY, CheckpointKind.FILES


@pytest.fixture(params=list(HOSTS))
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with HOSTS[request.param](tmp_path / "home") as made:
        yield made
        async with opened(made) as runtime:
            for sandbox_id in await runtime.remains():
                await runtime.destroy(sandbox_id)
            assert list(await runtime.remains()) == []


@pytest.fixture
async def runtime(host: RuntimeHost) -> AsyncIterator[Runtime]:
    async with opened(host) as runtime:
        yield runtime


@asynccontextmanager
async def opened(host: RuntimeHost) -> AsyncIterator[Runtime]:
    runtime = host.make()
    await runtime.open()
    try:
        yield runtime
    finally:
        await runtime.close()


def spec(host: RuntimeHost, sandbox_id: SandboxId | None = None, **changes: Any) -> MachineSpec:
    sandbox_id = sandbox_id or new_sandbox_id()
    values: dict[str, Any] = {
        "sandbox_id": sandbox_id,
        "template_id": host.template,
        "hostname": sandbox_id,
        "limits": LIMITS,
        "egress": EgressPolicy(internet=False),
    }
    return MachineSpec(**{**values, **changes})


async def started(host: RuntimeHost, runtime: Runtime, text: str = "kept") -> Machine:
    machine = await runtime.start(spec(host))
    await host.remember(machine, text)
    return machine


async def paused(host: RuntimeHost, runtime: Runtime, into: Path, kind: CheckpointKind = MEMORY) -> Machine:
    machine = await started(host, runtime)
    await runtime.checkpoint(machine.sandbox_id, into, kind=kind, leave_running=False)
    return machine


async def test_a_machine_goes_on_beside_what_is_made_of_it(
    host: RuntimeHost, runtime: Runtime, tmp_path: Path
) -> None:
    origin = tmp_path / "one"
    parent = await started(host, runtime)

    checkpoint = await runtime.checkpoint(parent.sandbox_id, origin, kind=MEMORY, leave_running=True)
    children = [await runtime.restore(spec(host), origin) for _ in range(2)]

    assert checkpoint.address == parent.address
    assert checkpoint.template_id == host.template
    assert checkpoint.size == sum(file.stat().st_size for file in origin.iterdir() if file.stem != "manifest")
    assert len({machine.address for machine in (parent, *children)}) == 3
    for number, machine in enumerate((parent, *children)):
        assert await host.recall(machine) == ("kept", "kept")
        await host.remember(machine, f"mine {number}")
    for number, machine in enumerate((parent, *children)):
        assert await host.recall(machine) == (f"mine {number}",) * 2


async def test_only_the_slot_stays_of_a_machine_that_is_written_down_and_ended(
    host: RuntimeHost, runtime: Runtime, tmp_path: Path
) -> None:
    machine = await paused(host, runtime, tmp_path / "one")

    assert (await runtime.observe()).machines == ()
    assert (await runtime.observe()).ended == ()
    assert list(await runtime.remains()) == [machine.sandbox_id]
    with pytest.raises(NotFoundError):
        await runtime.usage(machine.sandbox_id)
    with pytest.raises(NotFoundError):
        await runtime.checkpoint(machine.sandbox_id, tmp_path / "two", kind=MEMORY, leave_running=False)
    # Its end is no event: the first one that comes is another's.
    other = await runtime.start(spec(host))
    await host.end(runtime, other.sandbox_id)
    async with asyncio.timeout(30):
        async for event in runtime.events():
            assert isinstance(event, MachineEnded)
            assert event.sandbox_id == other.sandbox_id
            break


async def looked_over(host: RuntimeHost, runtime: Runtime, machine: Machine) -> None:
    """Let the runtime work on something else meanwhile, and see that nothing of this machine counts."""
    other = await runtime.start(spec(host))
    assert [one.sandbox_id for one in (await runtime.observe()).machines] == [other.sandbox_id]
    assert (await runtime.observe()).ended == ()
    assert sorted(await runtime.remains()) == sorted([machine.sandbox_id, other.sandbox_id])
    with pytest.raises(NotFoundError):
        await runtime.usage(machine.sandbox_id)
    await runtime.destroy(other.sandbox_id)


@pytest.mark.parametrize("verb", ["restore", "abandon", "destroy", "close"])
async def test_who_wants_a_sandbox_waits_for_the_end_of_what_it_was(
    host: RuntimeHost, tmp_path: Path, verb: str
) -> None:
    async with opened(host) as runtime:
        machine = await started(host, runtime)
        calls = {
            "restore": lambda: runtime.restore(spec(host, machine.sandbox_id), tmp_path / "one"),
            "abandon": lambda: runtime.abandon(machine.sandbox_id),
            "destroy": lambda: runtime.destroy(machine.sandbox_id),
            "close": runtime.close,
        }
        with host.holding(runtime, machine.sandbox_id):
            await runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=False)
            waiting = asyncio.ensure_future(calls[verb]())
            if verb != "close":
                await looked_over(host, runtime, machine)
            assert not waiting.done()
        outcome = await waiting

        if verb == "restore":
            assert outcome == machine
            assert await host.recall(machine) == ("kept", "kept")
        if verb == "abandon":
            assert await runtime.restore(spec(host, machine.sandbox_id), tmp_path / "one") == machine
        if verb == "destroy":
            assert list(await runtime.remains()) == []


async def test_it_comes_back_with_its_address_again_and_again(
    host: RuntimeHost, runtime: Runtime, tmp_path: Path
) -> None:
    machine = await started(host, runtime)
    for number in range(3):
        origin = tmp_path / str(number)
        await runtime.checkpoint(machine.sandbox_id, origin, kind=MEMORY, leave_running=False)

        assert await runtime.restore(spec(host, machine.sandbox_id), origin) == machine

        assert await host.recall(machine) == ("kept" * (number + 1),) * 2
        assert [one.sandbox_id for one in (await runtime.observe()).machines] == [machine.sandbox_id]
        await host.remember(machine, "kept" * (number + 2))


async def test_a_checkpoint_of_files_is_without_memory(
    host: RuntimeHost, runtime: Runtime, tmp_path: Path
) -> None:
    machine = await paused(host, runtime, tmp_path / "one", FILES)

    child = await runtime.restore(spec(host), tmp_path / "one")
    again = await runtime.restore(spec(host, machine.sandbox_id), tmp_path / "one")

    assert again == machine
    assert await host.recall(child) == ("", "kept")
    assert await host.recall(again) == ("", "kept")


async def test_the_next_object_restores_what_an_earlier_one_wrote(host: RuntimeHost, tmp_path: Path) -> None:
    async with opened(host) as runtime:
        machine = await paused(host, runtime, tmp_path / "one")

    successor = host.make()
    assert list(await successor.open()) == []
    try:
        assert list(await successor.remains()) == [machine.sandbox_id]
        assert await successor.restore(spec(host, machine.sandbox_id), tmp_path / "one") == machine
        assert await host.recall(machine) == ("kept", "kept")
    finally:
        await successor.close()


async def test_a_machine_that_ended_unseen_is_not_in_the_way_of_its_sandbox(
    host: RuntimeHost, tmp_path: Path
) -> None:
    async with opened(host) as runtime:
        machine = await started(host, runtime)
        await runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=True)
    await host.end_unseen(machine.sandbox_id)

    async with opened(host) as successor:
        assert await successor.restore(spec(host, machine.sandbox_id), tmp_path / "one") == machine
        assert await host.recall(machine) == ("kept", "kept")


async def test_who_cannot_be_written_down_runs_on(
    host: RuntimeHost, runtime: Runtime, tmp_path: Path
) -> None:
    machine = await started(host, runtime)
    (tmp_path / "taken").mkdir()

    for leave_running in (True, False):
        for kind in (MEMORY, FILES):
            with pytest.raises(AlreadyExistsError):
                await runtime.checkpoint(
                    machine.sandbox_id, tmp_path / "taken", kind=kind, leave_running=leave_running
                )
            with pytest.raises(UnavailableError):
                await runtime.checkpoint(
                    machine.sandbox_id, tmp_path / "no" / "place", kind=kind, leave_running=leave_running
                )

    assert await host.recall(machine) == ("kept", "kept")
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["taken"]
    with pytest.raises(NotFoundError):
        await runtime.checkpoint(new_sandbox_id(), tmp_path / "one", kind=MEMORY, leave_running=True)


async def test_a_machine_that_has_ended_is_not_written_down(
    host: RuntimeHost, runtime: Runtime, tmp_path: Path
) -> None:
    machine = await started(host, runtime)
    await host.end(runtime, machine.sandbox_id)
    async with asyncio.timeout(30):
        async for _ in runtime.events():
            break

    with pytest.raises(NotFoundError):
        await runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=False)

    assert not (tmp_path / "one").exists()


async def test_what_is_damaged_is_refused_by_name_and_nothing_runs(
    host: RuntimeHost, runtime: Runtime, tmp_path: Path
) -> None:
    machine = await paused(host, runtime, tmp_path / "one")
    checkpoint = await runtime.seal(tmp_path / "one")
    assert all(file.sha256 for file in checkpoint.files)

    for damage in damages(checkpoint):
        undo = damage(tmp_path / "one")
        fresh = spec(host)
        with pytest.raises(FailedPreconditionError, match="'one' is damaged"):
            await runtime.restore(fresh, tmp_path / "one")
        await runtime.destroy(fresh.sandbox_id)
        undo()

    with pytest.raises(NotFoundError):
        await runtime.restore(spec(host), tmp_path / "nowhere")
    assert list(await runtime.remains()) == [machine.sandbox_id]
    assert (await runtime.observe()).machines == ()
    # None of that did any harm to what is in order again.
    assert await runtime.restore(spec(host, machine.sandbox_id), tmp_path / "one") == machine
    assert await host.recall(machine) == ("kept", "kept")


def damages(checkpoint: Checkpoint) -> list[Any]:
    def changed(name: str, change: Any) -> Any:
        def damage(directory: Path) -> Any:
            path = directory / name
            content = path.read_bytes()
            path.write_bytes(change(content))
            return lambda: path.write_bytes(content)

        return damage

    def middle(content: bytes) -> bytes:
        at = len(content) // 2
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    def elsewhere(content: bytes) -> bytes:
        manifest = json.loads(content)
        manifest["checkpoint"]["files"][0]["name"] = "../home"
        return json.dumps(manifest).encode()

    made = [
        changed("manifest.json", change) for change in (middle, elsewhere, lambda _: b"", lambda _: b"[]")
    ]
    for file in checkpoint.files:
        made.append(changed(file.name, lambda content: content[:-1]))
        made.append(changed(file.name, lambda content: content + b"\0"))
        made.append(changed(file.name, middle))

        def gone(directory: Path, name: str = file.name) -> Any:
            return (directory / name).rename(directory.with_name(name)) and (
                lambda: directory.with_name(name).rename(directory / name)
            )

        made.append(gone)
    return made


async def test_what_belongs_to_something_else_is_refused(
    host: RuntimeHost, runtime: Runtime, tmp_path: Path
) -> None:
    for kind in (MEMORY, FILES):
        await paused(host, runtime, tmp_path / kind, kind)
        wider = replace(LIMITS, disk_bytes=2 * LIMITS.disk_bytes)
        with pytest.raises(FailedPreconditionError, match=f"'{kind}'"):
            await runtime.restore(spec(host, limits=wider), tmp_path / kind)


async def test_who_runs_is_not_restored(host: RuntimeHost, runtime: Runtime, tmp_path: Path) -> None:
    machine = await started(host, runtime)
    await runtime.checkpoint(machine.sandbox_id, tmp_path / "one", kind=MEMORY, leave_running=True)
    await host.remember(machine, "later")

    with pytest.raises(AlreadyExistsError):
        await runtime.restore(spec(host, machine.sandbox_id), tmp_path / "one")

    assert await host.recall(machine) == ("later", "later")


async def test_a_restore_that_went_wrong_is_abandoned_and_tried_again(
    host: RuntimeHost, runtime: Runtime, tmp_path: Path
) -> None:
    machine = await paused(host, runtime, tmp_path / "one")
    await runtime.restore(spec(host, machine.sandbox_id), tmp_path / "one")
    await host.remember(machine, "lost")

    for _ in range(2):
        await runtime.abandon(machine.sandbox_id)

    assert list(await runtime.remains()) == [machine.sandbox_id]
    assert await runtime.restore(spec(host, machine.sandbox_id), tmp_path / "one") == machine
    assert await host.recall(machine) == ("kept", "kept")
    await runtime.abandon(new_sandbox_id())


async def test_destroy_gives_also_the_slot_back_of_a_machine_that_was_written_down(
    host: RuntimeHost, runtime: Runtime, tmp_path: Path
) -> None:
    machine = await paused(host, runtime, tmp_path / "one")

    await runtime.destroy(machine.sandbox_id)

    assert list(await runtime.remains()) == []
    assert await host.recall(await runtime.restore(spec(host), tmp_path / "one")) == ("kept", "kept")


async def test_a_cancelled_checkpoint_leaves_nothing_or_all_of_it(
    host: RuntimeHost, runtime: Runtime, tmp_path: Path
) -> None:
    for number, patience_s in enumerate((0.0, 0.01, 0.03, 0.06, 0.1)):
        machine = await started(host, runtime)
        into = tmp_path / f"{number}"
        saving = asyncio.create_task(
            runtime.checkpoint(machine.sandbox_id, into, kind=MEMORY, leave_running=False)
        )
        await asyncio.wait([saving], timeout=patience_s)
        saving.cancel()
        await asyncio.wait([saving])

        assert not (tmp_path / f".half-{number}").exists()
        if (await runtime.observe()).machines:
            assert await host.recall(machine) == ("kept", "kept")
            await runtime.destroy(machine.sandbox_id)
        else:
            assert await runtime.restore(spec(host, machine.sandbox_id), into) == machine
            assert await host.recall(machine) == ("kept", "kept")
            await runtime.destroy(machine.sandbox_id)


async def test_a_cancelled_restore_leaves_what_abandon_or_destroy_removes(
    host: RuntimeHost, runtime: Runtime, tmp_path: Path
) -> None:
    machine = await paused(host, runtime, tmp_path / "one")
    for patience_s in (0.0, 0.01, 0.03, 0.06, 0.1):
        for sandbox_id in (machine.sandbox_id, new_sandbox_id()):
            restoring = asyncio.create_task(runtime.restore(spec(host, sandbox_id), tmp_path / "one"))
            await asyncio.wait([restoring], timeout=patience_s)
            restoring.cancel()
            await asyncio.wait([restoring])
            if sandbox_id == machine.sandbox_id:
                await runtime.abandon(sandbox_id)
            else:
                await runtime.destroy(sandbox_id)

        assert list(await runtime.remains()) == [machine.sandbox_id]

    assert await runtime.restore(spec(host, machine.sandbox_id), tmp_path / "one") == machine
    assert await host.recall(machine) == ("kept", "kept")


async def test_many_are_restored_at_once(host: RuntimeHost, runtime: Runtime, tmp_path: Path) -> None:
    machine = await paused(host, runtime, tmp_path / "one")
    await runtime.destroy(machine.sandbox_id)

    children = await asyncio.gather(*(runtime.restore(spec(host), tmp_path / "one") for _ in range(4)))

    assert len({child.address for child in children}) == 4
    for child in children:
        assert await host.recall(child) == ("kept", "kept")
