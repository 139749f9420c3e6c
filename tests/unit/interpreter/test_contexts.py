"""The interpreter's contexts, with kernels that are played: Jupyter is in the template only."""

import asyncio
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = Path(__file__).parents[3] / "templates/code-interpreter-v1/files/opt/interpreter"


class KernelEndedError(Exception):
    """As the real one's."""


class Asked:
    """A request, which is over at once or never."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.flooded = asyncio.Event()
        self.abandoned = False
        self.over = asyncio.Event()
        if not hangs:
            self.over.set()


class FakeKernel:
    """Says what it was asked to run."""

    started: list[str]
    # What it was asked to run.
    ran: list[str]
    broken: set[str]
    # What it does not come to an end with: a piece of code that is run silently.
    hangs_with: str
    heeds_interrupts: bool
    # The code that is its end.
    ends_with: str

    def __init__(self, language: Any, cwd: str) -> None:
        self._language = language
        self.cwd = cwd
        self.ended = asyncio.Event()
        self.how = ""
        self._asked: Any = None

    async def start(self) -> None:
        if self._language.name in self.broken:
            raise KernelEndedError("exit code 1")
        self.started.append(self._language.name)

    def execute(self, code: str, put: Any, *, silent: bool = False) -> Asked:
        code.encode()
        self.ran.append(code)
        put({"type": "stdout", "text": code})
        hangs_with = type(self).hangs_with
        self._asked = Asked(hangs=silent and bool(hangs_with) and hangs_with in code)
        return self._asked

    async def done(self, request: Asked) -> None:
        await request.over.wait()
        if type(self).ends_with and self.ran[-1] == type(self).ends_with:
            self.how = "exit code 3"
            self.ended.set()
        if self.ended.is_set():
            raise KernelEndedError(self.how)

    async def interrupt(self) -> None:
        if self.heeds_interrupts:
            self._asked.over.set()

    async def kill(self) -> None:
        self.how = "killed"
        self.ended.set()
        if self._asked is not None:
            self._asked.over.set()


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeKernel]]:
    """Have the parts import a kernel that needs no Jupyter; they are imported anew, and forgotten."""
    others = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "interpreter"}
    for name in others:
        del sys.modules[name]
    module: Any = ModuleType("interpreter.kernel")
    module.Kernel, module.KernelEndedError = FakeKernel, KernelEndedError
    monkeypatch.syspath_prepend(str(SOURCE))
    sys.modules["interpreter.kernel"] = module
    FakeKernel.started, FakeKernel.ran, FakeKernel.broken = [], [], set()
    FakeKernel.hangs_with, FakeKernel.heeds_interrupts, FakeKernel.ends_with = "", True, ""
    yield FakeKernel
    for name in [name for name in sys.modules if name.split(".")[0] == "interpreter"]:
        del sys.modules[name]
    sys.modules.update(others)


def part(name: str) -> Any:
    return import_module(f"interpreter.{name}")


def language(name: str) -> Any:
    return part("languages").find(name)


async def told(context: Any, code: str, env: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """Run code, and return kind and text of what its client is told before the end."""
    items = await said(context.run(code, env or {}))
    return [(item["type"], item.get("text", item.get("name"))) for item in items[:-1]]


async def said(run: Any) -> list[dict[str, Any]]:
    """Return what an execution's client is told."""
    return [json.loads(line) async for batch in run for line in batch]


async def test_a_fresh_sandbox_has_contexts_for_python_and_javascript_and_one_kernel(
    kernels: type[FakeKernel],
) -> None:
    contexts = part("contexts").Contexts()
    await contexts.prepare()

    shown = [context.describe() for context in contexts.list()]
    assert [(one["language"], one["cwd"]) for one in shown] == [
        ("python", "/home/user"),
        ("javascript", "/home/user"),
    ]
    assert kernels.started == ["python"]


async def test_a_listed_context_gets_its_kernel_with_its_first_cell_and_says_nothing_of_it(
    kernels: type[FakeKernel],
) -> None:
    contexts = part("contexts").Contexts()
    await contexts.prepare()
    _, listed = contexts.list()

    assert await contexts.own(language("js")) is listed
    assert await told(listed, "1") == [("stdout", "1")]
    assert await told(listed, "2") == [("stdout", "2")]
    assert kernels.started == ["python", "javascript"]
    assert len(contexts.list()) == 2


async def test_a_listed_context_is_restarted_and_removed_like_any_other(kernels: type[FakeKernel]) -> None:
    contexts = part("contexts").Contexts()
    await contexts.prepare()
    _, listed = contexts.list()
    await listed.restart()
    assert kernels.started == ["python", "javascript"]

    await contexts.remove(listed)
    assert [context.language.name for context in contexts.list()] == ["python"]
    another = await contexts.own(language("js"))
    assert another.id != listed.id
    assert kernels.started == ["python", "javascript", "javascript"]


async def test_a_kernel_that_did_not_start_is_told_of_when_it_does(kernels: type[FakeKernel]) -> None:
    contexts = part("contexts").Contexts()
    await contexts.prepare()
    _, listed = contexts.list()
    kernels.broken = {"javascript"}

    assert await told(listed, "1") == [("error", "KernelNotStarted")]
    kernels.broken = set()
    (kind, text), answer = await told(listed, "2")
    assert (kind, answer) == ("stderr", ("stdout", "2"))
    assert "it did not start" in text
    assert await told(listed, "3") == [("stdout", "3")]


async def test_a_kernel_that_ends_and_does_not_start_again_is_not_said_to_have(
    kernels: type[FakeKernel],
) -> None:
    contexts = part("contexts").Contexts()
    await contexts.prepare()
    python = await contexts.own(language("python"))
    kernels.ends_with, kernels.broken = "die", {"python"}

    *_, item, end = await said(python.run("die", {}))

    assert (item["name"], end["type"]) == ("KernelEnded", "end_of_execution")
    assert "exit code 3" in item["value"]
    assert "does not start again: exit code 1" in item["value"]
    assert "restarted" not in item["value"]
    assert await told(python, "1") == [("error", "KernelNotStarted")]


async def test_an_execution_that_fails_in_a_way_that_nobody_thought_of_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    contexts = part("contexts").Contexts()
    await contexts.prepare()
    python = await contexts.own(language("python"))

    assert await told(python, "'\ud83d'") == [("error", "ExecutionFailed")]
    assert await told(python, "1") == [("stdout", "1")]
    assert "UnicodeEncodeError" in caplog.text


@pytest.fixture
async def restored(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Python's own context, in a sandbox that was restored a moment ago."""
    monkeypatch.setattr(part("limits"), "INTERRUPT_S", 0.05)
    contexts = part("contexts").Contexts()
    await contexts.prepare()
    monkeypatch.setattr(part("generation"), "current", lambda: "2")
    return await contexts.own(language("python"))


async def test_code_is_not_run_by_a_kernel_that_draws_the_old_random_numbers(
    kernels: type[FakeKernel], restored: Any
) -> None:
    kernels.hangs_with = "_seeder"

    assert await told(restored, "1") == [("error", "KernelStuck")]
    assert await told(restored, "2") == [("error", "KernelStuck")]
    kernels.hangs_with = ""

    assert await told(restored, "3") == [("stdout", "3")]
    assert kernels.started == ["python"]


async def test_a_kernel_that_heeds_no_interrupt_either_is_replaced(
    kernels: type[FakeKernel], restored: Any
) -> None:
    kernels.hangs_with, kernels.heeds_interrupts = "_seeder", False

    assert await told(restored, "1") == [("error", "KernelEnded")]

    assert await told(restored, "2") == [("stdout", "2")]
    assert kernels.started == ["python", "python"]


@pytest.mark.parametrize(
    ("hangs_with", "outcome"),
    [
        ('\'] = "1"', [("error", "KernelStuck")]),
        (".pop(", [("stdout", "1"), ("error", "KernelStuck")]),
    ],
)
async def test_variables_that_are_not_set_or_unset_are_told(
    kernels: type[FakeKernel], restored: Any, hangs_with: str, outcome: list[tuple[str, str]]
) -> None:
    kernels.hangs_with = hangs_with.replace("'", '"')

    assert await told(restored, "1", {"A_VARIABLE": "1"}) == outcome


@pytest.mark.parametrize("heeds_interrupts", [True, False])
async def test_of_variables_that_were_not_all_set_none_is_left_to_other_cells(
    kernels: type[FakeKernel], restored: Any, heeds_interrupts: bool
) -> None:
    kernels.hangs_with, kernels.heeds_interrupts = '"SECOND"] = ', heeds_interrupts
    names = ["FIRST", "SECOND"]

    await told(restored, "1", dict.fromkeys(names, "x"))

    unset = "\n".join(f"__import__('os').environ.pop(\"{name}\", None)" for name in names)
    assert kernels.ran[-1] == unset if heeds_interrupts else kernels.started == ["python", "python"]


async def test_variables_that_are_neither_set_nor_unset_are_told_as_both(
    kernels: type[FakeKernel], restored: Any
) -> None:
    kernels.hangs_with = "A_VARIABLE"

    error, _ = await said(restored.run("1", {"A_VARIABLE": "1"}))

    assert "did not set the variables, so the code was not run" in error["value"]
    assert "did not unset the variables of this execution" in error["value"]
