"""Memory is restored by the very runsc that wrote it, files alone by today's; two real builds."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.gvisor import CACHE, Host, gvisor_host

from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import FailedPreconditionError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.storage import Kind, Needed
from atoll.server.runtimes import images
from atoll.server.runtimes.gvisor.old_programs import OldPrograms
from atoll.server.runtimes.gvisor.release import GO_VERSION
from atoll.server.runtimes.gvisor.release_sources import compile_runsc
from atoll.server.runtimes.gvisor.steps import ignore

# Compiling gVisor, or at least linking it.
pytestmark = pytest.mark.heavy

MEMORY, FILES = CheckpointKind.MEMORY, CheckpointKind.FILES
LATER = "20991231.0-later"


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build today's source as another version, once for all test runs."""
    program = CACHE / "runsc-for-tests" / LATER / "runsc"
    if not program.exists():
        new = tmp_path_factory.mktemp("runsc")
        asyncio.run(compile_runsc(GO_VERSION, LATER, new, ignore))
        new.chmod(0o755)
        program.parent.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(new, program.parent)
    return program


@pytest.fixture
async def host(tmp_path: Path, later: Path) -> AsyncIterator[Host]:
    """One with both versions side by side, of which the older one is today's."""
    async with gvisor_host() as made:
        await made.runtime.close()
        runscs = made.path / "runsc"
        for name, program in (("today", made.places.runsc), ("later", later)):
            (runscs / name).mkdir(parents=True)
            os.link(program, runscs / name / "runsc")
        made.places = replace(made.places, runsc=runscs / "today" / "runsc", runscs=runscs)
        made.runtime = made.new_runtime()
        await made.runtime.open()
        yield made


async def updated(host: Host, name: str) -> None:
    """Begin anew with another version as today's, as a server does after an update."""
    await host.runtime.close()
    assert host.places.runscs is not None
    host.places = replace(host.places, runsc=host.places.runscs / name / "runsc")
    host.runtime = host.new_runtime()
    await host.runtime.open()


def runs(host: Host, sandbox_id: SandboxId) -> tuple[str, str]:
    """Say which program runs a machine: what is written down, and what the kernel says."""
    return Path(host.record(sandbox_id).runsc).parent.name, Path(host.sentry(sandbox_id).exe()).parent.name


async def test_an_update_leaves_what_was_written_down_resumable(host: Host, tmp_path: Path) -> None:
    machine = await host.start()
    await host.command(machine, "sh", "-c", "echo kept > /dev/shm/text; echo kept > /root/text")
    spec = replace(host.spec(), sandbox_id=machine.sandbox_id)
    files = await host.start()
    await host.command(files, "sh", "-c", "echo kept > /root/text")
    await host.runtime.checkpoint(files.sandbox_id, tmp_path / "files", kind=FILES, leave_running=False)
    first = await host.runtime.checkpoint(
        machine.sandbox_id, tmp_path / "1", kind=MEMORY, leave_running=False
    )

    await updated(host, "later")
    for number in (1, 2):
        await host.runtime.restore(spec, tmp_path / f"{number}")
        assert runs(host, machine.sandbox_id) == ("today", "today")
        assert (await host.command(machine, "cat", "/dev/shm/text", "/root/text")).stdout == "kept\n" * 2
        # Written down again by the one that runs it, whatever is today's.
        again = await host.runtime.checkpoint(
            machine.sandbox_id, tmp_path / f"{number + 1}", kind=MEMORY, leave_running=False
        )
        assert again.runtime_version == first.runtime_version
    # What boots needs no old program.
    booted = await host.runtime.restore(host.spec(), tmp_path / "files")
    assert runs(host, booted.sandbox_id) == ("later", "later")
    assert host.record(booted.sandbox_id).runsc_version == LATER
    await host.configure(booted)
    assert (await host.command(booted, "cat", "/root/text")).stdout == "kept\n"

    new = await host.start()
    assert runs(host, new.sandbox_id) == ("later", "later")
    await host.runtime.checkpoint(new.sandbox_id, tmp_path / "new", kind=MEMORY, leave_running=True)
    await updated(host, "today")
    child = await host.runtime.restore(host.spec(), tmp_path / "new")
    assert runs(host, child.sandbox_id) == ("later", "later")
    # One that runs on is told what to do by the one that runs it.
    assert await host.runtime.answers(new.sandbox_id)


async def test_without_the_version_that_wrote_it_it_is_refused_by_name(host: Host, tmp_path: Path) -> None:
    machine = await host.start()
    for kind in (MEMORY, FILES):
        await host.runtime.checkpoint(machine.sandbox_id, tmp_path / kind, kind=kind, leave_running=True)
    version = images.read(tmp_path / MEMORY).runtime_version
    await host.runtime.destroy(machine.sandbox_id)
    await updated(host, "later")
    assert host.places.runscs is not None
    moved = (host.places.runscs / "today").rename(host.path / "elsewhere")

    with pytest.raises(FailedPreconditionError, match=f"'{MEMORY}' belongs to runsc {version}") as caught:
        await host.runtime.restore(host.spec(), tmp_path / MEMORY)
    assert LATER in str(caught.value.details)
    assert str(host.places.runscs) in str(caught.value.resolution)
    booted = await host.runtime.restore(host.spec(), tmp_path / FILES)
    assert runs(host, booted.sandbox_id) == ("later", "later")

    # Put back under whatever name.
    moved.rename(host.places.runscs / "back")
    child = await host.runtime.restore(host.spec(), tmp_path / MEMORY)
    assert runs(host, child.sandbox_id) == ("back", "back")


async def test_a_version_goes_when_nothing_needs_it(host: Host, tmp_path: Path) -> None:
    checkpoints = host.path / "checkpoints"
    checkpoints.mkdir()
    machine = await host.start()
    (host.places.guestds / "old").write_bytes(b"old")

    async def nothing() -> Needed:
        return Needed()

    async def collect() -> set[tuple[Kind, str]]:
        assert host.places.runscs is not None
        collector = OldPrograms(
            places=host.places, programs=host.runtime.programs, checkpoints=checkpoints, shared=False
        )
        dry = await collector.collect(nothing, dry=True)
        found = await collector.collect(nothing, dry=False)
        assert found == dry
        assert found.problems == ()
        return {(one.kind, one.name) for one in found.leftovers}

    # Without a manifest it needs nothing.
    (checkpoints / "stray").mkdir()
    await updated(host, "later")
    assert await collect() == {(Kind.GUESTD, "old")}
    await host.runtime.checkpoint(machine.sandbox_id, checkpoints / "files", kind=FILES, leave_running=True)
    await host.runtime.checkpoint(machine.sandbox_id, checkpoints / "one", kind=MEMORY, leave_running=False)
    assert await collect() == set()
    child = await host.runtime.restore(host.spec(), checkpoints / "one")
    shutil.rmtree(checkpoints / "one")
    assert await collect() == set()
    await host.runtime.destroy(child.sandbox_id)
    assert await collect() == {(Kind.RUNSC, "today")}
    assert [path.name for path in (host.path / "runsc").iterdir() if path.is_dir()] == ["later"]
    assert await collect() == set()
