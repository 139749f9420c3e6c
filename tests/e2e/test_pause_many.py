"""A sandbox is paused and resumed twenty times, and not a byte of what it holds is another."""

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.home import LiveHome

from atoll import Sandbox

# 20 pauses, three times: for who has time.
pytestmark = pytest.mark.heavy

ROUNDS = 20
# Holds the same bytes in memory, in an open file, and in one that nobody sees any more; counts in threads and
# by a timer; and tells all of it to whoever asks.
PROGRAM = """
import hashlib, http.server, json, os, signal, threading, time

began, lock = time.time(), threading.Lock()
memory = bytearray()
seen = open("/home/user/seen", "wb+", buffering=0)
unseen = open("/home/user/unseen", "wb+", buffering=0)
os.unlink("/home/user/unseen")
counts, ticks = [0] * 4, [0]
def count(n):
    while True:
        counts[n] += 1
        time.sleep(0.05)
def tick(*_):
    ticks[0] += 1
for n in range(4):
    threading.Thread(target=count, args=(n,), daemon=True).start()
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
def read(file):
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        more = self.rfile.read(int(self.headers["Content-Length"]))
        with lock:
            memory.extend(more)
            for file in (seen, unseen):
                file.write(more)
        self.do_GET()
    def do_GET(self):
        with lock:
            held = {"memory": bytes(memory), "seen": read(seen), "unseen": read(unseen)}
        told = {name: hashlib.sha256(value).hexdigest() for name, value in held.items()}
        told |= {"pid": os.getpid(), "counts": counts, "ticks": ticks[0], "now": time.time()}
        body = json.dumps(told)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def options(home: LiveHome) -> dict[str, Any]:
    return home.options


def until(what: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not what():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.1)


class Asked:
    """The program inside, asked through the edge."""

    def __init__(self, home: LiveHome, sandbox: Sandbox) -> None:
        self._url = home.client_options["sandbox_url"]
        self._headers = {"E2b-Sandbox-Id": sandbox.id, "E2b-Sandbox-Port": "8000"}

    def tell(self, more: bytes | None = None) -> dict[str, Any]:
        method = "GET" if more is None else "POST"
        answer = httpx.request(method, self._url, content=more, headers=self._headers, timeout=30)
        return dict(answer.raise_for_status().json())


def test_twenty_pauses_lose_no_byte(home: LiveHome, options: dict[str, Any]) -> None:
    with Sandbox.create("base", timeout=1200, **options) as sandbox:
        sandbox.files.write("/home/user/program.py", PROGRAM)
        sandbox.commands.run(["python3", "/home/user/program.py"], background=True, timeout=0).disconnect()
        sandbox.commands.run("until curl -fs localhost:8000 >/dev/null; do sleep 0.05; done", timeout=30)
        program, whole = Asked(home, sandbox), b""
        first, born = program.tell(), sandbox.info().generation

        for number in range(1, ROUNDS + 1):
            more = secrets.token_bytes(100_000 + number)
            whole += more
            before = program.tell(more)
            sandbox.files.write(f"/home/user/{number}", more)

            sandbox.pause()
            assert sandbox.resume(600).generation == born + number

            after, digest = program.tell(), hashlib.sha256(whole).hexdigest()
            assert {after[name] for name in ("memory", "seen", "unseen")} == {digest}
            assert after["pid"] == first["pid"]
            assert abs(after["now"] - time.time()) < 2
            # Threads and the timer go on, all of them.
            until(lambda was=before: all_later(was, program.tell()))  # type: ignore[misc]
        names = " ".join(f"/home/user/{number}" for number in range(1, ROUNDS + 1))
        summed = sandbox.commands.run(f"cat {names} | sha256sum; sha256sum </home/user/seen").stdout.split()
        assert summed[0::2] == [hashlib.sha256(whole).hexdigest()] * 2


def all_later(was: dict[str, Any], now: dict[str, Any]) -> bool:
    counted = all(later > earlier for earlier, later in zip(was["counts"], now["counts"], strict=True))
    return counted and now["ticks"] > was["ticks"]


def test_an_editor_on_a_terminal_goes_on_over_twenty_pauses(options: dict[str, Any]) -> None:
    with Sandbox.create("base", timeout=1200, **options) as sandbox:
        editor = sandbox.pty.create(cmd=["vim.tiny", "-n", "-u", "NONE", "/home/user/edited"])
        pid = editor.pid
        # What is typed before it reads the terminal raw would be echoed only.
        shown = ""
        for output in editor:
            shown += output.data.decode(errors="replace")
            if "edited" in shown:
                break
        editor.send_stdin("i")
        for number in range(ROUNDS):
            editor.send_stdin(f"line {number}\r")

            sandbox.pause()
            sandbox.resume(600)

            editor = sandbox.pty.connect(pid)
        editor.send_stdin("the end\x1b:wq\r")

        assert editor.wait().exit_code == 0
        expected = "".join(f"line {number}\n" for number in range(ROUNDS)) + "the end\n"
        assert sandbox.files.read("/home/user/edited") == expected
        assert sandbox.commands.list() == []


def test_a_command_s_time_stands_still_over_many_pauses(options: dict[str, Any]) -> None:
    with Sandbox.create("minimal", timeout=1200, **options) as sandbox:
        command = sandbox.commands.run("sleep 1000", background=True, timeout=12)
        began = time.monotonic()
        for _ in range(3):
            sandbox.pause()
            time.sleep(5)
            sandbox.resume(600)
        # It was away for longer than the command may run.
        assert [one.pid for one in sandbox.commands.list()] == [command.pid]
        until(lambda: sandbox.commands.list() == [])
        # Each pause takes at most one of the steps that time is counted in: guestd's limits.DeadlineSteps.
        assert time.monotonic() - began > 12 + 3 * 5 - 3 * 12 / 16
