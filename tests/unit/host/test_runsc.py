"""The wrapper of runsc, on a program that says what it was called with."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from atoll.server.host.runsc import RunOptions, Runsc, RunscError, RunscTimeoutError

SCRIPT = """#!PYTHON
import json, os, sys, time
call = {"argv": sys.argv[1:], "env": sorted(os.environ), "cwd": os.getcwd()}
with open("LOG", "a") as log: log.write(json.dumps(call) + "\\n")
BODY
"""


class Fake:
    """A runsc of our own."""

    def __init__(self, directory: Path, body: str) -> None:
        self.log = directory / "log"
        self.program = directory / "runsc"
        script = SCRIPT.replace("PYTHON", sys.executable).replace("LOG", str(self.log)).replace("BODY", body)
        self.program.write_text(script)
        self.program.chmod(0o755)
        self.runsc = Runsc(self.program, directory / "state", flags=("--network=sandbox",))

    def calls(self) -> list[dict[str, list[str]]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def options(directory: Path, stderr: int) -> RunOptions:
    return RunOptions(
        bundle=directory / "bundle",
        overlay_directory=directory / "overlay",
        overlay_bytes=123,
        stdout=stderr,
        stderr=stderr,
        pid_file=directory / "pid",
        final_metrics=directory / "metrics",
        panic_log=directory / "panic",
        command_log=directory / "commands",
    )


@pytest.fixture
def stderr() -> int:
    return os.memfd_create("stderr")


async def test_run_asks_for_a_sandbox_that_goes_on_alone(tmp_path: Path, stderr: int) -> None:
    fake = Fake(tmp_path, "")

    await fake.runsc.run("c1", options(tmp_path, stderr), timeout_s=10)

    [call] = fake.calls()
    assert call["argv"] == [
        f"--root={tmp_path}/state",
        "--network=sandbox",
        f"--log={tmp_path}/commands",
        f"--panic-log={tmp_path}/panic",
        f"--final-metrics-log={tmp_path}/metrics",
        f"--overlay2=root:dir={tmp_path}/overlay,size=123",
        "run",
        "--detach",
        f"--pid-file={tmp_path}/pid",
        f"--bundle={tmp_path}/bundle",
        "c1",
    ]


async def test_nothing_of_the_servers_environment_is_passed_on(
    tmp_path: Path, stderr: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOLL_SECRET", "x")
    fake = Fake(tmp_path, "")

    await fake.runsc.run("c1", options(tmp_path, stderr), timeout_s=10)

    assert "ATOLL_SECRET" not in fake.calls()[0]["env"]
    assert fake.calls()[0]["cwd"] == "/"


async def test_a_failure_says_command_code_and_the_end_of_the_output(tmp_path: Path, stderr: int) -> None:
    fake = Fake(tmp_path, "sys.stderr.write('x' * 100000 + 'the cause'); sys.exit(128)")

    with pytest.raises(RunscError) as caught:
        await fake.runsc.run("c1", options(tmp_path, stderr), timeout_s=10)

    assert caught.value.code == 128
    assert str(caught.value).endswith("the cause")
    assert "--detach" in str(caught.value)
    assert len(caught.value.output) <= 4096


async def test_a_failure_says_how_the_sentry_crashed(tmp_path: Path, stderr: int) -> None:
    # A file of a fixed size, as a guest may write to it.
    os.ftruncate(stderr, 64 * 1024)
    fake = Fake(tmp_path, "sys.stderr.write('Restore failed: EOF\\n'); sys.exit(128)")
    (tmp_path / "panic").write_text("panic: the cause\n" + "goroutine 1\n" * 10_000)

    with pytest.raises(RunscError) as caught:
        await fake.runsc.restore("c1", options(tmp_path, stderr), timeout_s=10)

    assert caught.value.output.startswith("Restore failed: EOF\n\npanic: the cause\n")
    assert len(caught.value.output) <= 2 * 4096


async def test_a_call_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    fake = Fake(tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(1000)")

    with pytest.raises(RunscTimeoutError):
        await fake.runsc.state("c1", timeout_s=1)

    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_call_that_is_cancelled_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    os.mkfifo(pid)
    fake = Fake(tmp_path, f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(1000)")
    call = asyncio.ensure_future(fake.runsc.state("c1", timeout_s=100))
    number = int(await asyncio.to_thread(pid.read_text))

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


async def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunscError, match="No such file"):
        await Runsc(tmp_path / "none", tmp_path).version(timeout_s=1)


@pytest.mark.parametrize(
    ("output", "version"),
    [("runsc version 20260905.0\\nspec: 1.2.1\\n", "20260905.0"), ("runsc version \\n", ""), ("hello", "")],
)
async def test_the_version_is_what_the_program_says(tmp_path: Path, output: str, version: str) -> None:
    fake = Fake(tmp_path, f"sys.stdout.write('{output}')")

    assert await fake.runsc.version(timeout_s=10) == version


async def test_what_a_full_disk_left_out_of_its_words_is_not_shown(tmp_path: Path) -> None:
    hole = "sys.stderr.flush(); os.lseek(2, 1024, 0); sys.stderr.write('the end')"
    fake = Fake(tmp_path, f"sys.stderr.write('the beginning, '); {hole}; sys.stderr.flush(); sys.exit(1)")

    with pytest.raises(RunscError, match="the beginning, the end"):
        await fake.runsc.state("c1", timeout_s=10)


def test_state_is_found_and_removed_by_id(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    for name in ("a_sandbox:a.state", "a_sandbox:a.lock", "runsc-a.sock", "b_sandbox:b.lock", "null-netns"):
        (state / name).write_text("")
    runsc = Runsc(Path("/runsc"), state)
    assert runsc.containers() == {"a", "b"}

    runsc.remove_state("a")
    runsc.remove_state("a")

    assert runsc.containers() == {"b"}
    assert sorted(path.name for path in state.iterdir()) == ["b_sandbox:b.lock", "null-netns"]


def test_no_state_directory_has_no_containers(tmp_path: Path) -> None:
    assert Runsc(Path("/runsc"), tmp_path / "none").containers() == set()
