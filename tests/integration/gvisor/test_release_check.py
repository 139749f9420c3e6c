"""The check of a runsc by running a sandbox: what it finds, and that nothing of it stays."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from support.gvisor import CACHE, GUESTD

from atoll.server.runtimes.gvisor.release import RunscRelease
from atoll.server.runtimes.gvisor.release_check import check
from atoll.server.runtimes.gvisor.steps import ReleaseError

# A machine where nobody has used named namespaces yet: /run is empty, and its mounts are this process's own.
ON_A_FRESH_MACHINE = (
    "mount -t tmpfs none /run && {python} -c '{program}' {arguments} && cat /proc/self/mounts"
)
CHECK = (
    "import asyncio, pathlib, sys; from atoll.server.runtimes.gvisor.release_check import check; "
    "asyncio.run(check(*map(pathlib.Path, sys.argv[1:])))"
)


@pytest.fixture
async def runsc() -> Path:
    return await RunscRelease(CACHE / "runsc", probe=GUESTD.resolve()).ensure()


def test_on_a_machine_without_named_namespaces_it_leaves_no_mount(runsc: Path) -> None:
    script = ON_A_FRESH_MACHINE.format(
        python=sys.executable, program=CHECK, arguments=f"{runsc} {GUESTD.resolve()}"
    )

    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    mounts = [line.split() for line in done.stdout.splitlines()]
    assert [words for words in mounts if words[1].startswith("/run/netns") and words[0] == "none"] == []


async def test_a_program_that_ends_well_and_runs_nothing_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "runsc"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)

    with pytest.raises(ReleaseError, match="a sandbox prints ''"):
        await check(program, GUESTD.resolve())


async def test_checks_at_once_do_not_meet(runsc: Path) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(check(runsc, GUESTD.resolve()))
