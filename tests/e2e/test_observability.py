"""What owners see of their sandboxes: metrics, also after the server's restart and the sandbox's end."""

import datetime as dt
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from e2b import CommandExitException, NotFoundException, Sandbox
from support.home import LiveHome, fresh_home


@pytest.fixture(scope="module")
def quick() -> Iterator[LiveHome]:
    """A home that samples twice a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATOLL_METRICS_EVERY", "500ms")
        with fresh_home() as home:
            yield home


def until(look: Callable[[], Any], what: str) -> Any:
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"never seen: {what}")


def test_metrics_show_what_a_sandbox_does_now_and_its_memory_and_disk(quick: LiveHome) -> None:
    options = quick.client_options
    sandbox = Sandbox.create("base", timeout=300, **options)
    try:
        until(lambda: len(sandbox.get_metrics()) >= 4, "four metrics")
        # As many processors as it has, so that its share is a whole.
        busy = sandbox.commands.run(
            "for i in 1 2; do timeout 60 sh -c 'while :; do :; done' & done; wait", background=True
        )
        until(lambda: sandbox.get_metrics()[-1].cpu_used_pct > 60, "a busy processor")
        busy.kill()
        # The mean since its start would stay high for long.
        until(lambda: sandbox.get_metrics()[-1].cpu_used_pct < 10, "an idle one")
        before = sandbox.get_metrics()[-1]
        sandbox.commands.run("head -c 60M /dev/urandom > /home/user/file")
        until(
            lambda: sandbox.get_metrics()[-1].disk_used > before.disk_used + 50 * 2**20, "60 MB on the disk"
        )
    finally:
        sandbox.kill()


def test_metrics_are_there_after_a_restart_and_the_sandboxs_end_and_none_of_between(quick: LiveHome) -> None:
    options = quick.client_options
    sandbox = Sandbox.create("minimal", timeout=300, **options)
    # The first could be taken for who asks.
    until(lambda: len(sandbox.get_metrics()) >= 2, "two metrics")

    os.kill(quick.server_pid(), signal.SIGKILL)
    away = dt.datetime.now(dt.UTC)
    time.sleep(0.6)  # one would have been taken
    began = dt.datetime.now(dt.UTC)
    quick.start()
    until(lambda: sandbox.get_metrics()[-1].timestamp > began, "metrics after the restart")
    sandbox.kill()

    moments = [metric.timestamp for metric in Sandbox.get_metrics(sandbox.sandbox_id, **options)]
    assert moments[0] <= away
    assert moments[-1] > began
    assert not [moment for moment in moments if away < moment < began]


# 10 s; of an end and of a gap without a machine: tests/unit/control/test_observing.py.
@pytest.mark.heavy
def test_metrics_outlive_the_server_and_the_sandbox_and_a_gap_stays_a_gap(quick: LiveHome) -> None:
    options = quick.client_options
    sandbox = Sandbox.create("minimal", timeout=300, **options)
    until(lambda: len(sandbox.get_metrics()) >= 4, "four metrics")

    os.kill(quick.server_pid(), signal.SIGKILL)
    time.sleep(4)  # nobody samples
    quick.start()
    restarted = dt.datetime.now(dt.UTC)
    until(lambda: sandbox.get_metrics()[-1].timestamp > restarted, "metrics after the restart")
    sandbox.kill()

    metrics = Sandbox.get_metrics(sandbox.sandbox_id, **options)
    steps = [(after.timestamp - one.timestamp).total_seconds() for one, after in itertools.pairwise(metrics)]
    assert max(steps) > 3.5
    assert sorted(steps)[len(steps) // 2] < 1
    part = Sandbox.get_metrics(
        sandbox.sandbox_id, start=metrics[1].timestamp, end=metrics[2].timestamp, **options
    )
    assert len(metrics) > len(part) >= 1
    with pytest.raises(NotFoundException):
        Sandbox.get_metrics("i" + "0" * 20, **options)


def test_many_are_asked_for_at_once_and_strangers_miss(quick: LiveHome) -> None:
    options = quick.client_options
    boxes = [Sandbox.create("minimal", timeout=300, **options) for _ in range(3)]
    ids = [box.sandbox_id for box in boxes]
    try:
        answer = httpx.get(
            f"{options['api_url']}/sandboxes/metrics",
            params={"sandbox_ids": ",".join([*ids, "i" + "0" * 20])},
            headers={"X-API-Key": options["api_key"]},
        )
    finally:
        for box in boxes:
            box.kill()

    assert set(answer.json()["sandboxes"]) == set(ids)
    assert all(one["memUsed"] > 0 for one in answer.json()["sandboxes"].values())


def logs(quick: LiveHome, sandbox_id: str, **query: Any) -> list[dict[str, Any]]:
    options = quick.client_options
    answer = httpx.get(
        f"{options['api_url']}/v2/sandboxes/{sandbox_id}/logs",
        params=query,
        headers={"X-API-Key": options["api_key"]},
    )
    assert answer.status_code == 200, answer.text
    lines: list[dict[str, Any]] = answer.json()["logs"]
    return lines


def test_a_log_tells_of_commands_after_the_sandboxs_end_too(quick: LiveHome) -> None:
    sandbox = Sandbox.create("minimal", timeout=300, **quick.client_options)
    sandbox.commands.run("echo one")
    with pytest.raises(CommandExitException):
        sandbox.commands.run("exit 7", envs={"TOKEN": "do-not-tell"})
    living = logs(quick, sandbox.sandbox_id)
    sandbox.commands.run("echo unseen until the end")
    sandbox.kill()

    ended = logs(quick, sandbox.sandbox_id)

    started = [line for line in living if line["message"] == "process started"]
    assert [line["fields"]["args"] for line in started] == ["-l -c echo one", "-l -c exit 7"]
    assert [line["fields"]["exit_code"] for line in living if line["message"] == "process ended"] == [
        "0",
        "7",
    ]
    assert "do-not-tell" not in str(ended)
    assert ended[: len(living)] == living
    assert "echo unseen" in ended[len(living)]["fields"]["args"]
    assert ended[-1]["message"] == "sandbox ended"
    assert ended[-1]["fields"]["reason"] == "killed"
    assert [line["timestamp"] for line in ended] == sorted(line["timestamp"] for line in ended)
    assert (
        logs(quick, sandbox.sandbox_id, search="unseen", direction="backward")[0]["message"]
        == "process started"
    )


def test_a_process_that_was_killed_for_memory_is_in_the_log(quick: LiveHome) -> None:
    sandbox = Sandbox.create("base", timeout=300, **quick.client_options)
    try:
        with pytest.raises(CommandExitException):
            sandbox.commands.run("python3 -c \"b'x' * (3 << 30)\"", timeout=120)
        [kill] = logs(quick, sandbox.sandbox_id, level="warn", search="out of memory")[:1]
        assert kill["fields"]["command"] == "python3"
    finally:
        sandbox.kill()


def test_a_guest_that_floods_its_log_is_bounded_and_the_newest_lines_are_there(quick: LiveHome) -> None:
    sandbox = Sandbox.create("minimal", timeout=300, **quick.client_options)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: sandbox.commands.run(f": {n} {'x' * 3000}"), range(300)))
        sandbox.commands.run(": the last one")
        lines = logs(quick, sandbox.sandbox_id, direction="backward", limit=4)
        assert any("the last one" in line["fields"].get("args", "") for line in lines)
        assert max(len(line["fields"].get("args", "")) for line in lines) < 1200
        [file] = (quick.path / "sandbox-logs").glob(f"{sandbox.sandbox_id}*")
        assert file.stat().st_size <= 1024 * 1024
    finally:
        sandbox.kill()
