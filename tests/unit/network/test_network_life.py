"""How an edge is found that outlived its home."""

import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from atoll.server.edge.process import EdgeOptions
from atoll.server.network.life import Life, hold_edges

# Nobody claims it.
RANGE = IPv4Network("192.0.2.16/28")
OTHER = IPv4Network("192.0.2.32/28")


def argv_of_an_edge(directory: Path) -> list[str]:
    return EdgeOptions(
        program=Path("/opt/atoll-edge"),
        listen=("127.0.0.1:1",),
        api_socket=directory / "api.sock",
        control_socket=directory / "control.sock",
        admin_socket=directory / "edge.sock",
        address_range=str(RANGE),
        dns_listen="127.0.0.1:2",
        egress_listen="127.0.0.1:3",
        egress_mark=1,
        log_file=directory / "edge.log",
        log_bytes=1,
        log_files=1,
    ).argv


@pytest.mark.parametrize(
    ("program", "claimed", "found"),
    [("/opt/atoll-edge", RANGE, True), ("/opt/atoll-edge", OTHER, False), ("/opt/ipcalc", RANGE, False)],
)
def test_an_edge_is_known_by_its_range(
    tmp_path: Path, program: str, claimed: IPv4Network, found: bool
) -> None:
    words = [program, "-c", "import sys; print(flush=True); sys.stdin.read()", *argv_of_an_edge(tmp_path)[1:]]
    with subprocess.Popen(
        words, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        # Before it runs, its arguments may not be there yet.
        process.stdout.readline()
        held = hold_edges(claimed)
        for one in held:
            one.close()

    assert [one.identity.pid for one in held] == ([process.pid] if found else [])


@pytest.mark.parametrize(
    ("life", "words"),
    [
        (Life(server=None, edges=(), sandboxes=()), ""),
        (Life(server=7, edges=(), sandboxes=("ia",)), "1 sandbox, the server (process 7)"),
        (Life(server=None, edges=(8,), sandboxes=("ia", "ib")), "2 sandboxes, the edge (process 8)"),
    ],
)
def test_what_runs_is_said_in_words(life: Life, words: str) -> None:
    assert str(life) == words
    assert bool(life) is bool(words)
