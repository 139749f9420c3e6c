"""
What strangers without a key, and clients with one, do to the one listening port: it stays open for others.

Memory is that of the edge's process: whatever somebody sends or does not read, it must stay bounded.
"""

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import pytest
from e2b import Sandbox
from support.door import Door, read_all, to_daemon
from support.home import LiveHome

MIB = 1 << 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# GET http /v1/health, authority "x", as HPACK has it.
HEALTH = b"\x82\x86\x44\x0a/v1/health\x41\x01x"
HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4
# Takes every upgrade, and never says anything again.
UPGRADER = """
import socket
server = socket.create_server(("0.0.0.0", 8300), backlog=200)
open("/tmp/up", "w").close()
kept = []
while True:
    connection, _ = server.accept()
    kept.append(connection)
    connection.recv(9999)
    lines = (b"HTTP/1.1 101 Switching Protocols", b"Connection: Upgrade", b"Upgrade: websocket", b"", b"")
    connection.sendall(b"\\r\\n".join(lines))
"""


@pytest.fixture(scope="module")
def door(client_options: dict[str, Any]) -> Door:
    return Door.of(client_options)


@pytest.fixture(scope="module")
def neighbour(client_options: dict[str, Any]) -> Iterator[Sandbox]:
    sandbox = Sandbox.create("minimal", timeout=1800, **client_options)
    yield sandbox
    sandbox.kill()


@pytest.fixture(autouse=True)
def nobody_else_is_harmed(home: LiveHome, neighbour: Sandbox) -> Iterator[None]:
    """Whatever a test did: the neighbour answers as before, by the same edge, which has let go of memory."""
    edge = home.edge_pid()
    yield
    started = time.monotonic()
    assert neighbour.commands.run("echo alive").stdout == "alive\n"
    assert time.monotonic() - started < 5
    assert home.edge_pid() == edge


def resident(home: LiveHome) -> int:
    return int(psutil.Process(home.edge_pid()).memory_info().rss)


@contextmanager
def bounded(home: LiveHome, most: int) -> Iterator[None]:
    before = resident(home)
    yield
    assert resident(home) - before < most


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def try_to_send(connection: socket.socket, data: bytes) -> bool:
    try:
        connection.sendall(data)
        return True
    except (ConnectionError, TimeoutError):
        return False


def test_clients_that_drip_their_headers_are_cut_off(
    home: LiveHome, door: Door, client_options: dict[str, Any]
) -> None:
    with ExitStack() as stack, bounded(home, 100 * MIB):
        slow = [stack.enter_context(door.connect()) for _ in range(500)]
        started = time.monotonic()
        for connection in slow:
            connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n")
        open_still = list(slow)
        while open_still and time.monotonic() - started < 30:
            assert (
                door.say(door.request("GET", "/v1/health", {"Connection": "close"}))[:12] == b"HTTP/1.1 200"
            )
            time.sleep(1)
            open_still = [one for one in open_still if try_to_send(one, b"X: y\r\n") and not is_closed(one)]

        assert not open_still
        # HeaderTime is 10 s: long enough for any honest line.
        assert 8 < time.monotonic() - started < 25


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        connection.setblocking(True)
        connection.settimeout(30)


@pytest.mark.heavy
def test_a_body_that_drips_for_ever_ends_by_its_limit_and_starts_nothing(
    home: LiveHome, door: Door, client_options: dict[str, Any]
) -> None:
    before = home.settled_running()
    with ExitStack() as stack:
        slow = [stack.enter_context(door.connect(timeout=90)) for _ in range(50)]
        for connection in slow:
            connection.sendall(door.request("POST", "/v2/sandboxes", {"Content-Length": "100000"}, b'{"temp'))
        # Others are served meanwhile, creates too.
        Sandbox.create("minimal", timeout=60, **client_options).kill()
        for connection in slow[1:]:
            connection.close()
        # APIBodyTime is 60 s.
        assert slow[0].recv(65536)[:12] == b"HTTP/1.1 408"
    assert home.settled_running() == before


def test_a_flood_of_streams_that_are_reset_at_once_is_survived(home: LiveHome, door: Door) -> None:
    with bounded(home, 100 * MIB), door.connect(timeout=5) as connection:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
        sent = 0
        for number in range(1, 40_000, 2):
            flood = frame(HEADERS, END_STREAM | END_HEADERS, number, HEALTH)
            flood += frame(RST_STREAM, 0, number, struct.pack(">I", 8))
            if not try_to_send(connection, flood):
                break
            sent += 1
        read_all(connection)
        assert sent > 0


def test_ten_thousand_streams_on_one_connection_are_bounded(home: LiveHome, door: Door) -> None:
    with bounded(home, 100 * MIB), door.connect(timeout=10) as connection:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
        # No stream ends: each would hold a place for ever.
        post = b"\x83\x86\x44\x0c/v2/sandboxes\x41\x01x".replace(b"\x0c/v2", b"\x0d/v2")
        for number in range(1, 20_000, 2):
            if not try_to_send(connection, frame(HEADERS, END_HEADERS, number, post)):
                break
        answers = read_all(connection)
        assert len(answers) > 0
        assert len(psutil.Process(home.edge_pid()).net_connections("unix")) < 600


def test_headers_without_end_are_cut_off(home: LiveHome, door: Door) -> None:
    with bounded(home, 50 * MIB), door.connect(timeout=10) as connection:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_STREAM, 1, HEALTH))
        piece = frame(CONTINUATION, 0, 1, b"\x00\x01a" + b"\x7f\x80\x7e" + b"b" * 16_000)
        sent = sum(len(piece) for _ in range(2000) if try_to_send(connection, piece))
        assert sent < 16 * MIB


def test_pings_that_nobody_reads_the_answers_of_take_no_memory(home: LiveHome, door: Door) -> None:
    with bounded(home, 50 * MIB), door.connect(timeout=2) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
        for _ in range(2000):
            if not try_to_send(connection, frame(PING, 0, 0, b"12345678") * 100):
                break


def test_websockets_that_vanish_leave_no_connection(home: LiveHome, door: Door, neighbour: Sandbox) -> None:
    neighbour.files.write("/tmp/upgrader.py", UPGRADER)
    neighbour.commands.run("python3 /tmp/upgrader.py", background=True)
    neighbour.commands.run("until [ -e /tmp/up ]; do sleep 0.1; done")
    edge = psutil.Process(home.edge_pid())
    before = edge.num_fds()
    headers = {"E2b-Sandbox-Port": "8300", "Connection": "Upgrade", "Upgrade": "websocket"}
    request = door.request("GET", "/", to_daemon(neighbour) | headers | {"Sec-WebSocket-Version": "13"})
    for number in range(100):
        with door.connect() as connection:
            connection.sendall(request)
            if number % 2:
                assert connection.recv(12) == b"HTTP/1.1 101"

    limit = time.monotonic() + 15
    while edge.num_fds() > before + 10 and time.monotonic() < limit:
        time.sleep(0.2)
    assert edge.num_fds() <= before + 10


def test_downloads_that_nobody_reads_take_no_memory(home: LiveHome, door: Door, neighbour: Sandbox) -> None:
    neighbour.commands.run("head -c 60000000 /dev/zero > /tmp/large")
    guestd_before = rss_of_guestd(neighbour)
    request = door.request("GET", "/files?path=/tmp/large", to_daemon(neighbour))
    with ExitStack() as stack, bounded(home, 150 * MIB):
        for _ in range(100):
            stack.enter_context(door.connect()).sendall(request)
        time.sleep(3)
        assert neighbour.commands.run("echo alive").stdout == "alive\n"
        assert rss_of_guestd(neighbour) - guestd_before < 150 * MIB
    neighbour.files.remove("/tmp/large")


def rss_of_guestd(sandbox: Sandbox) -> int:
    kilobytes = sandbox.commands.run("grep VmRSS /proc/1/status", user="root").stdout.split()[1]
    return int(kilobytes) * 1024


def test_output_that_nobody_reads_takes_no_memory(
    home: LiveHome, door: Door, client_options: dict[str, Any]
) -> None:
    sandbox = Sandbox.create("minimal", timeout=300, **client_options)
    before = rss_of_guestd(sandbox)
    endless = {"cmd": "/usr/bin/yes"}
    body = json.dumps({"process": endless, "stdin": False}).encode()
    start = door.request(
        "POST",
        "/process.Process/Start",
        to_daemon(sandbox, Content_Type="application/connect+json"),
        struct.pack(">BI", 0, len(body)) + body,
    )
    try:
        with ExitStack() as stack, bounded(home, 150 * MIB):
            for _ in range(100):
                stack.enter_context(door.connect()).sendall(start)
            limit = time.monotonic() + 100
            while len(sandbox.commands.list(request_timeout=60)) < 100 and time.monotonic() < limit:
                time.sleep(1)
            assert len(sandbox.commands.list(request_timeout=60)) == 100
            assert rss_of_guestd(sandbox) - before < 200 * MIB
            assert sandbox.commands.run("echo alive", timeout=60).stdout == "alive\n"
    finally:
        sandbox.kill()


def test_uploads_that_stop_half_way_leave_nothing_beside_the_file(door: Door, neighbour: Sandbox) -> None:
    neighbour.files.write("/tmp/uploads/old", "old content")
    for _ in range(10):
        for path in ("/tmp/uploads/new", "/tmp/uploads/old"):
            headers = to_daemon(neighbour, Content_Type="application/octet-stream", Content_Length="1000000")
            with door.connect() as connection:
                connection.sendall(door.request("POST", f"/files?path={path}", headers, os.urandom(50_000)))

    limit = time.monotonic() + 15
    found = "?"
    while time.monotonic() < limit:
        found = neighbour.commands.run(
            "ls -A /tmp/uploads; ls -l /proc/1/fd | grep -c /tmp/uploads || true", user="root"
        ).stdout
        if found.split()[-1] == "0":
            break
        time.sleep(0.2)
    assert set(found.split()) <= {"old", "new", "0"}
    neighbour.files.write("/tmp/uploads/old", "whole again")
    assert neighbour.files.read("/tmp/uploads/old") == "whole again"
