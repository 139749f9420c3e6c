"""The interpreter's parts that need no kernel: items for clients, and code that sets variables."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[3] / "templates/code-interpreter-v1/files/opt/interpreter"
NASTY = 'it\'s "quoted" $HOME `id` \\n\n\té {x} #'


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    sys.path.insert(0, str(SOURCE))
    yield
    sys.path.remove(str(SOURCE))


def part(name: str) -> Any:
    return import_module(f"interpreter.{name}")


def test_a_result_has_its_types_by_short_names_and_the_rest_as_extras() -> None:
    data = {"text/plain": "'x'", "image/png": "iVBOR", "application/json": {"a": 1}, "text/x-mine": "m"}

    item = part("items").translate("execute_result", {"data": data})

    assert item == {
        "type": "result",
        "is_main_result": True,
        "text": "x",
        "png": "iVBOR",
        "json": {"a": 1},
        "extra": {"text/x-mine": "m"},
    }
    assert part("items").translate("display_data", {"data": {}})["is_main_result"] is False


@pytest.mark.parametrize(
    ("plain", "text"), [("'x'", "x"), ('"x"', "x"), ("'x", "'x"), ("'", "'"), ("", ""), ("[1]", "[1]")]
)
def test_only_a_string_s_own_quotes_are_taken_off(plain: str, text: str) -> None:
    assert part("items").translate("execute_result", {"data": {"text/plain": plain}})["text"] == text


def test_a_message_of_another_kind_or_with_odd_content_breaks_nothing() -> None:
    translate = part("items").translate

    assert translate("comm_open", {}) is None
    assert translate("execute_result", {})["extra"] == {}
    assert translate("error", {}) == {"type": "error", "name": "", "value": "", "traceback": ": "}
    assert translate("stream", {"name": "odd"})["type"] == "stdout"


def told(run: Any, *, kinds: list[str]) -> None:
    """Put items of these kinds; a result is a cell's own."""
    for kind in kinds:
        item = {"type": kind, "is_main_result": True} if kind == "result" else {"type": kind}
        run.put(part("items").END if kind == "end_of_execution" else item)


async def batches(run: Any) -> list[list[str]]:
    return [kinds(batch) async for batch in run]


def kinds(batch: list[bytes]) -> list[str]:
    return [json.loads(line)["type"] for line in batch]


async def test_a_short_cell_is_told_at_once() -> None:
    run = part("run").Run()
    told(run, kinds=["number_of_executions", "result", "end_of_execution"])

    assert await batches(run) == [["number_of_executions", "result", "end_of_execution"]]


async def test_what_nobody_waits_for_is_not_held_for_long() -> None:
    run = part("run").Run()
    told(run, kinds=["number_of_executions"])
    reading = asyncio.ensure_future(anext(aiter(run)))

    assert await asyncio.wait_for(reading, 5) == [b'{"type": "number_of_executions"}\n']


async def test_output_comes_while_the_cell_runs() -> None:
    run = part("run").Run()
    told(run, kinds=["number_of_executions", "stdout"])
    stream = aiter(run)

    assert kinds(await anext(stream)) == ["number_of_executions", "stdout"]
    told(run, kinds=["end_of_execution"])
    assert await anext(stream) == [part("items").END_LINE]


async def test_silence_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part("limits"), "SILENCE_S", 0.01)
    run = part("run").Run()

    assert await anext(aiter(run)) == [part("items").KEEPALIVE_LINE]


async def test_more_is_produced_only_when_the_client_has_most_of_it_or_is_gone() -> None:
    much = {"type": "stdout", "text": "x" * 1_000_000}
    for leave in (False, True):
        run = part("run").Run()
        run.put(much)
        stream = aiter(run)
        waiting = asyncio.ensure_future(run.taken())
        assert await anext(stream) == [part("items").line(much)]
        assert not waiting.done()
        if leave:
            run.given_up.set()
            run.put(much)
        else:
            told(run, kinds=["end_of_execution"])
            assert await anext(stream) == [part("items").END_LINE]
        await asyncio.wait_for(waiting, 5)


async def test_what_waits_is_held_as_its_client_reads_it() -> None:
    run = part("run").Run()
    values = {"type": "result", "extra": {}, "json": [[]] * 100_000}
    run.put(values)
    del values["json"]
    told(run, kinds=["end_of_execution"])

    (line,), _ = [batch async for batch in run]

    assert json.loads(line)["json"] == [[]] * 100_000


def test_a_value_reaches_bash_and_python_as_it_is() -> None:
    languages = part("languages")
    bash = languages.find("sh").environment({"A": NASTY, "B": None})
    python = languages.find("python").environment({"A": NASTY, "B": None})
    show = "import os, json; print(json.dumps([os.environ['A'], 'B' in os.environ]))"
    env = {"B": "there", "PATH": "/usr/bin:/bin"}

    by_bash = subprocess.run(
        ["bash", "-c", f'{bash}\n{sys.executable} -c "$1"', "-", show],
        env=env,
        capture_output=True,
        check=True,
    )
    by_python = subprocess.run(
        [sys.executable, "-c", f"{python}\n{show}"], env=env, capture_output=True, check=True
    )

    assert json.loads(by_bash.stdout) == json.loads(by_python.stdout) == [NASTY, False]


def test_java_s_environment_is_changed_where_it_is_kept_and_its_kernel_lets_it() -> None:
    changes = part("languages").find("java").environment({"A": NASTY, "B": None}).split("\n")
    opened = json.loads((SOURCE / "kernels/java/kernel.json").read_text())["argv"]

    assert [change[0] + change[-1] for change in changes] == ["{}", "{}"]
    assert f'.put("A", {json.dumps(NASTY)}); System.setProperty("A", {json.dumps(NASTY)});' in changes[0]
    assert '.remove("B"); System.clearProperty("B");' in changes[1]
    for package in ("java.lang", "java.util"):
        assert f'forName("{package}.' in changes[0]
        assert f"java.base/{package}=ALL-UNNAMED" in opened


def test_languages_are_found_by_what_people_call_them() -> None:
    languages = part("languages")

    assert {languages.find(name).name for name in ("js", "JavaScript", " js ")} == {"javascript"}
    assert languages.find("ts").name == "typescript"
    assert languages.find("cobol") is None


@pytest.mark.parametrize("name", ["", "1A", "A=B", "A B", "A;id", "A\n", "é"])
def test_a_name_that_would_be_code_is_no_variable(name: str) -> None:
    assert not part("languages").is_variable(name)


def test_every_language_has_a_kernel_that_takes_a_connection() -> None:
    for name in part("languages").NAMES:
        kernel = part("languages").find(name).kernel
        spec = json.loads((SOURCE / "kernels" / kernel / "kernel.json").read_text())
        assert "{connection_file}" in " ".join(spec["argv"])
        assert Path(spec["argv"][0]).is_absolute()


def test_python_begins_anew_with_what_is_loaded_and_leaves_no_name() -> None:
    code = part("languages").find("python").reseed
    script = f"import random, ssl\nstate = random.getstate()\nbefore = set(dir())\n{code}\n"
    check = "assert random.getstate() != state\nassert set(dir()) - before == {'before'}\nprint('anew')\n"

    done = subprocess.run([sys.executable, "-c", script + check], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("anew\n", "")


def test_where_nobody_says_the_generation_there_is_none(tmp_path: Path) -> None:
    current = part("generation").current
    assert current(tmp_path / "missing") == ""
    (tmp_path / "generation").write_text("7\n")
    assert current(tmp_path / "generation") == "7\n"
