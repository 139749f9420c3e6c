"""The interpreter's server ends when it is told to, and its kernels with it; they are played."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from atoll.server.host.ports import free_port

SOURCE = Path(__file__).parents[2] / "templates/code-interpreter-v1/files/opt/interpreter"

_PROGRAM = """
import asyncio, runpy, sys, types

class Ended(Exception):
    pass

class Kernel:
    def __init__(self, language, cwd):
        self.language, self.ended, self.how = language, asyncio.Event(), ""
    async def start(self):
        print("starts", flush=True)
        try:
            while "slowly" in sys.argv:
                await asyncio.sleep(3600)
        except BaseException:
            await self.kill()
            raise
    def execute(self, code, put, silent=False):
        put({"type": "stdout", "text": "begins"})
        request = types.SimpleNamespace(flooded=asyncio.Event(), abandoned=False)
        return request
    async def done(self, request):
        await self.ended.wait()
        raise Ended("killed")
    async def interrupt(self):
        pass
    async def kill(self):
        self.ended.set()
        print("killed", self.language.name, flush=True)

sys.path.insert(0, sys.argv[1])
module = types.ModuleType("interpreter.kernel")
module.Kernel, module.KernelEndedError = Kernel, Ended
sys.modules["interpreter.kernel"] = module
from interpreter import limits
limits.PORT = int(sys.argv[2])

import uvicorn
startup = uvicorn.Server.startup
async def told(self, sockets=None):
    await startup(self, sockets)
    print("ready", flush=True)
uvicorn.Server.startup = told
runpy.run_module("interpreter", run_name="__main__")
"""


@asynccontextmanager
async def starting(*how: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Start the server, and wait until its first kernel starts."""
    port = free_port()
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROGRAM, str(SOURCE), str(port), *how, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await server.stdout.readline() == b"starts\n"
        yield server, port
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    async with starting() as (server, port):
        assert server.stdout is not None
        async with asyncio.timeout(30):
            assert await server.stdout.readline() == b"ready\n"
        yield server, port


async def health(port: int) -> str:
    answers, asking = await asyncio.open_connection("127.0.0.1", port)
    asking.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(15):
        answer = await answers.read()
    asking.close()
    return answer.decode().rpartition("\r\n")[2]


async def until_it_sleeps(pid: int) -> None:
    """Return when it waits for something to happen."""
    async with asyncio.timeout(15):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "S":
            await asyncio.sleep(0.001)


async def test_it_ends_at_once_where_nothing_goes_on() -> None:
    async with serving() as (server, port):
        assert await health(port) == "OK"
        await until_it_sleeps(server.pid)
        server.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            said, _ = await server.communicate()

    assert server.returncode == 0
    assert said == b"killed python\n"


async def test_it_ends_while_its_first_kernel_starts() -> None:
    async with starting("slowly") as (server, _):
        server.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            said, _ = await server.communicate()

    assert server.returncode == 0
    assert said == b"killed python\n"


async def test_it_ends_while_code_runs_and_a_client_keeps_its_connection() -> None:
    async with serving() as (server, port):
        _, idle = await asyncio.open_connection("127.0.0.1", port)
        answers, asking = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"code": "while True: pass"}'
        asking.write(b"POST /execute HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        async with asyncio.timeout(15):
            await answers.readuntil(b"begins")
        server.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            said, _ = await server.communicate()
        for writer in (idle, asking):
            writer.close()

    assert server.returncode == 0
    assert b"killed python\n" in said


async def test_ctrl_c_is_for_kernels_and_does_not_end_it() -> None:
    async with serving() as (server, port):
        server.send_signal(signal.SIGINT)

        assert await health(port) == "OK"
