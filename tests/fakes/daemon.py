"""
A sandbox's daemon over processes and files of this machine, as an ASGI app made from the generated stubs.

Enough of guestd's promises to try the SDK against; a directory is its whole filesystem.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from protobuf import Oneof

from atoll._gen.filesystem import filesystem_pb as fs
from atoll._gen.filesystem.filesystem_connect import Filesystem, FilesystemASGIApplication
from atoll._gen.process import process_pb as ps
from atoll._gen.process.process_connect import Process, ProcessASGIApplication


@dataclass
class Running:
    """A process, and the queues of those who listen to it."""

    config: ps.ProcessConfig
    process: asyncio.subprocess.Process
    listeners: list[asyncio.Queue[ps.ProcessEvent]] = field(default_factory=list)


def _event(kind: str, value: Any) -> ps.ProcessEvent:
    one: Any = Oneof(kind, value)
    return ps.ProcessEvent(event=one)


class FakeProcesses(Process):
    """Runs commands for real."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.running: dict[int, Running] = {}
        self.headers: dict[str, str] = {}
        self._pumps: set[asyncio.Task[None]] = set()

    def _find(self, selector: ps.ProcessSelector | None) -> Running:
        pid = selector.selector.value if selector and selector.selector else 0
        if pid not in self.running:
            raise ConnectError(Code.NOT_FOUND, f"process with pid {pid} not found")
        return self.running[pid]

    async def list(self, request: ps.ListRequest, ctx: Any) -> ps.ListResponse:
        infos = [ps.ProcessInfo(pid=pid, config=one.config) for pid, one in self.running.items()]
        return ps.ListResponse(processes=infos)

    async def start(self, request: ps.StartRequest, ctx: Any) -> AsyncIterator[ps.StartResponse]:
        self.headers = dict(ctx.request_headers.allitems())
        config = request.process
        cwd = self.root / config.cwd.lstrip("/")
        if not cwd.is_dir():
            raise ConnectError(Code.INVALID_ARGUMENT, f"cwd '{config.cwd}' does not exist")
        piped, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(
                config.cmd,
                *config.args,
                cwd=cwd,
                # A home of its own: login shells read no profile of this machine.
                env={**os.environ, "HOME": str(self.root), **config.envs},
                stdin=piped if request.stdin or request.pty else nothing,
                stdout=piped,
                stderr=piped,
                start_new_session=True,
            )
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise ConnectError(
                Code.INVALID_ARGUMENT, f"error starting process '{config.cmd}': {reason}"
            ) from error
        one = Running(config, process)
        self.running[process.pid] = one
        pump = asyncio.create_task(self._pump(one, pty=request.pty is not None))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)
        async for event in self._listen(one, ctx.timeout_ms):
            yield ps.StartResponse(event=event)

    async def close(self) -> None:
        """End every command and wait until nothing of it is open."""
        for pid in list(self.running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        if self._pumps:
            await asyncio.wait(set(self._pumps), timeout=10)

    async def connect(self, request: ps.ConnectRequest, ctx: Any) -> AsyncIterator[ps.ConnectResponse]:
        async for event in self._listen(self._find(request.process), ctx.timeout_ms):
            yield ps.ConnectResponse(event=event)

    async def _listen(self, one: Running, timeout_ms: int | None) -> AsyncIterator[ps.ProcessEvent]:
        queue: asyncio.Queue[ps.ProcessEvent] = asyncio.Queue()
        one.listeners.append(queue)
        yield _event("start", ps.ProcessEvent.StartEvent(pid=one.process.pid))
        yield _event("keepalive", ps.ProcessEvent.KeepAlive())
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                while True:
                    event = await queue.get()
                    ended = event.event is not None and event.event.field == "end"
                    yield event
                    if ended:
                        return
        except TimeoutError:
            os.killpg(one.process.pid, signal.SIGKILL)
            raise ConnectError(Code.DEADLINE_EXCEEDED, "the command took too long") from None

    async def _pump(self, one: Running, *, pty: bool) -> None:
        async def copy(kind: str, stream: asyncio.StreamReader) -> None:
            while data := await stream.read(32 * 1024):
                for queue in one.listeners:
                    output: Any = Oneof(kind, data)
                    queue.put_nowait(_event("data", ps.ProcessEvent.DataEvent(output=output)))

        assert one.process.stdout is not None
        assert one.process.stderr is not None
        await asyncio.gather(
            copy("pty" if pty else "stdout", one.process.stdout),
            copy("pty" if pty else "stderr", one.process.stderr),
        )
        code = await one.process.wait()
        status = f"exit status {code}" if code >= 0 else f"signal: {signal.strsignal(-code)}".lower()
        end = ps.ProcessEvent.EndEvent(exit_code=max(code, -1), exited=code >= 0, status=status)
        del self.running[one.process.pid]
        for queue in one.listeners:
            queue.put_nowait(_event("end", end))

    async def send_input(self, request: ps.SendInputRequest, ctx: Any) -> ps.SendInputResponse:
        await self._write(self._find(request.process), request.input)
        return ps.SendInputResponse()

    async def stream_input(
        self, request: AsyncIterator[ps.StreamInputRequest], ctx: Any
    ) -> ps.StreamInputResponse:
        one: Running | None = None
        async for message in request:
            match message.event:
                case Oneof(field="start", value=start):
                    one = self._find(start.process)
                case Oneof(field="data", value=data):
                    assert one is not None
                    await self._write(one, data.input)
        return ps.StreamInputResponse()

    async def _write(self, one: Running, given: ps.ProcessInput | None) -> None:
        stdin = one.process.stdin
        if stdin is None or stdin.is_closing():
            raise ConnectError(Code.INTERNAL, "stdin is closed")
        assert given is not None
        assert given.input is not None
        try:
            stdin.write(given.input.value)
            await stdin.drain()
        except ConnectionError as error:
            raise ConnectError(Code.INTERNAL, "broken pipe") from error

    async def close_stdin(self, request: ps.CloseStdinRequest, ctx: Any) -> ps.CloseStdinResponse:
        stdin = self._find(request.process).process.stdin
        if stdin is not None:
            stdin.close()
        return ps.CloseStdinResponse()

    async def send_signal(self, request: ps.SendSignalRequest, ctx: Any) -> ps.SendSignalResponse:
        os.killpg(self._find(request.process).process.pid, request.signal)
        return ps.SendSignalResponse()

    async def update(self, request: ps.UpdateRequest, ctx: Any) -> ps.UpdateResponse:
        self._find(request.process)
        return ps.UpdateResponse()


class FakeFilesystem(Filesystem):
    """Keeps files in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: asyncio.Queue[fs.FilesystemEvent] = asyncio.Queue()

    def real(self, path: str) -> Path:
        if "\0" in path:
            raise ConnectError(Code.INVALID_ARGUMENT, "path contains NUL")
        return self.root / path.lstrip("/")

    def _entry(self, path: str) -> fs.EntryInfo:
        real = self.real(path)
        if not real.exists():
            raise ConnectError(Code.NOT_FOUND, f"path '{path}' does not exist")
        kind = fs.FileType.DIRECTORY if real.is_dir() else fs.FileType.FILE
        facts = real.stat()
        return fs.EntryInfo(
            name=real.name, path=path, type=kind, size=facts.st_size, mode=facts.st_mode & 0o777
        )

    async def stat(self, request: fs.StatRequest, ctx: Any) -> fs.StatResponse:
        return fs.StatResponse(entry=self._entry(request.path))

    async def list_dir(self, request: fs.ListDirRequest, ctx: Any) -> fs.ListDirResponse:
        self._entry(request.path)
        names = sorted(path.name for path in self.real(request.path).iterdir())
        return fs.ListDirResponse(
            entries=[self._entry(f"{request.path.rstrip('/')}/{name}") for name in names]
        )

    async def make_dir(self, request: fs.MakeDirRequest, ctx: Any) -> fs.MakeDirResponse:
        if self.real(request.path).exists():
            raise ConnectError(Code.ALREADY_EXISTS, "directory already exists")
        self.real(request.path).mkdir(parents=True)
        return fs.MakeDirResponse(entry=self._entry(request.path))

    async def move(self, request: fs.MoveRequest, ctx: Any) -> fs.MoveResponse:
        self._entry(request.source)
        self.real(request.source).rename(self.real(request.destination))
        return fs.MoveResponse(entry=self._entry(request.destination))

    async def remove(self, request: fs.RemoveRequest, ctx: Any) -> fs.RemoveResponse:
        real = self.real(request.path)
        if real.is_dir():
            shutil.rmtree(real)
        else:
            real.unlink(missing_ok=True)
        return fs.RemoveResponse()

    async def watch_dir(self, request: fs.WatchDirRequest, ctx: Any) -> AsyncIterator[fs.WatchDirResponse]:
        self._entry(request.path)
        yield fs.WatchDirResponse(event=Oneof("start", fs.WatchDirResponse.StartEvent()))  # type: ignore[arg-type]
        while True:
            event = await self.events.get()
            yield fs.WatchDirResponse(event=Oneof("filesystem", event))  # type: ignore[arg-type]


class FakeDaemon:
    """All of it as one ASGI app, for whatever carries the header of a sandbox."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes = FakeProcesses(root)
        self.filesystem = FakeFilesystem(root)
        self._apps = {
            "/process.Process/": ProcessASGIApplication(self.processes),
            "/filesystem.Filesystem/": FilesystemASGIApplication(self.filesystem),
        }
        # What the next requests are answered with: (status, body).
        self.refusal: tuple[int, bytes] | None = None
        # Send so many bytes of a file, then cut the connection.
        self.cut_after: int | None = None
        # Send so many messages of a stream, then cut the connection.
        self.cut_stream_after: int | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.refusal is not None:
            await _answer(send, *self.refusal)
            return
        for prefix, app in self._apps.items():
            if scope["path"].startswith(prefix):
                await app(scope, receive, self._cutting(send))
                return
        await self._files(scope, receive, send)

    def _cutting(self, send: Any) -> Any:
        most, sent = self.cut_stream_after, 0
        if most is None:
            return send

        async def send_some(message: Any) -> None:
            nonlocal sent
            sent += 1
            # A server that sees less than a whole answer cuts the connection.
            if sent <= most + 1:
                await send(message)

        return send_some

    async def _files(self, scope: Any, receive: Any, send: Any) -> None:
        path = parse_qs(scope["query_string"].decode())["path"][0]
        real = self.root / path.lstrip("/")
        if scope["method"] == "POST":
            real.parent.mkdir(parents=True, exist_ok=True)
            with real.open("wb") as file:
                more = True
                while more:
                    message = await receive()
                    file.write(message.get("body", b""))
                    more = message.get("more_body", False)
            await _answer(send, 200, b"[]")
        elif not real.is_file():
            await _answer(send, 404, b'{"code": 404, "message": "path does not exist"}')
        else:
            data = real.read_bytes()
            head = [(b"content-length", str(len(data)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            body = data if self.cut_after is None else data[: self.cut_after]
            await send({"type": "http.response.body", "body": body})


async def _answer(send: Any, status: int, body: bytes) -> None:
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
