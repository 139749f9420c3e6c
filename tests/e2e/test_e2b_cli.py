"""The released command line of E2B against a real home."""

import json
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import Sandbox
from support import javascript, matrix
from support.e2b_cli import E2bCli


class Cli:
    """Runs it."""

    def __init__(self, program: E2bCli, client_options: dict[str, Any]) -> None:
        self._program = program
        self._env = javascript.environment(client_options)

    def run(self, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        command = [*self._program.command, *words]
        done = subprocess.run(
            command, env=self._env, input=stdin, capture_output=True, text=True, timeout=120
        )
        self._program.saw(words, done.returncode, done.stdout + done.stderr)
        return done

    def in_terminal(self, *words: str, type: bytes, until: bytes) -> tuple[bytes, int]:
        """Run it in a terminal, type, and return what it showed and how it ended."""
        outer, inner = pty.openpty()
        process = subprocess.Popen(
            [*self._program.command, *words], env=self._env, stdin=inner, stdout=inner, stderr=inner
        )
        os.close(inner)
        seen, typed, limit = b"", False, time.monotonic() + 60
        try:
            while time.monotonic() < limit:
                if select.select([outer], [], [], 0.2)[0]:
                    try:
                        seen += os.read(outer, 65536)
                    except OSError:  # it closed its side
                        break
                if not typed and until in seen:
                    os.write(outer, type)
                    typed = True
            code = process.wait(timeout=30)
            self._program.saw(words, code, "")
            return seen, code
        finally:
            process.kill()
            os.close(outer)


@pytest.fixture(scope="module")
def cli(client_options: dict[str, Any], recorder: matrix.Recorder) -> Cli:
    return Cli(E2bCli(recorder), client_options)


@pytest.fixture
def made(client_options: dict[str, Any]) -> Iterator[str]:
    """Create a sandbox without the command line, which takes a second for each call."""
    sandbox_id = Sandbox.create("base", timeout=300, **client_options).sandbox_id
    yield sandbox_id
    Sandbox.kill(sandbox_id, **client_options)


def test_a_sandbox_is_created_and_listed(cli: Cli, client_options: dict[str, Any]) -> None:
    before = {one["sandboxId"] for one in json.loads(cli.run("sandbox", "list", "-f", "json").stdout)}
    done = cli.run("sandbox", "create", "base", "--detach", "--timeout", "300")
    assert done.returncode == 0, done.stderr
    after = {one["sandboxId"] for one in json.loads(cli.run("sandbox", "list", "-f", "json").stdout)}

    (sandbox_id,) = after - before
    assert sandbox_id in done.stdout
    assert Sandbox.kill(sandbox_id, **client_options)


def test_a_sandbox_is_described_and_killed_once(cli: Cli, made: str) -> None:
    info = json.loads(cli.run("sandbox", "info", "-f", "json", made).stdout)
    table = cli.run("sandbox", "list").stdout
    metrics = cli.run("sandbox", "metrics", made)
    killed = [cli.run("sandbox", "kill", made) for _ in range(2)]

    assert (info["sandboxId"], info["state"], info["name"]) == (made, "running", "base")
    assert made in table
    assert metrics.returncode == 0
    assert "CPU" in metrics.stdout
    assert "has been killed" in killed[0].stdout
    assert "wasn't found" in killed[1].stdout + killed[1].stderr


def test_exec_carries_streams_and_the_exit_code(cli: Cli, made: str) -> None:
    plain = cli.run("sandbox", "exec", made, "sh", "-c", "echo out; echo err >&2; exit 3")
    fed = cli.run(
        *("sandbox", "exec", "-u", "root", "-c", "/tmp", "-e", "A=b", made, "--"),
        *("sh", "-c", "id -u; pwd; echo $A; cat"),
        stdin="fed\n",
    )
    background = cli.run("sandbox", "exec", "-b", made, "touch", "/tmp/touched")
    waited = cli.run("sandbox", "exec", made, "sh", "-c", "until [ -e /tmp/touched ]; do sleep 0.1; done")

    assert (plain.stdout, plain.returncode) == ("out\n", 3)
    assert plain.stderr.startswith("err\n")
    assert (fed.stdout, fed.returncode) == ("0\n/tmp\nb\nfed\n", 0)
    assert (background.returncode, waited.returncode) == (0, 0)


def test_connect_opens_a_terminal_and_leaves_the_sandbox(cli: Cli, made: str) -> None:
    seen, code = cli.in_terminal(
        "sandbox", "connect", made, type=b"echo $((6*7))0; id -un; exit\n", until=b"user@"
    )

    assert code == 0, seen
    assert b"420" in seen
    assert cli.run("sandbox", "exec", made, "true").returncode == 0


def test_create_opens_a_terminal_in_a_sandbox_that_lives_on(cli: Cli, client_options: dict[str, Any]) -> None:
    seen, code = cli.in_terminal(
        "sandbox", "create", "base", type=b"echo $E2B_SANDBOX_ID; exit\n", until=b"user@"
    )

    sandbox_id = next(word for word in seen.decode().split() if len(word) == 21 and word.startswith("i"))
    assert code == 0, seen
    assert Sandbox.kill(sandbox_id, **client_options)


def test_logs_and_metrics_are_shown_as_text_and_as_json(cli: Cli, made: str) -> None:
    cli.run("sandbox", "exec", made, "sh", "-c", "echo secret-output; exit 3")
    pretty = cli.run("sandbox", "logs", made)
    lines = cli.run("sandbox", "logs", made, "--format", "json", "--loggers", "process").stdout.splitlines()
    quiet = cli.run("sandbox", "logs", made, "--level", "ERROR")
    metrics = cli.run("sandbox", "metrics", made, "--format", "json").stdout.splitlines()

    assert pretty.returncode == quiet.returncode == 0
    assert "sandbox created" in pretty.stdout
    assert "process started" not in quiet.stdout
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert {one["logger"] for one in told} == {"process"}
    assert any("exit 3" in one.get("args", "") for one in told)
    assert any(one.get("exit_code") == "3" for one in told)
    # What commands print is nobody's but the caller's.
    assert not any("secret-output\n" in line for line in lines)
    points = [json.loads(line) for line in metrics if line.startswith("{")]
    assert points
    assert all(0 < point["memUsed"] < point["memTotal"] for point in points)


def test_a_sandbox_is_paused_and_resumed(cli: Cli, made: str) -> None:
    cli.run("sandbox", "exec", made, "--", "touch", "/dev/shm/kept")

    paused = cli.run("sandbox", "pause", made)
    resumed = cli.run("sandbox", "resume", made)
    kept = cli.run("sandbox", "exec", made, "--", "ls", "/dev/shm")

    assert (paused.returncode, resumed.returncode) == (0, 0), paused.stderr + resumed.stderr
    assert "kept" in kept.stdout


def test_a_snapshot_is_taken_listed_used_and_deleted(cli: Cli, made: str) -> None:
    taken = cli.run("sandbox", "snapshot", "create", made)
    assert taken.returncode == 0, taken.stderr
    [snapshot] = set(re.findall(r"\bs[a-z0-9]{20}(?::default)?", taken.stdout))

    listed = cli.run("sandbox", "snapshot", "list")
    created = cli.run("sandbox", "create", snapshot, "--detach")
    deleted = cli.run("sandbox", "snapshot", "delete", snapshot)

    assert snapshot in listed.stdout
    assert created.returncode == 0, created.stderr
    assert deleted.returncode == 0, deleted.stderr
    assert snapshot not in cli.run("sandbox", "snapshot", "list").stdout


def test_an_unknown_template_is_named(cli: Cli) -> None:
    unknown = cli.run("sandbox", "create", "no-such-template", "--detach")

    assert "template 'no-such-template' not found" in unknown.stderr


def test_lists_are_filtered(cli: Cli, client_options: dict[str, Any]) -> None:
    lifecycle = ("--lifecycle.ontimeout", "pause", "--lifecycle.autoresume")
    sandbox_id = cli.run("sandbox", "create", "minimal", "-d", "--timeout", "300", *lifecycle).stdout.strip()
    try:
        info = Sandbox.get_info(sandbox_id, **client_options)
        Sandbox.pause(sandbox_id, **client_options)
        wish = ("-s", "paused", "-t", "minimal", "--started-after", info.started_at.isoformat())
        found = cli.run("sandbox", "list", "-f", "json", "-o", "asc", "-l", "1", *wish)
        none = cli.run("sandbox", "list", "-t", "no-such")
        wrong = cli.run("sandbox", "list", "-s", "strange")
    finally:
        Sandbox.kill(sandbox_id, **client_options)

    assert info.lifecycle == {"on_timeout": "pause", "auto_resume": True}
    assert [one["sandboxId"] for one in json.loads(found.stdout)] == [sandbox_id]
    assert "No sandboxes found" in none.stdout
    assert (wrong.returncode, "must be running, paused or both" in wrong.stderr) == (1, True)


@pytest.mark.parametrize("verb", ["info", "exec"])
def test_a_sandbox_that_there_is_not_is_said_to_be_missing(cli: Cli, verb: str) -> None:
    done = cli.run("sandbox", verb, "i" + "0" * 20, *(["true"] if verb == "exec" else []))

    assert done.returncode == 1
    assert re.search("wasn't found|not found", done.stdout + done.stderr)


def test_templates_are_listed_and_those_that_are_snapshots_deleted(
    cli: Cli, client_options: dict[str, Any]
) -> None:
    with Sandbox.create("minimal", timeout=60, **client_options) as sandbox:
        snapshot = sandbox.create_snapshot().snapshot_id
    listed = cli.run("template", "list")
    deleted = cli.run("template", "delete", "-y", snapshot)
    again = cli.run("template", "delete", "-y", snapshot)
    kept = cli.run("template", "delete", "-y", "base")

    assert listed.returncode == deleted.returncode == 0
    assert "base" in listed.stdout
    assert "not found" in again.stderr + again.stdout
    assert "is the server's own" in kept.stderr + kept.stdout


def test_builds_and_changes_of_templates_are_refused_by_name(cli: Cli, tmp_path: Path) -> None:
    """What only writes files works."""
    begun = cli.run("template", "init", "-p", str(tmp_path), "-n", "mine", "-l", "python-sync")
    (tmp_path / "e2b.Dockerfile").write_text("FROM debian\nRUN true\n")
    (tmp_path / "e2b.toml").write_text('template_id = "x"\ndockerfile = "e2b.Dockerfile"\n')
    refused = [
        cli.run("template", "create", "-p", str(tmp_path), "mine"),
        cli.run("template", "publish", "-y", "base"),
        cli.run("template", "unpublish", "-y", "base"),
    ]
    moved = cli.run("template", "migrate", "-p", str(tmp_path), "-l", "python-async")

    assert begun.returncode == moved.returncode == 0
    assert (tmp_path / "mine" / "template.py").exists()
    assert (tmp_path / "template.py").exists()
    for done in refused:
        assert done.returncode == 1
        assert re.search(r"501.* is not available", done.stdout + done.stderr)
