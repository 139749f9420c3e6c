"""What the interpreter's service refuses, and how; its contexts are played."""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

SOURCE = Path(__file__).parents[3] / "templates/code-interpreter-v1/files/opt/interpreter"
LONE = "\ud83d"


class FakeContext:
    """Is started anew, and runs nothing."""

    def __init__(self, cwd: str = "/") -> None:
        self.cwd = cwd
        self.restarts = 0

    def describe(self) -> dict[str, str]:
        return {"cwd": self.cwd}

    async def restart(self) -> None:
        self.restarts += 1


class FakeContexts:
    """Has one context, and makes others."""

    def __init__(self) -> None:
        self.one = FakeContext()

    def get(self, context_id: str) -> FakeContext | None:
        return self.one if context_id == "one" else None

    async def create(self, _language: Any, cwd: str) -> FakeContext:
        return FakeContext(cwd)


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the parts import a kernel that needs no Jupyter; they are imported anew, and forgotten."""
    others = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "interpreter"}
    for name in others:
        del sys.modules[name]
    module: Any = ModuleType("interpreter.kernel")
    module.Kernel, module.KernelEndedError = object, type("KernelEndedError", (Exception,), {})
    monkeypatch.syspath_prepend(str(SOURCE))
    sys.modules["interpreter.kernel"] = module
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "interpreter"]:
        del sys.modules[name]
    sys.modules.update(others)


@pytest.fixture
def contexts() -> FakeContexts:
    return FakeContexts()


@pytest.fixture
async def client(contexts: FakeContexts) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(import_module("interpreter.app").make_app(contexts))
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as asking:
        yield asking


@pytest.mark.parametrize(
    "body",
    [
        {"code": f"print('{LONE}')"},
        {"code": "1", "context_id": LONE},
        {"code": "1", "language": LONE},
        {"code": "1", "env_vars": {"A": LONE}},
    ],
)
async def test_half_a_character_is_refused(client: httpx.AsyncClient, body: Any) -> None:
    answer = await client.post("/execute", content=json.dumps(body))

    assert answer.status_code == 400
    assert "surrogate" in answer.text


async def test_what_is_nested_too_deep_is_refused(client: httpx.AsyncClient) -> None:
    depth = 100_000

    answer = await client.post("/execute", content='{"code":' + "[" * depth + "]" * depth + "}")

    assert (answer.status_code, answer.text) == (400, "the request is not JSON")


@pytest.mark.parametrize("cwd", ["/none", "/none\0", "/" + "n" * 300, "/tmp" + "/." * 10_000, f"/{LONE}"])
async def test_a_directory_that_is_none_is_refused(client: httpx.AsyncClient, cwd: str) -> None:
    answer = await client.post("/contexts", content=json.dumps({"cwd": cwd}))

    assert answer.status_code == 400
    assert len(answer.text) < 300


async def test_a_directory_that_may_not_be_entered_is_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Who runs these tests may be root, who may enter everything.
    monkeypatch.setattr("os.access", lambda _path, _how: False)

    answer = await client.post("/contexts", json={"cwd": str(tmp_path)})

    assert answer.status_code == 400
    assert "cannot be entered" in answer.text


async def test_a_context_whose_directory_is_gone_is_not_restarted(
    client: httpx.AsyncClient, contexts: FakeContexts, tmp_path: Path
) -> None:
    contexts.one.cwd = str(tmp_path / "gone")

    answer = await client.post("/contexts/one/restart")

    assert answer.status_code == 400
    assert "is not a directory" in answer.text
    assert contexts.one.restarts == 0
    contexts.one.cwd = str(tmp_path)
    assert (await client.post("/contexts/one/restart")).status_code == 200
    assert contexts.one.restarts == 1
