"""docs/compatibility.md: what is recorded of the clients' calls, and what the page makes of it."""

import asyncio
import importlib.util
import inspect
import json
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import e2b
import e2b_code_interpreter
import pytest
from support import javascript, matrix

ROOT = Path(__file__).parents[2]
SANDBOX = "e2b_code_interpreter.Sandbox"
# A client like E2B's, but for the server.
E2B = """
export class Sandbox {
  static async create() { return new this() }
  static async kill() { throw new Error('gone') }
  get commands() { return undefined }
  async pause() { throw new Error('501: not available') }
  async setTimeout() {}
}
export class Secret { static async create() { return {} } }
export class Template {
  static toJSON() { return '{}' }
  static async exists() { return true }
  fromImage() { return this }
}
class CommandHandle {
  async wait() { return this.handleEvents() }
  async handleEvents() {}
}
export const handle = new CommandHandle()
Sandbox.start = () => {}
Sandbox.connect = async () => handle
"""
INTERPRETER = """
import { Sandbox as Base } from 'e2b'
export class Sandbox extends Base {
  async runCode(code) { if (code === 'bad') throw new Error('no'); return code }
  async listCodeContexts() { throw new Error('no') }
  async createCodeContext() {}
  async handleRequestError() {}
}
"""


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Client:
    """Has a call of each kind of end."""

    def works(self) -> int:
        return 1

    def refuses(self) -> None:
        raise RuntimeError("501: not available")

    def fails(self) -> None:
        raise RuntimeError("no")

    def rests(self) -> None:
        raise NotImplementedError


class AsyncClient:
    """The same, for those who wait."""

    async def works(self) -> int:
        return 1

    async def refuses(self) -> None:
        raise RuntimeError("501: not available")

    async def fails(self) -> None:
        raise RuntimeError("no")

    async def rests(self) -> None:
        raise NotImplementedError


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[matrix.Recorder]:
    monkeypatch.setattr(matrix, "SYNC", {"Client": Client})
    monkeypatch.setattr(matrix, "ASYNC", {"Client": AsyncClient})
    monkeypatch.setattr(matrix, "CLIENTS", {"sync": matrix.SYNC, "async": matrix.ASYNC})
    yield from matrix.recorded()


def saved(recorder: matrix.Recorder, folder: Path) -> Any:
    recorder.save(folder / "saved.json")
    return json.loads((folder / "saved.json").read_text())


def test_how_a_call_ended_is_kept(recorder: matrix.Recorder, tmp_path: Path) -> None:
    async def wait() -> None:
        await AsyncClient().works()
        for failing in (AsyncClient().refuses, AsyncClient().fails):
            with pytest.raises(RuntimeError):
                await failing()

    Client().works()
    for failing in (Client().refuses, Client().fails):
        with pytest.raises(RuntimeError):
            failing()
    asyncio.run(wait())
    recorder.test_ended(passed=True)

    ends = {"works": "works", "refuses": "refused", "fails": "failed", "rests": "untried"}
    expected = {f"Client.{call}": {"sync": end, "async": end} for call, end in ends.items()}
    assert saved(recorder, tmp_path)["calls"] == expected


def test_what_returned_in_a_test_that_failed_has_not_been_shown_to_work(
    recorder: matrix.Recorder, tmp_path: Path
) -> None:
    Client().works()
    recorder.test_ended(passed=False)
    assert saved(recorder, tmp_path)["calls"]["Client.works"] == {"sync": "failed", "async": "untried"}

    Client().works()
    recorder.test_ended(passed=True)
    assert saved(recorder, tmp_path)["calls"]["Client.works"] == {"sync": "works", "async": "untried"}


def test_one_success_counts_whatever_else_happened(recorder: matrix.Recorder, tmp_path: Path) -> None:
    recorder.knows("npm x", ["a", "b", "c"])
    for call, outcome in (("a", "failed"), ("a", "works"), ("b", "failed"), ("b", "refused")):
        recorder.saw("npm x", call, outcome)
    recorder.test_ended(passed=True)

    assert saved(recorder, tmp_path)["others"] == {"npm x": {"a": "works", "b": "refused", "c": "untried"}}


def test_the_code_interpreter_s_own_calls_have_rows_and_those_of_e2b_are_not_repeated() -> None:
    contexts = {f"{verb}_code_context" for verb in ("create", "remove", "restart")}
    own = {"run_code", "list_code_contexts"} | contexts

    for client, base in (("sync", e2b.Sandbox), ("async", e2b.AsyncSandbox)):
        interpreter = matrix.CLIENTS[client][SANDBOX]
        assert set(matrix.calls(interpreter)) == own
        assert {"create", "kill"} <= set(matrix.calls(base))


def test_templates_have_rows_for_what_they_ask_a_server() -> None:
    asked = {"build", "build_in_background", "get_build_status", "exists", "alias_exists"}

    for client in (e2b.Template, e2b.AsyncTemplate):
        assert set(matrix.calls(client)) == asked | {"assign_tags", "remove_tags", "get_tags"}


def test_a_wrapped_cell_is_the_interpreter_s_and_is_taken_off_again(tmp_path: Path) -> None:
    before = inspect.getattr_static(e2b_code_interpreter.Sandbox, "run_code")
    for recorder in matrix.recorded():
        with pytest.raises(AttributeError):
            e2b_code_interpreter.Sandbox.run_code(None, "1")
        recorder.test_ended(passed=True)
        told = saved(recorder, tmp_path)

    assert told["calls"][f"{SANDBOX}.run_code"] == {"sync": "failed", "async": "untried"}
    assert told["versions"] == {name: version(name) for name in ("e2b", "e2b-code-interpreter")}
    assert inspect.getattr_static(e2b_code_interpreter.Sandbox, "run_code") is before


@pytest.fixture
def clients(tmp_path: Path) -> Path:
    """The recorder beside clients that need no server."""
    shutil.copy(javascript.FOLDER / "record.mjs", tmp_path)
    for name, text in (("e2b", E2B), ("@e2b/code-interpreter", INTERPRETER)):
        folder = tmp_path / "node_modules" / name
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"version": "1.2.3", "exports": "./index.mjs"}))
        (folder / "index.mjs").write_text(text)
    return tmp_path


def examined(
    clients: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> tuple["subprocess.CompletedProcess[str]", Any]:
    """Run a test of the JavaScript clients; return how it went, and what is recorded when ours has passed."""
    (clients / "it.mjs").write_text(
        f"import {{ test }} from 'node:test'\ntest('it', async () => {{{code}}})\n"
    )
    monkeypatch.setattr(javascript, "FOLDER", clients)
    monkeypatch.setattr(javascript, "install", lambda: None)
    recorder = matrix.Recorder()
    options = {"api_key": "k", "api_url": "http://x", "sandbox_url": "http://y"}
    done = javascript.examine("it.mjs", options, recorder)
    recorder.test_ended(passed=done.returncode == 0)
    return done, saved(recorder, clients)["others"]


def test_calls_of_the_javascript_clients_are_told_apart_by_package_and_end(
    clients: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
      const { Sandbox } = await import('@e2b/code-interpreter')
      const sandbox = await Sandbox.create()
      for (const code of ['bad', 'good', 'bad']) await sandbox.runCode(code).catch(() => {})
      await Promise.allSettled([sandbox.listCodeContexts(), sandbox.pause(), Sandbox.kill()])
      await (await Sandbox.connect()).wait()
    """

    done, others = examined(clients, code, monkeypatch)

    assert done.returncode == 0, done.stdout
    assert others == {
        "npm @e2b/code-interpreter 1.2.3": {
            "Sandbox.createCodeContext": "untried",
            "Sandbox.listCodeContexts": "failed",
            "Sandbox.runCode": "works",
        },
        "npm e2b 1.2.3": {
            "CommandHandle.wait": "works",
            "Sandbox.connect": "works",
            "Sandbox.create": "works",
            "Sandbox.kill": "failed",
            "Sandbox.pause": "refused",
            "Sandbox.setTimeout": "untried",
            "Secret.create": "untried",
            "Template.exists": "untried",
        },
    }


def test_calls_of_a_javascript_test_that_failed_are_not_shown_to_work(
    clients: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "const { Secret } = await import('e2b'); await Secret.create(); throw new Error('no')"

    done, others = examined(clients, code, monkeypatch)

    assert done.returncode == 1
    assert others["npm e2b 1.2.3"]["Secret.create"] == "failed"
    assert others["npm e2b 1.2.3"]["Sandbox.create"] == "untried"


def process(call: str, verdicts: dict[str, str]) -> dict[str, Any]:
    versions = {"e2b": "1.0", "e2b-code-interpreter": "2.0"}
    return {
        "versions": versions,
        "calls": {call: verdicts},
        "others": {"npm e2b 3.0": {"Secret.list": "failed"}},
    }


def test_the_page_has_the_best_that_any_process_saw() -> None:
    page, kill = script("matrix"), "Sandbox.kill"
    seen = page.merged(
        [
            process(kill, {"sync": "untried", "async": "failed"}),
            process(kill, {"sync": "failed", "async": "refused"}),
            process(kill, {"sync": "untried", "async": "works"}),
            process("Sandbox.pause", {"sync": "untried"}),
        ]
    )

    assert seen["calls"] == {
        "Sandbox.kill": {"sync": "failed", "async": "works"},
        "Sandbox.pause": {"sync": "untried"},
    }


def test_the_page_explains_each_sign_and_names_each_client() -> None:
    page = script("matrix")
    text = page.page(process(f"{SANDBOX}.run_code", {"sync": "works", "async": "failed"}))

    head, _, rest = text.partition("\n## ")
    assert "`e2b` 1.0 and `e2b-code-interpreter` 2.0" in head
    assert len(set(page.SIGNS.values())) == len(page.SIGNS) == 4
    for sign in page.SIGNS.values():
        assert f"\n- {sign}: " in head
    assert rest.startswith(f"{SANDBOX}\n")
    assert "| `run_code` | ✓ | ✗ |" in rest
    assert "\n# npm e2b 3.0\n\n| call | |\n|---|---|\n| `Secret.list` | ✗ |\n" in rest
