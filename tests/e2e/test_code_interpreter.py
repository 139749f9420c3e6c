"""The released code interpreter client against our template: what its users do, and what goes wrong."""

import subprocess
import time
from typing import Any

import pytest
from e2b import NotFoundException, SandboxException
from e2b_code_interpreter import AsyncSandbox, Sandbox
from support import javascript, matrix
from support.home import CACHE

from atoll.server.domain.template import Template


def test_a_cell_has_a_result_output_and_a_number(interpreter: Sandbox) -> None:
    first = interpreter.run_code("x = 41; print('out'); import sys; print('err', file=sys.stderr); 'text'")
    second = interpreter.run_code("x + 1")

    assert (first.text, first.logs.stdout, first.logs.stderr) == ("text", ["out\n"], ["err\n"])
    assert (second.text, second.error) == ("42", None)
    assert first.execution_count is not None
    assert second.execution_count == first.execution_count + 1


def test_callbacks_hear_of_output_while_it_comes(interpreter: Sandbox) -> None:
    heard: list[tuple[str, float]] = []
    results: list[Any] = []
    execution = interpreter.run_code(
        "import time\nprint('a', flush=True)\ntime.sleep(1.5)\nprint('b')\n1 / 0",
        on_stdout=lambda message: heard.append((message.line, time.monotonic())),
        on_result=results.append,
        on_error=results.append,
    )

    assert [line for line, _ in heard] == ["a\n", "b\n"]
    assert heard[1][1] - heard[0][1] > 1
    assert execution.error is not None
    assert results == [execution.error]


def test_an_error_has_a_name_a_value_and_a_traceback(interpreter: Sandbox) -> None:
    error = interpreter.run_code("def f():\n    raise ValueError('no')\nf()").error

    assert error is not None
    assert (error.name, error.value) == ("ValueError", "no")
    assert "line 2" in error.traceback
    assert interpreter.run_code("raise SystemExit(3)").error is not None
    assert interpreter.run_code("1+1").text == "2"


def test_variables_of_the_sandbox_are_there_and_those_of_one_cell_only_in_it(interpreter: Sandbox) -> None:
    show = "import os; [os.environ.get('GIVEN'), os.environ.get('MINE')]"

    assert interpreter.run_code(show).text == "['by create', None]"
    with_ours = interpreter.run_code(show, envs={"MINE": "a 'quoted'\n$x", "GIVEN": "else"})
    assert with_ours.text == repr(["else", "a 'quoted'\n$x"])
    assert interpreter.run_code(show).text == "['by create', None]"


def test_a_fresh_sandbox_has_contexts_for_python_and_javascript(
    interpreter_template: Template, client_options: dict[str, Any]
) -> None:
    with Sandbox.create(timeout=300, **client_options) as live:
        fresh = live.list_code_contexts()
        found = [(one.language, one.cwd) for one in fresh]
        answers = [live.run_code("6 * 7", context=one).text for one in fresh]
        after = live.list_code_contexts()

    assert found == [("python", "/home/user"), ("javascript", "/home/user")]
    assert answers == ["42", "42"]
    assert [one.id for one in after] == [one.id for one in fresh]


def test_contexts_are_apart(interpreter: Sandbox) -> None:
    interpreter.commands.run("mkdir -p /tmp/elsewhere")
    context = interpreter.create_code_context(cwd="/tmp/elsewhere")

    interpreter.run_code("mine = 1")
    assert interpreter.run_code("import os; os.getcwd()", context=context).text == "/tmp/elsewhere"
    missing = interpreter.run_code("mine", context=context).error
    assert missing is not None
    assert missing.name == "NameError"
    assert context.id in {one.id for one in interpreter.list_code_contexts()}
    interpreter.run_code("theirs = 1", context=context)
    interpreter.restart_code_context(context)
    assert interpreter.run_code("'theirs' in globals()", context=context).text == "False"
    interpreter.remove_code_context(context)
    with pytest.raises(Exception, match=f"Context {context.id} not found"):
        interpreter.run_code("1", context=context)
    with pytest.raises(Exception, match="is not a directory"):
        interpreter.create_code_context(cwd="/nowhere")
    with pytest.raises(Exception, match="cannot be entered"):
        interpreter.create_code_context(cwd="/root")
    with pytest.raises(Exception, match="is not one of"):
        interpreter.create_code_context(language="cobol")


def test_a_picture_that_is_saved_to_a_path_is_displayed(interpreter: Sandbox) -> None:
    execution = interpreter.run_code(
        "import io\nfrom PIL import Image\npicture = Image.new('RGB', (4, 4), 'red')\n"
        "picture.save('/tmp/a.jpg')\npicture.save(io.BytesIO(), 'PNG')"
    )

    (result,) = execution.results
    assert result.png is not None
    assert result.png.startswith("iVBOR")
    assert not result.is_main_result
    assert interpreter.files.read("/tmp/a.jpg", format="bytes")[:2] == b"\xff\xd8"


def test_a_data_frame_is_data(interpreter: Sandbox) -> None:
    execution = interpreter.run_code(
        "import pandas as pd\n"
        "pd.DataFrame({'n': [1, 2], 's': ['a', None], 't': pd.to_datetime(['2026-01-02', '2026-01-03'])})"
    )

    (result,) = execution.results
    assert result.data == {
        "n": [1, 2],
        "s": ["a", None],
        "t": ["2026-01-02T00:00:00", "2026-01-03T00:00:00"],
    }
    assert result.html is not None
    assert "<table" in result.html


def test_a_timeout_interrupts_the_cell_and_keeps_the_kernel(interpreter: Sandbox) -> None:
    interpreter.run_code("kept = 7")
    with pytest.raises(Exception, match=r"(?i)timeout|timed out"):
        interpreter.run_code("import time\nwhile True: time.sleep(0.1)", timeout=1)

    begun = time.monotonic()
    assert interpreter.run_code("kept").text == "7"
    assert time.monotonic() - begun < 8


def test_a_kernel_that_takes_no_interrupt_is_replaced_and_the_next_cell_hears_of_it(
    interpreter: Sandbox,
) -> None:
    context = interpreter.create_code_context()
    # Not by catching KeyboardInterrupt: one that comes between two tries would end the loop.
    deaf = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(600)"
    with pytest.raises(Exception, match=r"(?i)timeout|timed out"):
        interpreter.run_code(deaf, context=context, timeout=1)

    execution = interpreter.run_code("1 + 1", context=context)

    assert execution.text == "2"
    assert "restarted" in "".join(execution.logs.stderr)
    interpreter.remove_code_context(context)


@pytest.mark.parametrize("length", [pytest.param(1_000, marks=pytest.mark.heavy), 1_000_000])
def test_output_without_end_is_ended(interpreter: Sandbox, length: int) -> None:
    context = interpreter.create_code_context()
    error = interpreter.run_code(f"while True: print('x' * {length})", context=context).error

    assert error is not None
    assert error.name == "OutputLimitExceeded"
    assert interpreter.run_code("1 + 1", context=context).text == "2"
    interpreter.remove_code_context(context)


def test_values_without_end_are_ended(interpreter: Sandbox) -> None:
    context = interpreter.create_code_context()
    show = "while True: display({'application/json': ['x' * 5_000_000]}, raw=True)"
    execution = interpreter.run_code(show, context=context)

    assert execution.error is not None
    assert execution.error.name == "OutputLimitExceeded"
    assert 0 < len(execution.results) <= (64 << 20) // 5_000_000
    assert interpreter.run_code("1 + 1", context=context).text == "2"
    interpreter.remove_code_context(context)


@pytest.mark.parametrize(
    "odd",
    [
        "kernel.iopub_socket.send_multipart([b'rubbish'])",
        "kernel.session.send(kernel.iopub_socket, 'display_data', {'data': [1]}, parent=parent)",
        "kernel.session.send(kernel.iopub_socket, 'error', {'traceback': 5}, parent=parent)",
    ],
)
def test_an_odd_message_does_not_make_a_context_mute(interpreter: Sandbox, odd: str) -> None:
    context = interpreter.create_code_context()
    prepare = "kernel = get_ipython().kernel; parent = kernel.get_parent()"

    said = interpreter.run_code(f"{prepare}\n{odd}\nprint('still')", context=context)
    after = interpreter.run_code("1 + 1", context=context)

    assert (said.logs.stdout, said.error) == (["still\n"], None)
    assert after.text == "2"
    interpreter.remove_code_context(context)


def test_a_kernel_that_is_not_heard_any_more_is_replaced(interpreter: Sandbox) -> None:
    context = interpreter.create_code_context()
    error = interpreter.run_code("get_ipython().kernel.iopub_socket.close()", context=context).error

    assert error is not None
    assert "not heard" in error.value
    assert interpreter.run_code("1 + 1", context=context).text == "2"
    interpreter.remove_code_context(context)


def test_an_exception_that_the_kernel_cannot_pack_is_an_error(interpreter: Sandbox) -> None:
    assert interpreter.run_code(r"raise ValueError('\ud800')").error is not None
    assert interpreter.run_code("1 + 1").text == "2"


def test_an_exception_that_no_answer_comes_of_is_an_error(interpreter: Sandbox) -> None:
    error = interpreter.run_code(
        "class Odd(Exception):\n    def _render_traceback_(self): return 5\nraise Odd"
    ).error

    assert error is not None
    assert error.name == "ExecutionFailed"
    assert interpreter.run_code("1 + 1").text == "2"


def test_code_with_half_a_character_is_refused(interpreter: Sandbox) -> None:
    # E2B's clients do not even send it.
    ask = r"""
import urllib.error, urllib.request
try:
    urllib.request.urlopen("http://127.0.0.1:49999/execute", b'{"code": "print(1) # \\ud83d"}')
except urllib.error.HTTPError as refused:
    print(refused.code, refused.read().decode())
"""
    interpreter.files.write("/tmp/ask.py", ask)

    said = interpreter.commands.run("python3 /tmp/ask.py").stdout

    assert said.startswith("400 code has half a character")


def test_a_context_whose_directory_is_gone_says_so(interpreter: Sandbox) -> None:
    interpreter.commands.run("mkdir -p /tmp/passing")
    context = interpreter.create_code_context(cwd="/tmp/passing")
    interpreter.commands.run("rmdir /tmp/passing")

    ended = interpreter.run_code("import os; os._exit(3)", context=context).error
    after = interpreter.run_code("2", context=context).error

    assert ended is not None
    assert "exit code 3" in ended.value
    assert "does not start again" in ended.value
    assert after is not None
    assert after.name == "KernelNotStarted"
    with pytest.raises(Exception, match="is not a directory"):
        interpreter.restart_code_context(context)
    interpreter.remove_code_context(context)


def test_a_bash_that_is_gone_when_it_is_interrupted_is_replaced(interpreter: Sandbox) -> None:
    interpreter.run_code("true", language="bash")
    with pytest.raises(Exception, match=r"(?i)timeout|timed out"):
        interpreter.run_code("exec sleep 100", language="bash", timeout=1)

    execution = interpreter.run_code("echo next", language="bash")

    assert execution.logs.stdout == ["next\n"]
    assert "restarted" in "".join(execution.logs.stderr)


@pytest.mark.heavy
def test_a_kernel_that_uses_too_much_memory_says_so(interpreter: Sandbox) -> None:
    error = interpreter.run_code("held = []\nwhile True: held.append(bytearray(50 << 20))").error

    assert error is not None
    assert "memory" in error.value
    assert interpreter.run_code("1 + 1").text == "2"


@pytest.mark.parametrize("death", ["import os; os._exit(3)", "import os; os.kill(os.getpid(), 9)"])
def test_a_kernel_that_dies_is_restarted_and_says_so(interpreter: Sandbox, death: str) -> None:
    context = interpreter.create_code_context()
    error = interpreter.run_code(death, context=context).error

    assert error is not None
    assert error.name == "KernelEnded"
    assert "restarted" in error.value
    assert interpreter.run_code("1 + 1", context=context).text == "2"
    interpreter.remove_code_context(context)


def test_bash_is_spoken(interpreter: Sandbox) -> None:
    execution = interpreter.run_code("echo $((6 * 7)) $MINE", language="bash", envs={"MINE": "it's"})

    assert "".join(execution.logs.stdout).strip() == "42 it's"


def test_javascript_and_typescript_are_spoken(interpreter: Sandbox) -> None:
    assert interpreter.run_code("const n: number = 6; n * 7", language="ts").text == "42"
    execution = interpreter.run_code("console.log(Deno.env.get('GIVEN')); 6 * 7", language="js")

    assert execution.text == "42"
    assert execution.logs.stdout == ["by create\n"]


@pytest.mark.heavy
def test_r_and_java_are_spoken(interpreter: Sandbox) -> None:
    r = interpreter.run_code("cat(6 * 7, Sys.getenv('MINE'))", language="r", envs={"MINE": "r"})
    java = interpreter.run_code("int n = 6; n * 7", language="java")
    show = 'System.getenv("GIVEN") + System.getenv("MINE")'
    with_mine = interpreter.run_code(show, language="java", envs={"GIVEN": "else", "MINE": "a 'q' \"r\"\n"})
    after = interpreter.run_code(show, language="java")
    wrong = interpreter.run_code("stop('no')", language="r").error

    assert "".join(r.logs.stdout) == "42 r"
    assert java.text == "42"
    assert (with_mine.text, after.text) == ("elsea 'q' \"r\"\n", "by createnull")
    assert wrong is not None


async def test_the_async_client_is_content(interpreter: Sandbox, client_options: dict[str, Any]) -> None:
    live = await AsyncSandbox.connect(interpreter.sandbox_id, **client_options)
    heard: list[str] = []

    execution = await live.run_code(
        "print('hi'); 2 + 2", on_stdout=lambda message: heard.append(message.line)
    )

    assert (execution.text, heard) == ("4", ["hi\n"])
    assert (await live.run_code("1 / 0")).error is not None


async def test_the_async_client_has_contexts(interpreter: Sandbox, client_options: dict[str, Any]) -> None:
    live = await AsyncSandbox.connect(interpreter.sandbox_id, **client_options)
    context = await live.create_code_context(cwd="/tmp")
    await live.run_code("x = 1", context=context)
    assert (await live.run_code("import os; os.getcwd()", context=context)).text == "/tmp"
    assert context.id in {one.id for one in await live.list_code_contexts()}
    await live.restart_code_context(context)
    error = (await live.run_code("x", context=context)).error
    assert error is not None
    assert error.name == "NameError"
    await live.remove_code_context(context)
    with pytest.raises(NotFoundException, match="not found"):
        await live.run_code("1", context=context)
    with pytest.raises(SandboxException, match="not a directory"):
        await live.create_code_context(cwd="/none")


@pytest.mark.heavy
def test_the_javascript_client_is_content(
    interpreter_template: Template, client_options: dict[str, Any], recorder: matrix.Recorder
) -> None:
    done = javascript.examine("code-interpreter.spec.mjs", client_options, recorder)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "# pass 7" in done.stdout
    assert "# skipped 0" in done.stdout


def test_the_template_is_of_a_bearable_size(interpreter_template: Template) -> None:
    rootfs = CACHE / "templates" / interpreter_template.id
    told = subprocess.run(["du", "-sm", rootfs], capture_output=True, text=True, check=True, timeout=60)

    assert int(told.stdout.split()[0]) < 3000
