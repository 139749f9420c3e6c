"""Sandboxes that are paused and come back, as E2B's client sees it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from e2b import AsyncSandbox, NotFoundException, Sandbox, SandboxQuery, SandboxState
from support.home import LiveHome

# Counts in memory; says where it is to whoever asks.
COUNTER = """
import http.server, os, secrets, threading, time
held, began = secrets.token_hex(8), os.getpid()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{began} {held}".encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""


@pytest.fixture
def live(client_options: dict[str, Any]) -> Iterator[Sandbox]:
    made = Sandbox.create("base", timeout=600, **client_options)
    yield made
    made.kill()


def serve(sandbox: Sandbox) -> None:
    sandbox.files.write("/home/user/counter.py", COUNTER)
    sandbox.commands.run("python3 /home/user/counter.py", background=True, timeout=0)
    wait = "until curl -fs localhost:8000; do sleep 0.05; done"
    sandbox.commands.run(wait, timeout=20)


def ask(sandbox: Sandbox, home: LiveHome) -> str:
    answer = httpx.get(
        home.client_options["sandbox_url"],
        headers={"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"},
        timeout=20,
    )
    answer.raise_for_status()
    return answer.text


def is_running(home: LiveHome, sandbox_id: str) -> bool:
    options = home.client_options
    answer = httpx.get(
        f"{options['api_url']}/v1/sandboxes/{sandbox_id}", headers={"X-API-Key": options["api_key"]}
    )
    return bool(answer.raise_for_status().json()["status"] == "running")


def test_memory_files_and_programs_come_back_again_and_again(
    home: LiveHome, live: Sandbox, client_options: dict[str, Any]
) -> None:
    serve(live)
    said = ask(live, home)
    live.files.write("/home/user/text", "written")
    boot_id = live.files.read("/proc/sys/kernel/random/boot_id")

    for _ in range(3):
        assert live.pause(**client_options)
        assert live.get_info().state is SandboxState.PAUSED
        paused = Sandbox.list(query=SandboxQuery(state=[SandboxState.PAUSED]), **client_options).next_items()
        assert live.sandbox_id in {one.sandbox_id for one in paused}
        running = Sandbox.list(query=SandboxQuery(state=[SandboxState.RUNNING]), **client_options)
        assert live.sandbox_id not in {one.sandbox_id for one in running.next_items()}
        # Paused is paused, whoever asks again.
        assert not live.pause(**client_options)

        back = Sandbox.connect(live.sandbox_id, timeout=600, **client_options)

        assert back.get_info().state is SandboxState.RUNNING
        assert ask(back, home) == said
        assert back.files.read("/home/user/text") == "written"
        assert back.files.read("/proc/sys/kernel/random/boot_id") == boot_id
        assert back.commands.run("echo $((6 * 7))").stdout == "42\n"


def test_a_command_that_runs_goes_on_and_its_time_stands_still(
    live: Sandbox, client_options: dict[str, Any]
) -> None:
    command = live.commands.run(
        "for n in 1 2 3; do sleep 0.5; echo $n >> /tmp/n; done", background=True, timeout=4
    )
    live.pause(**client_options)
    time.sleep(4.5)
    back = Sandbox.connect(live.sandbox_id, timeout=600, **client_options)

    result = back.commands.connect(command.pid, timeout=20).wait()

    assert result.exit_code == 0
    assert back.files.read("/tmp/n") == "1\n2\n3\n"
    assert abs(float(back.commands.run("date +%s.%N").stdout) - time.time()) < 2


def test_without_memory_a_sandbox_boots_with_its_files(live: Sandbox, client_options: dict[str, Any]) -> None:
    live.files.write("/home/user/text", "written")
    live.files.write("/tmp/text", "temporary")
    boot_id = live.files.read("/proc/sys/kernel/random/boot_id")
    answer = httpx.post(
        f"{client_options['api_url']}/sandboxes/{live.sandbox_id}/pause",
        headers={"X-API-Key": client_options["api_key"]},
        json={"memory": False},
        timeout=30,
    )
    assert answer.status_code == 204

    back = Sandbox.connect(live.sandbox_id, timeout=600, **client_options)

    assert back.files.read("/home/user/text") == "written"
    assert back.files.read("/tmp/text") == "temporary"
    assert back.files.read("/proc/sys/kernel/random/boot_id") != boot_id


def test_a_deadline_pauses_and_traffic_wakes(home: LiveHome, client_options: dict[str, Any]) -> None:
    sandbox = Sandbox.create(
        "base", timeout=8, lifecycle={"on_timeout": "pause", "auto_resume": True}, **client_options
    )
    try:
        serve(sandbox)
        said = ask(sandbox, home)
        until = time.monotonic() + 30
        while sandbox.get_info().state is not SandboxState.PAUSED:
            assert time.monotonic() < until
            time.sleep(0.2)

        assert ask(sandbox, home) == said
        assert sandbox.get_info().state is SandboxState.RUNNING
        assert sandbox.pause(**client_options)
        assert sandbox.commands.run("echo awake").stdout == "awake\n"
    finally:
        sandbox.kill()


def test_a_request_that_comes_in_the_middle_of_a_pause_waits_for_the_wake(
    home: LiveHome, client_options: dict[str, Any]
) -> None:
    lifecycle: Any = {"on_timeout": "pause", "auto_resume": True}
    live = Sandbox.create("base", timeout=600, lifecycle=lifecycle, **client_options)
    serve(live)
    # So that the pause takes a while, and connections to it are at hand.
    hold = (
        "import os, pathlib, time; d = os.urandom(500 << 20); pathlib.Path('held').touch(); time.sleep(600)"
    )
    live.commands.run(f'python3 -c "{hold}"', background=True, timeout=0)
    live.commands.run("until test -e held; do sleep 0.05; done", timeout=30)
    said = ask(live, home)
    with ThreadPoolExecutor() as threads:
        pausing = threads.submit(live.pause, **client_options)
        while is_running(home, live.sandbox_id):
            time.sleep(0.005)

        time.sleep(0.1)
        asked = threads.submit(ask, live, home)
        found = threads.submit(live.files.exists, "/home/user/held")

        assert not pausing.done()
        assert pausing.result()
        assert asked.result() == said
        assert found.result()
    live.kill()


def test_a_paused_sandbox_can_be_killed(live: Sandbox, client_options: dict[str, Any]) -> None:
    live.pause(**client_options)

    assert Sandbox.kill(live.sandbox_id, **client_options)

    with pytest.raises(NotFoundException):
        Sandbox.connect(live.sandbox_id, **client_options)


async def test_asyncio_pauses_too(client_options: dict[str, Any]) -> None:
    sandbox = await AsyncSandbox.create("base", timeout=600, **client_options)
    try:
        await sandbox.files.write("/dev/shm/text", "held")
        assert await sandbox.pause()
        sandbox = await AsyncSandbox.connect(sandbox.sandbox_id, timeout=600, **client_options)
        assert await sandbox.beta_pause()
        sandbox = await AsyncSandbox.connect(sandbox.sandbox_id, timeout=600, **client_options)
        assert await sandbox.files.read("/dev/shm/text") == "held"
    finally:
        await sandbox.kill()


def test_the_older_way_to_pause_is_the_same(live: Sandbox, client_options: dict[str, Any]) -> None:
    assert live.beta_pause()
    assert Sandbox.connect(live.sandbox_id, timeout=600, **client_options).is_running()
