"""How the interpreter reads what a kernel sends; Jupyter is played: it is in the template only."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

SOURCE = Path(__file__).parents[3] / "templates/code-interpreter-v1/files/opt/interpreter"
JUPYTER = (
    "zmq",
    "zmq.asyncio",
    "jupyter_client",
    "jupyter_client.asynchronous",
    "jupyter_client.asynchronous.client",
    "jupyter_client.kernelspec",
    "jupyter_client.manager",
)


class Channel:
    """A socket of a kernel, and what belongs to it; what waits in it is read by ``Kernel``."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[list[bytes] | Exception] = asyncio.Queue()
        self.socket = self.session = self

    async def recv_multipart(self) -> list[bytes]:
        frames = await self.waiting.get()
        if isinstance(frames, Exception):
            raise frames
        return frames

    def feed_identities(self, frames: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        return [], frames

    def deserialize(self, frames: list[bytes], *, content: bool) -> Any:
        header, packed = frames
        return {**json.loads(header), "content": json.loads(packed) if content else packed}

    def say(self, kind: str, content: Any, parent: str) -> None:
        header = {"msg_type": kind, "parent_header": {"msg_id": parent}}
        self.waiting.put_nowait([json.dumps(header).encode(), json.dumps(content).encode()])


class Played:
    """A kernel: answers what it is asked for itself, and leaves cells to the test."""

    def __init__(self, **_: Any) -> None:
        self.shell_channel, self.iopub_channel = Channel(), Channel()
        self.is_mute = False
        self._numbers = count(1)
        self.provisioner = SimpleNamespace(process=SimpleNamespace(pid=0))
        type(self).last = self

    last: "Played"

    async def start_kernel(self, *, cwd: str, **_: Any) -> None:
        if cwd == "/gone":
            raise FileNotFoundError(2, "No such file or directory", cwd)

    async def shutdown_kernel(self, *, now: bool) -> None:
        assert now

    def client(self, **_: Any) -> "Played":
        return self

    def start_channels(self, **_: Any) -> None:
        pass

    def stop_channels(self) -> None:
        pass

    def kernel_info(self) -> str:
        message_id = self.execute("")
        self.reply(message_id, {"status": "ok"})
        if not self.is_mute:
            self.idle(message_id)
        return message_id

    def execute(self, _code: str, **_: Any) -> str:
        return str(next(self._numbers))

    def reply(self, message_id: str, content: Any) -> None:
        self.shell_channel.say("execute_reply", content, message_id)

    def idle(self, message_id: str) -> None:
        self.iopub_channel.say("status", {"execution_state": "idle"}, message_id)


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the parts imported anew, with a Jupyter that is played, and forgotten."""
    others = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "interpreter"}
    for name in others:
        del sys.modules[name]
    for name in JUPYTER:
        module: Any = ModuleType(name)
        module.AsyncKernelClient = module.AsyncKernelManager = Played
        module.KernelSpecManager = module.Context = SimpleNamespace
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["zmq"].asyncio = sys.modules["zmq.asyncio"]  # type: ignore[attr-defined]
    monkeypatch.syspath_prepend(str(SOURCE))
    module = part("kernel")
    monkeypatch.setattr(module, "_context", lambda: None)
    monkeypatch.setattr(module.Kernel, "_watch", lambda _self: None)
    monkeypatch.setattr(part("limits"), "STRAGGLER_S", 0.05)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "interpreter"]:
        del sys.modules[name]
    sys.modules.update(others)


def part(name: str) -> Any:
    return import_module(f"interpreter.{name}")


@pytest.fixture
async def kernel() -> AsyncIterator[Any]:
    """Python's kernel, running."""
    started = await running("python")
    yield started
    await started.kill()


async def running(language: str) -> Any:
    started = part("kernel").Kernel(part("languages").find(language), "/tmp")
    await started.start()
    return started


def asked(kernel: Any) -> tuple[Any, list[Any], Played]:
    """Ask for a cell; return it, what its client is told, and the kernel's other side."""
    told: list[Any] = []
    return kernel.execute("1", told.append), told, Played.last


async def over(kernel: Any, request: Any) -> None:
    async with asyncio.timeout(5):
        await kernel.done(request)


async def test_a_kernel_whose_directory_is_gone_does_not_start() -> None:
    with pytest.raises(part("kernel").KernelEndedError, match="/gone"):
        await part("kernel").Kernel(part("languages").find("python"), "/gone").start()


@pytest.mark.parametrize(
    "odd",
    [
        [b"rubbish"],
        ("display_data", {"data": [1], "metadata": {}}),
        ("error", {"traceback": 5}),
        ("stream", [1]),
        ("status", 5),
    ],
)
async def test_a_message_that_is_none_does_not_end_the_reading(kernel: Any, odd: Any) -> None:
    request, told, played = asked(kernel)
    for channel in (played.iopub_channel, played.shell_channel):
        if isinstance(odd, list):
            channel.waiting.put_nowait(odd)
        else:
            channel.say(*odd, request.id)
    played.iopub_channel.say("stream", {"name": "stdout", "text": "after"}, request.id)
    played.reply(request.id, {"status": "ok"})
    played.idle(request.id)

    await over(kernel, request)

    assert [(item["type"], item["text"]) for item in told] == [("stdout", "after")]


@pytest.mark.parametrize("channel", ["iopub_channel", "shell_channel"])
async def test_a_kernel_that_cannot_be_read_any_more_is_none(kernel: Any, channel: str) -> None:
    request, _, played = asked(kernel)
    getattr(played, channel).waiting.put_nowait(OSError("the socket is broken"))

    with pytest.raises(part("kernel").KernelEndedError, match="socket is broken"):
        await over(kernel, request)
    assert kernel.ended.is_set()


async def test_a_failure_that_only_the_reply_tells_of_is_told(kernel: Any) -> None:
    request, told, played = asked(kernel)
    played.reply(
        request.id, {"status": "error", "ename": "ValueError", "evalue": "?", "traceback": ["a", "b"]}
    )
    played.idle(request.id)

    await over(kernel, request)

    assert told == [{"type": "error", "name": "ValueError", "value": "?", "traceback": "a\nb"}]


@pytest.mark.parametrize("reply", [{"status": "aborted"}, {"status": "error", "traceback": 5}, {}, [1]])
async def test_a_reply_that_is_not_of_success_is_an_error(kernel: Any, reply: Any) -> None:
    request, told, played = asked(kernel)
    played.reply(request.id, reply)
    played.idle(request.id)

    await over(kernel, request)

    assert [(item["type"], item["name"]) for item in told] == [("error", "ExecutionFailed")]


async def test_a_failure_is_told_once(kernel: Any) -> None:
    request, told, played = asked(kernel)
    failure = {"ename": "ValueError", "evalue": "?", "traceback": []}
    played.iopub_channel.say("error", failure, request.id)
    played.reply(request.id, {"status": "error", **failure})
    played.idle(request.id)

    await over(kernel, request)

    assert [item["name"] for item in told] == ["ValueError"]


async def test_a_cell_without_a_reply_has_failed(kernel: Any) -> None:
    request, told, played = asked(kernel)
    played.idle(request.id)

    await over(kernel, request)

    assert [(item["type"], item["name"]) for item in told] == [("error", "ExecutionFailed")]
    assert not kernel.ended.is_set()


async def test_a_bash_without_a_reply_to_an_interrupted_cell_is_replaced() -> None:
    kernel = await running("bash")
    request, told, played = asked(kernel)
    request.abandoned = True
    played.idle(request.id)

    with pytest.raises(part("kernel").KernelEndedError, match="interrupted"):
        await over(kernel, request)
    assert kernel.ended.is_set()
    assert told == []
    await kernel.kill()


async def test_a_python_that_an_interrupt_caught_on_its_way_to_the_reply_is_kept(kernel: Any) -> None:
    request, told, played = asked(kernel)
    request.abandoned = True
    played.idle(request.id)

    await over(kernel, request)

    assert not kernel.ended.is_set()
    assert told == []


async def test_output_that_was_lost_is_told(kernel: Any) -> None:
    request, told, played = asked(kernel)
    played.reply(request.id, {"status": "ok"})

    await over(kernel, request)

    (item,) = told
    assert item["type"] == "stderr"
    assert "lost" in item["text"]
    assert not kernel.ended.is_set()


async def test_a_kernel_that_is_not_heard_any_more_is_replaced(kernel: Any) -> None:
    request, _, played = asked(kernel)
    played.is_mute = True
    played.reply(request.id, {"status": "ok"})

    with pytest.raises(part("kernel").KernelEndedError, match="not heard"):
        await over(kernel, request)
    assert kernel.ended.is_set()


@pytest.mark.parametrize(
    "content",
    [
        {"data": {"application/json": ["x" * 2000]}},
        {"data": {"text/x-mine": "x" * 2000}},
        {"data": {"e2b/data": {"x" * 2000: 1}}},
    ],
)
async def test_output_is_weighed_whatever_it_is(
    kernel: Any, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    monkeypatch.setattr(part("limits"), "OUTPUT_BYTES", 3000)
    request, told, played = asked(kernel)
    for _ in range(4):
        played.iopub_channel.say("display_data", content, request.id)

    async with asyncio.timeout(5):
        await request.flooded.wait()

    assert [item.get("name") for item in told] == [None, "OutputLimitExceeded"]


async def test_a_message_that_is_too_much_is_not_even_parsed(
    kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part("limits"), "OUTPUT_BYTES", 3000)
    request, told, played = asked(kernel)
    header = {"msg_type": "display_data", "parent_header": {"msg_id": request.id}}
    played.iopub_channel.waiting.put_nowait([json.dumps(header).encode(), b"no JSON" * 1000])

    async with asyncio.timeout(5):
        await request.flooded.wait()

    assert [item.get("name") for item in told] == ["OutputLimitExceeded"]


async def test_a_kernel_whose_exception_is_too_much_is_kept(
    kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part("limits"), "OUTPUT_BYTES", 3000)
    request, told, played = asked(kernel)
    failure = {"ename": "ValueError", "evalue": "x" * 3000, "traceback": []}
    played.iopub_channel.say("error", failure, request.id)
    async with asyncio.timeout(5):
        await request.flooded.wait()
    request.abandoned = True
    played.reply(request.id, {"status": "error", **failure})
    played.idle(request.id)

    await over(kernel, request)

    assert [item["name"] for item in told] == ["OutputLimitExceeded"]
    assert not kernel.ended.is_set()
