"""Calls to guestd, which may be anybody."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from httpcore._backends.anyio import AnyIOStream

from atoll._gen.atoll.guest.v1 import guest_pb
from atoll.server.domain.errors import FailedPreconditionError, UnavailableError
from atoll.server.domain.ids import SandboxId, TemplateId
from atoll.server.domain.machine import GuestConfiguration, KilledProcess, Machine
from atoll.server.domain.template import StartCommand
from atoll.server.guests.client import GuestLimits, HttpGuest
from atoll.server.runtimes.fake.clock import START, FakeClock

MACHINE = Machine(sandbox_id=SandboxId("i" + "a" * 20), address="127.0.0.1")
CONFIGURATION = GuestConfiguration(
    generation=3,
    sandbox_id=MACHINE.sandbox_id,
    template_id=TemplateId("t-000000000000"),
    team_id="team",
    hostname="h",
    machine_id="0" * 32,
    env=(("A", "1"), ("Ü", "日本")),
    access_token="secret",
    default_user="user",
    default_workdir="",
    processes=7,
    memory_bytes=2**40,
    address="10.0.0.2",
    dns_servers=("169.254.1.1",),
)
LIMITS = GuestLimits(configure_timeout_s=1, kill_timeout_s=0.3, answer_bytes=1024, launch_grace_s=0.3)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def guest_that(handler: Handler) -> AsyncIterator[HttpGuest]:
    """Give a client whose guestd does what ``handler`` does with each connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with HttpGuest(clock=FakeClock(), limits=LIMITS, port=port) as client:
        yield client
    server.close()


def answering(body: bytes, status: str = "200 OK", seen: list[tuple[str, bytes]] | None = None) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
        request = await reader.readexactly(length)
        if seen is not None:
            seen.append((head, request))
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    return handle


async def test_a_configuration_arrives_whole() -> None:
    seen: list[tuple[str, bytes]] = []
    of_a_later_version = guest_pb.ConfigureResponse(version="1.0").to_binary() + b"\xfa\x01\x01x"
    async with guest_that(answering(of_a_later_version, seen=seen)) as guest:
        await guest.configure(MACHINE, CONFIGURATION)

    [(head, request)] = seen
    assert head.startswith("POST /atoll.guest.v1.GuestService/Configure HTTP/1.1")
    assert "content-type: application/proto" in head.lower()
    configuration = guest_pb.ConfigureRequest.from_binary(request).configuration
    assert configuration is not None
    assert json.loads(configuration.to_json()) == {
        "version": 1,
        "generation": "3",
        "identity": {
            "sandboxId": MACHINE.sandbox_id,
            "templateId": "t-000000000000",
            "teamId": "team",
            "hostname": "h",
            "machineId": "0" * 32,
        },
        "env": {"A": "1", "Ü": "日本"},
        "accessToken": "secret",
        "defaultUser": "user",
        "time": START.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "limits": {"processes": 7, "memoryBytes": str(2**40)},
        "network": {"address": "10.0.0.2", "dnsServers": ["169.254.1.1"]},
    }


async def test_a_call_is_one_piece_which_wakes_the_sandbox_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []
    write = AnyIOStream.write

    async def noted(stream: AnyIOStream, buffer: bytes, timeout: float | None = None) -> None:
        pieces.append(buffer)
        await write(stream, buffer, timeout)

    monkeypatch.setattr(AnyIOStream, "write", noted)
    async with guest_that(answering(guest_pb.ConfigureResponse(version="1.0").to_binary())) as guest:
        await guest.configure(MACHINE, CONFIGURATION)

    [piece] = [piece for piece in pieces if piece]
    assert piece.partition(b"\r\n\r\n")[2]


def killing(*killed: guest_pb.KilledProcess) -> bytes:
    return guest_pb.KillGreediestResponse(killed=list(killed)).to_binary()


async def test_a_machine_that_waits_is_claimed_over_the_same_connection_which_ends_then() -> None:
    told: list[tuple[int, guest_pb.Configuration]] = []
    ended: list[int] = []
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        which = connections
        body = guest_pb.ConfigureResponse(version="1.0").to_binary()
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.decode().lower().partition("content-length: ")[2].partition("\r\n")[0])
            request = guest_pb.ConfigureRequest.from_binary(await reader.readexactly(length))
            assert request.configuration is not None
            told.append((which, request.configuration))
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            if b"connection: close" in head.lower():
                ended.append(which)

    # At the same address: the first one's was given to it when that was gone.
    other = replace(MACHINE, sandbox_id=SandboxId("i" + "b" * 20))
    async with guest_that(handle) as guest:
        await guest.configure(MACHINE, CONFIGURATION, waits=True)
        await guest.configure(other, replace(CONFIGURATION, generation=5), waits=True)
        await guest.configure(MACHINE, replace(CONFIGURATION, generation=4, claimed=True))
        await guest.configure(other, replace(CONFIGURATION, generation=6, claimed=True))

    assert [(which, one.generation, one.waits) for which, one in told] == [
        (1, 3, True),
        (2, 5, True),
        (1, 4, False),
        (2, 6, False),
    ]
    assert ended == [1, 2]


async def test_a_kept_connection_that_the_guest_closed_is_made_anew() -> None:
    async with guest_that(answering(guest_pb.ConfigureResponse(version="1.0").to_binary())) as guest:
        await guest.configure(MACHINE, CONFIGURATION, waits=True)
        await asyncio.sleep(0.05)
        await guest.configure(MACHINE, replace(CONFIGURATION, generation=4, claimed=True))


async def test_a_call_is_made_also_where_its_answer_is_there_before() -> None:
    told: list[int] = []
    all_told = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = guest_pb.ConfigureResponse(version="1.0").to_binary()
        answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        for answers in (2, 0):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            request = guest_pb.ConfigureRequest.from_binary(await reader.readexactly(length))
            assert request.configuration is not None
            told.append(int(request.configuration.generation))
            writer.write(answer * answers)
            await writer.drain()
        all_told.set()

    async with guest_that(handle) as guest:
        await guest.configure(MACHINE, CONFIGURATION, waits=True)
        await guest.configure(MACHINE, replace(CONFIGURATION, generation=4, claimed=True))
        async with asyncio.timeout(2):
            await all_told.wait()

    assert told == [3, 4]


async def test_a_machine_that_refuses_to_wait_is_hung_up_on() -> None:
    hung_up = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        while await reader.read(1024):
            pass
        hung_up.set()

    async with guest_that(handle) as guest:
        with pytest.raises(UnavailableError):
            await guest.configure(MACHINE, CONFIGURATION, waits=True)
        async with asyncio.timeout(5):
            await hung_up.wait()


async def test_the_killed_process_is_told_with_a_name_that_drives_no_terminal() -> None:
    body = killing(guest_pb.KilledProcess(pid=9, command="\x1b[31mred\n" + "x" * 500, resident_bytes=123))
    async with guest_that(answering(body)) as guest:
        killed = await guest.kill_greediest(MACHINE, excess_bytes=1)

    assert killed == [KilledProcess(pid=9, command="?[31mred?" + "x" * 191, resident_bytes=123)]


async def test_no_claim_about_memory_is_larger_than_a_row_holds() -> None:
    body = killing(guest_pb.KilledProcess(pid=2**32 - 1, command="x", resident_bytes=2**64 - 1))

    async with guest_that(answering(body)) as guest:
        killed = await guest.kill_greediest(MACHINE, excess_bytes=1)

    assert killed == [KilledProcess(pid=2**32 - 1, command="x", resident_bytes=2**63 - 1)]


async def test_no_more_killed_processes_are_read_than_guestd_kills() -> None:
    body = killing(*(guest_pb.KilledProcess(pid=pid) for pid in range(1, 100)))

    async with guest_that(answering(body)) as guest:
        assert len(await guest.kill_greediest(MACHINE, excess_bytes=1)) == 64


async def test_nothing_to_kill_is_an_empty_answer() -> None:
    async with guest_that(answering(b"")) as guest:
        assert await guest.kill_greediest(MACHINE, excess_bytes=1) == []


@pytest.mark.parametrize(
    "body",
    [
        b"{}", b"\x00", b"\x08", b"\x12\x06short", b"\x0a\x04\x12\x02\xff\xfe", b"\x0d\x01",
        b"\x08" + b"\xff" * 11, b"\x12\xff\xff\xff\xff\x0f", b"\x13" * 500, b"\x0b\x0b\x0b", b"\xff" * 500,
    ],
)  # fmt: skip
async def test_an_answer_that_is_none_is_an_error(body: bytes) -> None:
    async with guest_that(answering(body)) as guest:
        with pytest.raises(UnavailableError):
            await guest.kill_greediest(MACHINE, excess_bytes=1)


async def test_a_refusal_is_an_error_with_its_words() -> None:
    body = b'{"code": "failed_precondition", "message": "generation 3 is not newer"}'
    async with guest_that(answering(body, "400 Bad Request")) as guest:
        with pytest.raises(UnavailableError) as caught:
            await guest.configure(MACHINE, CONFIGURATION)

    assert "not newer" in str(caught.value.details)
    # Its caller sees the message only, and it did answer.
    assert caught.value.message.startswith("the sandbox refused Configure: HTTP 400: ")
    assert "generation 3 is not newer" in caught.value.message
    assert "secret" not in str(caught.value)


async def test_of_a_refusal_not_more_is_told_than_a_line_can_hold() -> None:
    async with guest_that(answering(b"\x1b[2J\n" + b"x" * 500, "400 Bad Request")) as guest:
        with pytest.raises(UnavailableError) as caught:
            await guest.configure(MACHINE, CONFIGURATION)

    assert "x" * 100 in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.message.isprintable()


async def test_an_answer_without_end_is_given_up_early() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            sent += 1024
            await writer.drain()

    async with guest_that(flood) as guest:
        with pytest.raises(UnavailableError, match="1024 bytes"):
            await guest.kill_greediest(MACHINE, excess_bytes=1)

    # What the sockets hold, and no more.
    assert sent < 20_000_000


async def test_headers_without_end_are_given_up() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Header: " + b"x" * 1024 + b"\r\n")
            await writer.drain()

    async with guest_that(flood) as guest:
        with pytest.raises(UnavailableError):
            await guest.kill_greediest(MACHINE, excess_bytes=1)


@pytest.mark.parametrize(
    "flood",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 100_000,
    ],
    ids=["informational answers", "crumbs", "chunk extensions"],
)
async def test_what_comes_before_the_body_and_between_its_chunks_counts(flood: bytes) -> None:
    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(flood)
            await writer.drain()

    async with guest_that(send) as guest:
        began = time.process_time()
        with pytest.raises(UnavailableError, match="1024 bytes"):
            await guest.kill_greediest(MACHINE, excess_bytes=1)

    # All sandboxes wait while the server reads this; what was read without end took 100 ms at a time.
    assert time.process_time() - began < 0.1


async def test_silence_is_given_up_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with guest_that(silent) as guest:
        with pytest.raises(UnavailableError, match=r"no answer in 0\.3 s"):
            await guest.kill_greediest(MACHINE, excess_bytes=1)


async def test_drops_are_given_up_in_time() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with guest_that(drip) as guest:
        with pytest.raises(UnavailableError, match=r"no answer in 0\.3 s"):
            await guest.kill_greediest(MACHINE, excess_bytes=1)


async def test_a_redirect_is_not_followed() -> None:
    followed: list[tuple[str, bytes]] = []
    async with guest_that(answering(b"", seen=followed)) as other:
        port = other._port

        async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                f"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:{port}/\r\n".encode()
            )
            writer.write(b"Content-Length: 0\r\n\r\n")
            await writer.drain()

        async with guest_that(elsewhere) as guest:
            with pytest.raises(UnavailableError, match="HTTP 307"):
                await guest.configure(MACHINE, CONFIGURATION)

    assert followed == []


async def test_nobody_there_is_an_error() -> None:
    async with HttpGuest(clock=FakeClock(), limits=LIMITS, port=1) as guest:
        with pytest.raises(UnavailableError, match="does not answer"):
            await guest.configure(MACHINE, CONFIGURATION)


async def test_a_proxy_of_the_servers_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with guest_that(answering(b"")) as guest:
        await guest.configure(MACHINE, CONFIGURATION)


START_COMMAND = StartCommand(command="serve", ready="asks", timeout_s=1)


async def test_a_start_command_arrives_whole() -> None:
    seen: list[tuple[str, bytes]] = []
    async with guest_that(answering(b"", seen=seen)) as guest:
        await guest.launch(MACHINE, START_COMMAND)

    [(head, request)] = seen
    assert head.startswith("POST /atoll.guest.v1.GuestService/Launch HTTP/1.1")
    assert guest_pb.LaunchRequest.from_binary(request) == guest_pb.LaunchRequest(
        command="serve", ready="asks", timeout_seconds=1
    )


async def test_a_start_command_that_failed_is_not_worth_another_try() -> None:
    told = b'{"code":"deadline_exceeded","message":"it said: no port\x1b[31m"}'
    async with guest_that(answering(told, status="504 Gateway Timeout")) as guest:
        with pytest.raises(FailedPreconditionError, match="did not get ready") as caught:
            await guest.launch(MACHINE, START_COMMAND)

    assert "it said: no port?" in str(caught.value.details)


async def test_a_guest_that_never_says_ready_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with guest_that(silent) as guest:
        with pytest.raises(UnavailableError):
            await guest.launch(MACHINE, START_COMMAND)


async def test_the_journal_is_read_as_far_as_it_makes_sense() -> None:
    seen: list[tuple[str, bytes]] = []
    lines = (
        b'{"n":4,"t":1000,"level":"info","message":"old","fields":{}}\n'
        b"nonsense\n"
        b'{"n":6,"t":1000,"level":"warn","message":"a\\u001b[31mb","fields":{"pid":7}}\n'
    )
    body = guest_pb.ReadJournalResponse(lines=lines, more=True).to_binary()
    async with guest_that(answering(body, seen=seen)) as guest:
        [line], more = await guest.read_journal(MACHINE, after=5)

    request = guest_pb.ReadJournalRequest.from_binary(seen[0][1])
    assert (request.after, request.sandbox_id) == (5, MACHINE.sandbox_id)
    assert (line.number, line.message, dict(line.fields), more) == (6, "a [31mb", {"pid": "7"}, True)


@pytest.mark.parametrize("body", [b"\x1b" * 60_000, b"\x0a\xff\xff\xff\xff\x0f"])
async def test_a_journal_that_is_none_is_an_error(body: bytes) -> None:
    async with guest_that(answering(body)) as guest:
        with pytest.raises(UnavailableError):
            await guest.read_journal(MACHINE, after=0)


async def test_a_journal_without_end_or_that_never_comes_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    for handler in (answering(b"\x0a" + b"x" * 200_000), silent):
        async with guest_that(handler) as guest:
            began = time.monotonic()
            with pytest.raises(UnavailableError):
                await guest.read_journal(MACHINE, after=0)
            assert time.monotonic() - began < 5


async def test_guests_that_hang_make_no_other_look_hung() -> None:
    hanging, seen = 100, 0
    all_hang = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        if seen > hanging:
            await answering(b"")(reader, writer)
            return
        if seen == hanging:
            all_hang.set()
        await reader.read()

    async with guest_that(handler) as guest, asyncio.TaskGroup() as group:
        questions = [group.create_task(guest.probe(MACHINE)) for _ in range(hanging)]
        async with asyncio.timeout(5):
            await all_hang.wait()

        await guest.probe(MACHINE)
        assert await guest.read_journal(MACHINE, after=0) == ([], False)

        for question in questions:
            question.cancel()
