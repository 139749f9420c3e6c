"""What a lightly used fork shares with its origin once both are packed: two real programs, with figures."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import click
import httpx
import pytest
from support.gvisor import CACHE, MIB, SMALL, Host, gvisor_host
from support.storing import Kept

from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.limits import Limits
from atoll.server.domain.machine import Machine
from atoll.server.host.blobs import Packed
from atoll.server.runtimes import images

LIMITS = replace(SMALL, memory_bytes=1024 * MIB, disk_bytes=1024 * MIB)
LEAST_SHARED = 0.85
# A Node program that has just begun is not at rest: V8 collects its garbage up to three times, 8 s apart, and
# moves what is left. A fork of a Node server without anything in its memory, 40 MiB, shares 71 % even then.
NODE_SETTLES_S = 30
# For the Python of the base template, wherever the tests run.
WHEELS = ("numpy==2.4.6", "pandas==3.1.1", "python-dateutil", "six")
PANDAS = """
import http.server, sys
sys.path.insert(0, "/opt/site")
import numpy, pandas
table = pandas.DataFrame(numpy.random.default_rng(1).random((200_000, 8)), columns=list("abcdefgh"))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        column = self.path.strip("/")
        answer = f"{table[column].sum():.3f} {table[column].describe().to_dict()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *args):
        pass
http.server.HTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""
NODE = """
const http = require("node:http"), crypto = require("node:crypto");
const assets = Array.from({ length: 64 }, () => crypto.randomBytes(1 << 20));
http.createServer((request, response) => {
  const asset = assets[Number(request.url.slice(1))];
  response.end(crypto.createHash("sha256").update(asset).digest("hex"));
}).listen(8000, "0.0.0.0");
"""


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with gvisor_host() as made:
        made.template = (await made.templates.ensure("base")).id
        yield made


def wheels() -> list[Path]:
    """Fetch them, once for all test runs."""
    directory = CACHE / "wheels"
    if len(list(directory.glob("*.whl"))) < len(WHEELS):
        wanted = ["--python-version", "3.13", "--only-binary", ":all:", "--no-deps", "--dest", str(directory)]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *wanted, *WHEELS], check=True, timeout=300)
    return sorted(directory.glob("*.whl"))


async def put(machine: Machine, path: str, content: bytes) -> None:
    """Write a file inside."""
    async with httpx.AsyncClient(timeout=60) as client:
        query = {"path": path, "username": "root"}
        answer = await client.post(
            f"http://{machine.address}:49983/files", params=query, files={"file": content}
        )
        assert answer.status_code == 200, answer.text


async def asked(machine: Machine, path: str) -> str:
    """Ask the program inside, which may still be starting."""
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=20), timeout=60) as client:
        answer = await client.get(f"http://{machine.address}:8000/{path}")
        assert answer.status_code == 200
        return answer.text


async def launched(host: Host, command: str, limits: Limits) -> Machine:
    machine = await host.start(limits)
    if "python3" in command:
        for wheel in wheels():
            await put(machine, f"/opt/{wheel.name}", wheel.read_bytes())
            unzip = await host.command(
                machine, "python3", "-m", "zipfile", "-e", f"/opt/{wheel.name}", "/opt/site", timeout_s=300
            )
            assert unzip.exit_code == 0, unzip.stderr
    await put(machine, "/opt/program", (PANDAS if "python3" in command else NODE).encode())
    begun = await host.command(machine, "sh", "-c", f"setsid {command} </dev/null >/tmp/log 2>&1 &")
    assert begun.exit_code == 0
    return machine


async def wait_for(host: Host, machine: Machine) -> None:
    waiting = "until (exec 3<>/dev/tcp/127.0.0.1/8000) 2>/dev/null; do sleep 0.2; done"
    assert (await host.command(machine, "bash", "-c", waiting, timeout_s=120)).exit_code == 0


async def pack(kept: Kept, name: str) -> Packed:
    path = kept.files.path(name)
    files = [(file.name, file.size, file.sha256) for file in images.seal(path).files]
    return await kept.blobs.pack(path, files, patience_s=10, timeout_s=300)


@pytest.mark.parametrize(
    ("name", "command", "questions", "settles_s"),
    [
        ("numpy and pandas", "python3 /opt/program", ["a", "b", "c"], 0),
        pytest.param(
            "a Node HTTP server of assets", "node /opt/program", [f"{number}" for number in range(20)],
            NODE_SETTLES_S, marks=pytest.mark.heavy,
        ),
    ],
)  # fmt: skip
async def test_a_lightly_used_fork_shares_most_with_its_origin(
    host: Host,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    command: str,
    questions: list[str],
    settles_s: float,
) -> None:
    kept = Kept(tmp_path)
    machine = await launched(host, command, LIMITS)
    await wait_for(host, machine)
    first = await asked(machine, questions[0])
    await asyncio.sleep(settles_s)
    take = host.runtime.checkpoint
    await take(machine.sandbox_id, kept.files.path("origin"), kind=CheckpointKind.MEMORY, leave_running=True)
    origin = await pack(kept, "origin")

    child = await host.runtime.restore(host.spec(LIMITS), kept.files.path("origin"))
    assert await asked(child, questions[0]) == first
    for question in questions:
        await asked(child, question)
    assert (await host.command(child, "sh", "-c", "seq 20000 > /root/work; ls -la /root")).exit_code == 0
    await take(child.sandbox_id, kept.files.path("fork"), kind=CheckpointKind.MEMORY, leave_running=False)
    fork = await pack(kept, "fork")

    shared = 1 - fork.new_bytes / fork.raw_bytes
    with capsys.disabled():
        click.echo(
            f"\n{name}: a fork of {fork.raw_bytes / MIB:.1f} MiB shares {shared:.1%} with its origin, and"
            f" takes {fork.put_bytes / MIB:.1f} MiB; the origin, {origin.raw_bytes / MIB:.1f} MiB,"
            f" takes {origin.put_bytes / MIB:.1f} MiB"
        )
    assert shared >= LEAST_SHARED
    await kept.packer.drop_raw()
    assert kept.raw("fork") == []
    async with kept.files.raw("fork") as path:
        again = await host.runtime.restore(host.spec(LIMITS), path)
    assert await asked(again, questions[0]) == first
