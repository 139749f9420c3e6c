"""Running commands with the SDK, against a fake daemon that runs them on this machine."""

import asyncio
import io
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fakes.live_cloud import LiveCloud

from atoll import (
    AsyncSandbox,
    CommandFailedError,
    ConnectionLostError,
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    Sandbox,
    UnauthenticatedError,
)


async def until_none_runs(sandbox: Any) -> None:
    """Wait for the end of a command that was killed: its status is taken a moment later."""
    async with asyncio.timeout(10):
        while await sandbox.commands.list():
            await asyncio.sleep(0.02)


async def test_output_and_code_come_back(sandbox: Any) -> None:
    result = await sandbox.commands.run("echo out; echo err >&2; exit 3")

    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert repr(result) == "CommandResult(exit_code=3, stdout='out\\n', stderr='err\\n')"


async def test_check_raises_with_the_result(sandbox: Any) -> None:
    with pytest.raises(CommandFailedError, match="exit code 4") as caught:
        await sandbox.commands.run("echo broken >&2; exit 4", check=True)

    assert caught.value.result.exit_code == 4
    assert "broken" in str(caught.value)


async def test_a_list_is_a_program_with_its_arguments(sandbox: Any) -> None:
    result = await sandbox.commands.run(["printf", "%s|", "a b", "$HOME", ""])

    assert result.stdout == "a b|$HOME||"


async def test_env_cwd_and_user_are_passed_on(cloud: LiveCloud, sandbox: Any) -> None:
    (cloud.daemon.root / "work").mkdir()

    result = await sandbox.commands.run("echo $A; pwd", env={"A": "b c"}, cwd="/work", user="root")

    assert result.stdout == f"b c\n{cloud.daemon.root}/work\n"
    assert cloud.daemon.processes.headers["authorization"] == "Basic cm9vdDo="
    assert cloud.daemon.processes.headers["e2b-sandbox-id"] == sandbox.id
    assert cloud.daemon.processes.headers["e2b-sandbox-port"] == "49983"


@pytest.mark.parametrize(
    "bad", [{"cmd": "a\0b"}, {"cmd": []}, {"cmd": [""]}, {"cmd": "x", "env": {"A=B": "c"}},
            {"cmd": "x", "env": {"": "c"}}, {"cmd": "x", "cwd": "a\0"}, {"cmd": "x", "timeout": -1},
            {"cmd": "x", "timeout": float("nan")}, {"cmd": "x", "cwd": "/no/such"}],
)  # fmt: skip
async def test_bad_commands_are_refused(sandbox: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        await sandbox.commands.run(**bad)


async def test_bytes_that_are_not_utf8_are_kept(sandbox: Any) -> None:
    result = await sandbox.commands.run(r"printf '\377\376ok'")

    assert result.stdout_bytes == b"\xff\xfeok"
    assert result.stdout == "\ufffd\ufffdok"


async def test_a_character_cut_in_two_reaches_callbacks_whole(sandbox: Any) -> None:
    seen: list[str] = []

    await sandbox.commands.run(r"printf '\303'; sleep 0.2; printf '\274'", on_stdout=seen.append)

    assert "".join(seen) == "ü"


async def test_half_a_character_at_the_end_is_shown_as_one_that_is_broken(sandbox: Any) -> None:
    seen: list[str] = []

    await sandbox.commands.run(r"printf 'a\303'", on_stdout=seen.append)

    assert "".join(seen) == "a\ufffd"


async def test_output_beyond_the_bound_is_dropped_from_the_result_only(
    sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atoll.sdk.output.Collector.__init__.__defaults__", (1000,))
    seen: list[str] = []

    result = await sandbox.commands.run("head -c 100000 /dev/zero", on_stdout=seen.append)

    assert len(result.stdout_bytes) == 1000
    assert result.truncated
    assert len("".join(seen)) == 100_000


async def test_a_signal_is_said_as_shells_say_it(sandbox: Any) -> None:
    assert (await sandbox.commands.run(["sh", "-c", "kill -9 $$"])).exit_code == 137
    assert (await sandbox.commands.run(["sh", "-c", "kill -15 $$"])).exit_code == 143


async def test_a_timeout_is_an_error(sandbox: Any) -> None:
    with pytest.raises(DeadlineExceededError):
        await sandbox.commands.run("sleep 30", timeout=0.3)


SOURCES: list[Callable[[], Any]] = [
    lambda: "some text",
    lambda: b"some text",
    lambda: io.BytesIO(b"some text"),
    lambda: io.StringIO("some text"),
    lambda: [b"some", b" ", b"text"],
]


@pytest.mark.parametrize("source", SOURCES)
async def test_input_comes_from_anything_that_has_bytes(sandbox: Any, source: Callable[[], Any]) -> None:
    assert (await sandbox.commands.run(["cat"], stdin=source())).stdout == "some text"


async def test_a_lot_of_input_and_output_at_once_does_not_block(sandbox: Any) -> None:
    data = os.urandom(4 << 20)

    result = await sandbox.commands.run(["cat"], stdin=data)

    assert result.stdout_bytes == data


async def test_a_command_that_does_not_read_its_input_ends_well(sandbox: Any) -> None:
    result = await sandbox.commands.run(["head", "-c", "3"], stdin=b"abc" * 1_000_000)

    assert result.stdout == "abc"
    assert result.exit_code == 0


async def test_a_broken_source_of_input_is_the_error_and_the_command_is_killed(sandbox: Any) -> None:
    def source() -> Any:
        yield b"a"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await sandbox.commands.run(["cat"], stdin=source(), check=True)

    await until_none_runs(sandbox)


async def test_no_input_is_an_empty_one(sandbox: Any) -> None:
    assert (await sandbox.commands.run("cat; echo end")).stdout == "end\n"


async def test_a_background_command_is_listed_fed_and_waited_for(sandbox: Any) -> None:
    handle = await sandbox.commands.run("cat; echo end", background=True, stdin=True)
    listed = [process.pid for process in await sandbox.commands.list()]

    await handle.send_stdin("hello\n")
    await handle.close_stdin()
    result = await handle.wait()

    assert listed == [handle.pid]
    assert result.stdout == "hello\nend\n"
    assert "ended with 0" in repr(handle)
    assert await sandbox.commands.list() == []


async def test_iteration_yields_bytes_with_their_origin(sandbox: Any) -> None:
    handle = await sandbox.commands.run("echo a; sleep 0.1; echo b >&2", background=True)

    pieces = [(piece.stream.value, piece.data) async for piece in handle]

    assert pieces == [("stdout", b"a\n"), ("stderr", b"b\n")]
    assert handle.exit_code == 0


async def test_connect_attaches_and_disconnect_lets_it_run(sandbox: Any) -> None:
    first = await sandbox.commands.run("read line; echo got $line", background=True, stdin=True)
    await first.disconnect()

    second = await sandbox.commands.connect(first.pid)
    await first.send_stdin("word\n")

    assert (await second.wait()).stdout == "got word\n"


async def test_kill_says_whether_there_was_something(sandbox: Any) -> None:
    handle = await sandbox.commands.run("sleep 30", background=True)

    assert await handle.kill()
    assert (await handle.wait()).exit_code == 137
    assert not await handle.kill()
    assert not await sandbox.commands.kill(handle.pid)


async def test_a_pid_that_is_not_there_is_not_found(sandbox: Any) -> None:
    with pytest.raises(NotFoundError):
        await sandbox.commands.connect(4_000_000)
    with pytest.raises(InvalidArgumentError):
        await sandbox.commands.connect(-1)


async def test_a_terminal_shows_and_types(sandbox: Any) -> None:
    terminal = await sandbox.pty.create(100, 40, cmd=["cat"])
    await sandbox.pty.resize(terminal.pid, 80, 24)
    await terminal.send_stdin("typed")
    await terminal.close_stdin()

    shown = b"".join([piece.data async for piece in terminal])

    assert shown == b"typed"
    with pytest.raises(InvalidArgumentError):
        await sandbox.pty.create(0, 10)


async def test_a_connection_cut_in_the_middle_is_said(cloud: LiveCloud, sandbox: Any) -> None:
    cloud.daemon.cut_stream_after = 2

    with pytest.raises(ConnectionLostError, match=r"lost|before the command"):
        await sandbox.commands.run("echo a")


async def test_a_sandbox_that_is_gone_is_not_found(cloud: LiveCloud, sandbox: Any) -> None:
    cloud.daemon.refusal = (502, b'{"sandboxId": "x", "message": "The sandbox was not found", "code": 502}')

    with pytest.raises(NotFoundError, match=r"was not found\n.*paused"):
        await sandbox.commands.run("echo a")
    with pytest.raises(NotFoundError, match="was not found"):
        await sandbox.commands.list()
    with pytest.raises(NotFoundError, match="was not found"):
        await sandbox.files.read("x")


async def test_a_refused_token_is_said(cloud: LiveCloud, sandbox: Any) -> None:
    cloud.daemon.refusal = (401, b'{"code": "unauthenticated", "message": "unauthorized access"}')

    with pytest.raises(UnauthenticatedError):
        await sandbox.commands.run("echo a")


async def test_a_callback_that_raises_ends_the_command(sandbox: Any) -> None:
    def explode(_: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await sandbox.commands.run("echo a; sleep 30", on_stdout=explode)

    await until_none_runs(sandbox)


async def test_a_coroutine_can_be_the_callback(cloud: LiveCloud) -> None:
    seen: list[str] = []

    async def later(text: str) -> None:
        await asyncio.sleep(0)
        seen.append(text)

    async with await AsyncSandbox.create(**cloud.options) as sandbox:
        await sandbox.commands.run("echo a", on_stdout=later)

    assert "".join(seen) == "a\n"


async def test_cancellation_is_one_and_ends_the_command(cloud: LiveCloud) -> None:
    async with await AsyncSandbox.create(**cloud.options) as sandbox:
        running = asyncio.create_task(sandbox.commands.run("sleep 30"))
        while not await sandbox.commands.list():
            await asyncio.sleep(0.01)

        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        await until_none_runs(sandbox)


async def test_a_timeout_around_a_call_works(cloud: LiveCloud) -> None:
    async with await AsyncSandbox.create(**cloud.options) as sandbox:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await sandbox.commands.run("sleep 30")


async def test_many_commands_run_at_once(cloud: LiveCloud) -> None:
    async with await AsyncSandbox.create(**cloud.options) as sandbox:
        results = await asyncio.gather(*(sandbox.commands.run(f"echo {n}") for n in range(20)))

    assert [result.stdout for result in results] == [f"{n}\n" for n in range(20)]


def test_threads_share_a_sandbox(cloud: LiveCloud) -> None:
    outputs: list[str] = []
    with Sandbox.create(**cloud.options) as sandbox:
        crowd = [
            threading.Thread(target=lambda: outputs.append(sandbox.commands.run("echo x").stdout))
            for _ in range(8)
        ]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join(20)

    assert outputs == ["x\n"] * 8
