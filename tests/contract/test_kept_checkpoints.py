"""Every promise of ports/checkpoints.py about second names, with real files."""

import errno
import os
from pathlib import Path

import pytest

from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import NotFoundError, Reason, ResourceExhaustedError
from atoll.server.domain.ids import SandboxId, TemplateId, new_sandbox_id
from atoll.server.domain.limits import Limits
from atoll.server.domain.machine import MachineSpec
from atoll.server.runtimes import images
from atoll.server.runtimes.fake.runtime import FakeRuntime
from atoll.server.runtimes.kept import CheckpointFiles

LIMITS = Limits(cpus=1, memory_bytes=2**20, processes=10, disk_bytes=2**20)


@pytest.fixture
async def kept(tmp_path: Path) -> CheckpointFiles:
    kept = CheckpointFiles(tmp_path / "checkpoints")
    await kept.keep_only(frozenset())
    return kept


async def written(kept: CheckpointFiles, tmp_path: Path, name: str, text: str) -> SandboxId:
    """Write a whole checkpoint, in which a machine remembers a text."""
    runtime, sandbox_id = FakeRuntime(tmp_path / "machines"), new_sandbox_id()
    await runtime.open()
    spec = MachineSpec(
        sandbox_id=sandbox_id,
        template_id=TemplateId("base-1"),
        hostname="host",
        limits=LIMITS,
        egress=EgressPolicy(),
    )
    await runtime.start(spec)
    runtime.remember(sandbox_id, text)
    await runtime.checkpoint(sandbox_id, kept.path(name), kind=CheckpointKind.MEMORY, leave_running=True)
    return sandbox_id


def content(kept: CheckpointFiles, name: str) -> str:
    checkpoint = images.read(kept.path(name))
    for small in (True, False):
        images.verify(kept.path(name), checkpoint, small=small)
    return (kept.path(name) / "memory").read_text()


async def test_either_name_stays_when_the_other_goes(kept: CheckpointFiles, tmp_path: Path) -> None:
    sandbox_id = await written(kept, tmp_path, "first", "kept")
    await kept.link("first", f"{sandbox_id}-1")
    await kept.link("first", f"{sandbox_id}-2")
    assert await kept.names() == {"first", f"{sandbox_id}-1", f"{sandbox_id}-2"}
    assert (kept.path("first") / "memory").stat().st_nlink == 3

    await kept.remove_all(sandbox_id)
    assert await kept.names() == {"first"}
    assert content(kept, "first") == "kept"

    await kept.link("first", "second")
    await kept.remove("first")
    assert content(kept, "second") == "kept"


async def test_a_name_that_is_taken_stands_for_the_new_one(kept: CheckpointFiles, tmp_path: Path) -> None:
    await written(kept, tmp_path, "first", "one")
    await written(kept, tmp_path, "second", "two")

    await kept.link("first", "name")
    await kept.link("second", "name")

    assert content(kept, "name") == "two"
    assert content(kept, "first") == "one"


async def test_a_second_name_that_there_is_no_room_for_is_not_there(
    kept: CheckpointFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(kept, tmp_path, "first", "kept")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", full)
        with pytest.raises(ResourceExhaustedError, match="disk is full") as caught:
            await kept.link("first", "second")

    assert caught.value.reason is Reason.DISK_FULL
    assert [path.name for path in kept.entries()] == ["first"]


async def test_what_is_not_there_has_no_second_name(kept: CheckpointFiles, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        await kept.link("nothing", "name")

    assert await kept.names() == frozenset()
    assert list(kept.path("").iterdir()) == []


async def test_what_a_killed_server_left_half_harms_nobody(kept: CheckpointFiles, tmp_path: Path) -> None:
    sandbox_id = await written(kept, tmp_path, "first", "kept")
    # Killed while a second name was removed, and while one was made.
    await kept.link("first", f"{sandbox_id}-7")
    kept.path(f"{sandbox_id}-7").rename(kept.path(f".half-{sandbox_id}-7"))
    await kept.link("first", "other")
    kept.path("other").rename(kept.path(f".link-{sandbox_id}-8"))
    assert await kept.names() == {"first"}

    # A checkpoint of that name begins with what is there, and cuts it to nothing to free the disk at once.
    images.Half(kept.path(f"{sandbox_id}-7")).make()
    assert content(kept, "first") == "kept"

    await kept.remove_all(sandbox_id)
    assert [path.name for path in kept.path("").iterdir()] == ["first"]
    assert content(kept, "first") == "kept"
