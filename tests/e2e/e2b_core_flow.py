"""
What every released E2B client for Python can do with a real sandbox, one after the other.

Run by tests/e2e/test_e2b_older.py in a process of its own, with whichever version of the client is there;
so nothing here may be newer than the oldest of them.
"""

import asyncio
import os
import sys
from importlib.metadata import version

from e2b import AsyncSandbox, CommandExitException, NotFoundException, Sandbox, TimeoutException
from e2b.sandbox.commands.command_handle import PtySize


def raised(kind, call, *args, **kwargs):
    """Return the exception that a call must raise."""
    try:
        call(*args, **kwargs)
    except kind as error:
        return error
    raise AssertionError(f"{call} did not raise {kind}")


def commands(sandbox):
    run = sandbox.commands.run
    result = run("echo out; echo err >&2", envs={"A": "b"}, cwd="/tmp")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)
    assert raised(CommandExitException, run, "exit 3").exit_code == 3
    raised(TimeoutException, run, "sleep 30", timeout=1)
    came = []
    run("for i in 1 2 3; do echo $i; sleep 0.1; done", on_stdout=came.append)
    assert "".join(came) == "1\n2\n3\n"

    handle = run("read line; echo got $line", background=True, stdin=True)
    assert handle.pid in [one.pid for one in sandbox.commands.list()]
    sandbox.commands.send_stdin(handle.pid, "word\n")
    assert handle.wait().stdout == "got word\n"
    handle = run("sleep 60", background=True)
    assert sandbox.commands.kill(handle.pid)
    raised(CommandExitException, handle.wait)
    assert run("id -un", user="root").stdout == "root\n"


def files(sandbox):
    sandbox.files.write("notes/hello.txt", "grüezi")
    assert sandbox.files.read("notes/hello.txt") == "grüezi"
    assert bytes(sandbox.files.read("notes/hello.txt", format="bytes")) == "grüezi".encode()
    assert (
        "".join(chunk.decode() for chunk in sandbox.files.read("notes/hello.txt", format="stream"))
        == "grüezi"
    )
    assert [one.name for one in sandbox.files.list("notes")] == ["hello.txt"]
    watch = sandbox.files.watch_dir("notes")
    sandbox.files.rename("notes/hello.txt", "notes/moved.txt")
    assert not sandbox.files.exists("notes/hello.txt")
    assert "moved.txt" in {event.name for event in watch.get_new_events()}
    watch.stop()
    sandbox.files.remove("notes")
    raised(NotFoundException, sandbox.files.read, "notes/moved.txt")


def terminal(sandbox):
    opened = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=20)
    sandbox.pty.send_stdin(opened.pid, b"stty size; exit\n")
    seen = bytearray()
    opened.wait(on_pty=seen.extend)
    assert b"24 80" in seen


def blocking():
    sandbox = Sandbox.create("base", timeout=120, metadata={"a": "b c"}, envs={"GREETING": "hi"})
    try:
        assert sandbox.is_running()
        assert sandbox.commands.run("echo $GREETING").stdout == "hi\n"
        commands(sandbox)
        files(sandbox)
        terminal(sandbox)
        sandbox.set_timeout(300)
        info = sandbox.get_info()
        assert (info.sandbox_id, info.metadata) == (sandbox.sandbox_id, {"a": "b c"})
        assert Sandbox.connect(sandbox.sandbox_id).commands.run("echo here").stdout == "here\n"
        assert sandbox.sandbox_id in {one.sandbox_id for one in Sandbox.list().next_items()}
    finally:
        assert sandbox.kill()
    assert not sandbox.is_running()
    assert not Sandbox.kill(sandbox.sandbox_id)


async def concurrent():
    sandbox = await AsyncSandbox.create("minimal", timeout=120)
    try:
        outputs = await asyncio.gather(*(sandbox.commands.run(f"echo {n}") for n in range(5)))
        assert [one.stdout for one in outputs] == [f"{n}\n" for n in range(5)]
        events = []
        watch = await sandbox.files.watch_dir(".", events.append)
        await sandbox.files.write("seen", "1")
        async with asyncio.timeout(10):
            while "seen" not in {event.name for event in events}:
                await asyncio.sleep(0.05)
        await watch.stop()
    finally:
        assert await sandbox.kill()


if __name__ == "__main__":
    blocking()
    asyncio.run(concurrent())
    sys.stdout.write(f"e2b {version('e2b')} is content\n")
    sys.stdout.flush()
    # A thread of the client's transport may abort the process when the interpreter ends: seen once in ten.
    os._exit(0)
