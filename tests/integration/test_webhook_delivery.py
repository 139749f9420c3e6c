"""Deliveries to a real receiver: what it gets, and that whatever it does harms nobody."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from contract.test_store import make
from fakes.events import SECRET, sandboxes_in, webhooks_in
from fakes.teams import add_teams
from support.receiver import POURS, Receiver, receiver

from atoll.server.control.requests import Actor
from atoll.server.control.watching.delivering import Delivering
from atoll.server.control.watching.webhooks import NewWebhook, WebhookLimits
from atoll.server.control.work.clock import SystemClock
from atoll.server.couriers import http
from atoll.server.couriers.http import MOST_ANSWER_BYTES, HttpCourier
from atoll.server.domain.events import EventType
from atoll.server.domain.ids import TeamId
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.domain.webhooks import Delivery, DeliveryStatus, Webhook, parse_networks
from atoll.server.stores.database import Database
from atoll.server.stores.deliveries import SqliteDeliveries

TEAM = Actor(team_id=TeamId("team"), key_id="k", key_name="k")
OTHER = Actor(team_id=TeamId("other"), key_id="k", key_name="k")
CREATED, KILLED = EventType.CREATED.value, EventType.KILLED.value
LIMITS = WebhookLimits(
    networks="127.0.0.0/8, ::1",
    timeout=timedelta(seconds=2),
    attempts=4,
    retry_delay=timedelta(milliseconds=20),
)


class Post:
    """A server's part that tells and delivers, without the rest."""

    def __init__(self, database: Database, limits: WebhookLimits) -> None:
        self.limits = limits
        self.courier = HttpCourier(
            timeout=limits.timeout, allowed=parse_networks(limits.networks), connections=256
        )
        deliveries = SqliteDeliveries(database, secret=SECRET)
        self.worker = Delivering(store=deliveries, courier=self.courier, clock=SystemClock(), limits=limits)
        # Making one that may not be reached is refused, too: not what is tried here.
        self.hooks = webhooks_in(database, limits=replace(limits, networks="0.0.0.0/0, ::/0"))
        self.rows = sandboxes_in(database, most_waiting=limits.most_waiting, called=self.worker.call)

    async def hook(self, url: str, *events: str, actor: Actor = TEAM) -> Webhook:
        wish = NewWebhook(name="n", url=url, events=events or (CREATED,), secret="sécret")
        return await self.hooks.create(actor, wish)

    async def create(self, team_id: TeamId = TEAM.team_id, **changes: Any) -> Sandbox:
        row = make(team_id=team_id, status=Status.CREATING, **changes)
        await self.rows.add_sandbox(row)
        return await self.change(row, status=Status.RUNNING)

    async def change(self, row: Sandbox, **changes: Any) -> Sandbox:
        new = replace(row, **changes)
        await self.rows.replace_sandbox(row, new)
        return new

    async def log(self, hook: Webhook, actor: Actor = TEAM) -> list[Delivery]:
        return list(await self.hooks.deliveries(actor, hook.id, limit=100, oldest_first=True))

    async def ended(self, hook: Webhook, number: int = 1, actor: Actor = TEAM) -> list[Delivery]:
        """Wait until so many deliveries have ended."""
        async with asyncio.timeout(30):
            while True:
                lines = [one for one in await self.log(hook, actor) if one.due is None]
                if len(lines) >= number:
                    return lines
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        async with self.courier, asyncio.TaskGroup() as group:
            worker = group.create_task(self.worker.run())
            yield
            worker.cancel()


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(tmp_path / "atoll.db") as opened:
        await add_teams(opened, TEAM.team_id, OTHER.team_id)
        yield opened


@pytest.fixture
async def post(database: Database) -> AsyncIterator[Post]:
    made = Post(database, LIMITS)
    async with made.working():
        yield made


async def test_an_event_is_delivered_signed_and_logged(post: Post, there: Receiver) -> None:
    hook = await post.hook(there.url("/ok?x=1"))

    row = await post.create(metadata={"ü": "☃"})
    [line] = await post.ended(hook)

    [got] = there.at("/ok?x=1")
    assert got.is_signed_with("sécret")
    assert got.headers["content-type"] == "application/json"
    assert got.headers["e2b-signature-version"] == "v1"
    assert (got.headers["e2b-webhook-id"], got.headers["e2b-delivery-id"]) == (hook.id, line.id)
    assert got.event["type"] == CREATED
    assert got.event["sandboxId"] == row.id
    assert got.event["eventData"] == {"sandbox_metadata": {"ü": "☃"}}
    assert (line.status, line.attempts, line.http_status) == (DeliveryStatus.SUCCESS, 1, 200)
    assert line.event.id == got.event["id"]


async def test_only_what_is_asked_for_is_delivered_and_only_to_its_team(post: Post, there: Receiver) -> None:
    ends = await post.hook(there.url("/ends"), KILLED)
    theirs = await post.hook(there.url("/theirs"), CREATED, KILLED, actor=OTHER)

    row = await post.create()
    await post.change(row, status=Status.KILLING)
    await post.create(OTHER.team_id)
    await post.ended(ends)
    await post.ended(theirs, actor=OTHER)

    assert [one.event["type"] for one in there.at("/ends")] == [KILLED]
    assert [one.event["sandboxTeamId"] for one in there.at("/theirs")] == ["other"]


async def test_events_of_one_sandbox_come_in_their_order(post: Post, there: Receiver) -> None:
    hook = await post.hook(there.url("/ok"), CREATED, EventType.UPDATED.value, KILLED)
    rows = [await post.create() for _ in range(5)]
    for _ in range(4):
        rows = [await post.change(row, deadline=row.deadline + timedelta(hours=1)) for row in rows]
    for row in rows:
        await post.change(row, status=Status.KILLING)

    await post.ended(hook, 30)

    for row in rows:
        ids = [one.event["id"] for one in there.at("/ok") if one.event["sandboxId"] == row.id]
        assert len(ids) == 6
        assert ids == sorted(ids)


async def test_what_fails_is_tried_again_and_is_the_same(post: Post, there: Receiver) -> None:
    hook = await post.hook(there.url("/flaky/2"))

    await post.create()
    [line] = await post.ended(hook)

    tries = there.at("/flaky/2")
    assert len(tries) == 3
    assert (
        len({(one.body, one.headers["e2b-delivery-id"], one.headers["e2b-signature"]) for one in tries}) == 1
    )
    assert (line.status, line.attempts, line.problem) == (DeliveryStatus.SUCCESS, 3, "")


@pytest.mark.parametrize(
    ("path", "status", "problem"),
    [
        ("/status/500", 500, "HTTP 500"),
        ("/status/404", 404, "HTTP 404"),
        ("/status/304", 304, "HTTP 304"),
        ("/redirect", 307, "HTTP 307"),
        ("/close", None, "RemoteProtocolError"),
        ("/garbage", None, "RemoteProtocolError"),
        ("/huge-head", None, "RemoteProtocolError"),
        ("/informational", None, "RemoteProtocolError"),
    ],
)
async def test_after_so_many_attempts_it_is_given_up(
    post: Post, there: Receiver, path: str, status: int | None, problem: str
) -> None:
    hook = await post.hook(there.url(path))

    await post.create()
    [line] = await post.ended(hook)

    assert (line.status, line.attempts, line.http_status) == (DeliveryStatus.FAILED, 4, status)
    assert problem in line.problem
    assert len(line.problem) < 300
    assert len(there.at(path)) == 4
    # Redirects are not followed.
    assert there.at("/trap") == []


async def test_the_body_of_an_answer_is_not_read(post: Post, there: Receiver) -> None:
    hook = await post.hook(there.url("/huge"))

    await post.create()
    [line] = await post.ended(hook)

    assert (line.status, line.attempts) == (DeliveryStatus.SUCCESS, 1)
    # What sockets hold on both sides, and no more.
    assert there.poured.get("/huge", 0) < 16 * 1024 * 1024


async def test_a_head_without_end_is_read_to_its_bound(post: Post, there: Receiver) -> None:
    assert len(POURS["/informational"][1]) * 10 > MOST_ANSWER_BYTES
    for path in ("/huge-head", "/informational"):
        hook = await post.hook(there.url(path))
        await post.create()
        [line] = (await post.ended(hook))[:1]
        assert f"over {MOST_ANSWER_BYTES} bytes" in line.problem or "head" in line.problem.lower(), (
            line.problem
        )
        await post.hooks.delete(TEAM, hook.id)


async def test_a_slow_webhook_delays_nobody_else(post: Post, there: Receiver) -> None:
    slow = [await post.hook(there.url(f"/slow/{n}")) for n in range(3)]
    quick = await post.hook(there.url("/quick"), actor=OTHER)
    for _ in range(30):
        await post.create()
    await asyncio.to_thread(there.wait, "/slow/0", 1)

    for _ in range(10):
        await post.create(OTHER.team_id)
    async with asyncio.timeout(1.5):
        lines = await post.ended(quick, 10, OTHER)

    assert {one.status for one in lines} == {DeliveryStatus.SUCCESS}
    assert [one for one in await post.log(slow[0]) if one.due is None] == []
    # One webhook has so many at once, of those that wait.
    assert len(there.at("/slow/0")) <= LIMITS.at_once


async def test_no_answer_in_time_is_a_failure(database: Database, there: Receiver) -> None:
    post = Post(database, replace(LIMITS, timeout=timedelta(milliseconds=100), attempts=2))
    async with post.working():
        hook = await post.hook(there.url("/slow"))
        await post.create()
        [line] = await post.ended(hook)

    assert (line.status, line.attempts, line.problem) == (DeliveryStatus.FAILED, 2, "no answer in 0.1 s")
    assert 90 <= line.duration_ms < 2000


async def test_a_disabled_webhook_gets_nothing_what_waited_neither(post: Post, there: Receiver) -> None:
    hook = await post.hook(there.url("/status/500"))
    post.worker._limits = replace(LIMITS, attempts=1000)
    await post.create()
    await asyncio.to_thread(there.wait, "/status/500", 1)

    await post.hooks.change(TEAM, hook.id, enabled=False)
    await post.create()
    after = len(there.at("/status/500"))
    await asyncio.sleep(0.3)

    # One may have been under way.
    assert len(there.at("/status/500")) <= after + 1
    [line] = await post.log(hook)
    assert (line.status, line.problem) == (DeliveryStatus.DROPPED, "the webhook was disabled")
    await post.hooks.change(TEAM, hook.id, enabled=True, url=there.url("/ok"))
    row = await post.create()
    await asyncio.to_thread(there.wait, "/ok", 1)
    assert [one.event["sandboxId"] for one in there.at("/ok")] == [row.id]


async def test_what_was_dropped_in_the_middle_of_an_attempt_stays_dropped(
    post: Post, there: Receiver
) -> None:
    hook = await post.hook(there.url("/slow"))
    other = await post.hook(there.url("/ok"))
    await post.create()
    await asyncio.to_thread(there.wait, "/slow", 1)

    await post.hooks.change(TEAM, hook.id, enabled=False)
    there.release.set()
    await post.ended(other)
    # The turn is over when the webhook has another one.
    await post.hooks.change(TEAM, hook.id, enabled=True)
    await post.create()
    async with asyncio.timeout(10):
        while (lines := await post.log(hook))[-1].status is DeliveryStatus.PENDING:
            await asyncio.sleep(0.01)

    assert [one.status for one in lines] == [DeliveryStatus.DROPPED, DeliveryStatus.SUCCESS]


async def test_a_webhook_can_be_deleted_in_the_middle_of_a_delivery(post: Post, there: Receiver) -> None:
    hook = await post.hook(there.url("/slow"))
    await post.create()
    await asyncio.to_thread(there.wait, "/slow", 1)

    assert await post.hooks.delete(TEAM, hook.id)
    there.release.set()
    again = await post.hook(there.url("/ok"))
    await post.create()

    assert len(await post.ended(again)) == 1


async def test_what_waits_has_a_bound_and_the_log_says_what_was_lost(database: Database) -> None:
    post = Post(database, replace(LIMITS, most_waiting=3))
    hook = await post.hook("http://127.0.0.1:9/")

    for _ in range(5):
        await post.create()

    lines = await post.log(hook)
    assert [one.status.value for one in lines] == ["pending"] * 3 + ["dropped"] * 2
    assert lines[-1].problem == "3 deliveries were waiting"


async def test_the_log_keeps_the_last_ones(database: Database, there: Receiver) -> None:
    post = Post(database, replace(LIMITS, log_kept=4))
    hook = await post.hook(there.url("/ok"))
    async with post.working():
        rows = [await post.create() for _ in range(12)]
        await asyncio.to_thread(there.wait, "/ok", 12)
        await asyncio.sleep(0.1)

    kept = [one.event.sandbox_id for one in await post.log(hook)]
    assert kept == [row.id for row in rows[-4:]]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "localhost", "0.0.0.0", "[::1]"]
)
async def test_this_hosts_own_doors_stay_shut_however_they_are_named(
    database: Database, there: Receiver, host: str
) -> None:
    post = Post(database, replace(LIMITS, networks="", attempts=1))
    async with post.working():
        hook = await post.hook(there.url("/secret", host))
        await post.create()
        [line] = await post.ended(hook)

    assert line.status is DeliveryStatus.FAILED
    assert line.problem == "the URL leads to an address where no webhook may be"
    assert there.received == []


async def test_what_a_name_means_is_looked_at_when_the_connection_is_made(
    database: Database, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was public when the webhook was made, and is this host later."""
    real = socket.getaddrinfo
    meant = ["93.184.216.34"]

    def rebinding(host: str, *rest: Any, **more: Any) -> Any:
        return real(meant[0] if host == "hooks.example" else host, *rest, **more)

    monkeypatch.setattr(http.socket, "getaddrinfo", rebinding)
    post = Post(database, replace(LIMITS, networks="", attempts=1))
    async with post.working():
        hook = await post.hook(there.url("/secret", "hooks.example"))
        meant[0] = "127.0.0.1"
        await post.create()
        [line] = await post.ended(hook)

    assert line.problem == "the URL leads to an address where no webhook may be"
    assert there.received == []


async def test_a_name_with_both_kinds_of_addresses_is_reached_at_those_that_may_be(
    database: Database, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(host: str, *rest: Any, **more: Any) -> Any:
        return [(0, 0, 0, "", (address, 0)) for address in ("169.254.169.254", "127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(http.socket, "getaddrinfo", both)
    post = Post(database, replace(LIMITS, networks="127.0.0.0/30"))
    async with post.working():
        hook = await post.hook(there.url("/ok", "both.example"))
        await post.create()
        [line] = await post.ended(hook)

    # Nobody listens at the first that may be.
    assert line.status is DeliveryStatus.SUCCESS
    assert there.at("/ok")[0].headers["host"] == f"both.example:{there.port}"


async def test_this_hosts_public_address_is_its_own_too(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with probe:
        probe.connect(("192.0.2.1", 9))
        own = probe.getsockname()[0]
    assert http._is_this_host(ip_address(own))
    assert http._is_this_host(ip_address("127.0.0.1"))
    assert not http._is_this_host(ip_address("192.0.2.1"))


async def test_nobody_there_and_no_such_name_are_said(post: Post) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nobody = await post.hook(f"http://127.0.0.1:{port}/")
    nameless = await post.hook("http://no-such-name.invalid/")

    await post.create()
    [refused], [unknown] = await post.ended(nobody), await post.ended(nameless)

    assert "ConnectError" in refused.problem
    assert "the name cannot be looked up" in unknown.problem


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of hooks.example, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout key.pem"
    names = ["-subj", "/CN=hooks.example", "-addext", "subjectAltName=DNS:hooks.example"]
    subprocess.run(
        [*command.split(), "-out", "cert.pem", *names], cwd=folder, check=True, capture_output=True
    )
    return folder


@pytest.mark.parametrize(
    ("host", "trusted", "status"),
    [
        ("hooks.example", True, DeliveryStatus.SUCCESS),
        ("hooks.example", False, DeliveryStatus.FAILED),
        # The certificate is another name's.
        ("other.example", True, DeliveryStatus.FAILED),
    ],
)
async def test_https_wants_a_certificate_of_the_name(
    database: Database,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    trusted: bool,
    status: DeliveryStatus,
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    # As a public name would lead to a public address.
    monkeypatch.setattr(http.socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("127.0.0.1", 0))])
    post = Post(database, replace(LIMITS, attempts=1))
    trust = ssl.create_default_context(cafile=str(certificate / "cert.pem")) if trusted else None
    post.courier = HttpCourier(
        timeout=LIMITS.timeout, allowed=parse_networks(LIMITS.networks), connections=8, trust=trust
    )
    post.worker._courier = post.courier
    with receiver(tls=server) as there:
        async with post.working():
            hook = await post.hook(there.url("/ok", host).replace("http:", "https:"))
            await post.create()
            [line] = await post.ended(hook)

    assert line.status is status, line.problem
    assert len(there.at("/ok")) == (status is DeliveryStatus.SUCCESS)
    assert status is DeliveryStatus.SUCCESS or "certificate verify failed" in line.problem


async def test_https_where_nobody_speaks_it_fails(post: Post, there: Receiver) -> None:
    hook = await post.hook(there.url("/ok").replace("http:", "https:"))

    await post.create()
    [line] = await post.ended(hook)

    assert (line.status, line.attempts) == (DeliveryStatus.FAILED, 4)
    assert "ConnectError" in line.problem


async def test_a_secret_that_cannot_be_read_ends_the_delivery_and_says_so(
    database: Database, there: Receiver
) -> None:
    post = Post(database, replace(LIMITS, attempts=1))
    hook = await post.hook(there.url("/ok"))
    with database.transaction(writes=True) as connection:
        connection.exec_driver_sql("UPDATE webhooks SET sealed = zeroblob(40)")
    async with post.working():
        await post.create()
        [line] = await post.ended(hook)
        assert "set it again" in line.problem
        await post.hooks.change(TEAM, hook.id, secret="new")
        await post.create()
        await asyncio.to_thread(there.wait, "/ok", 1)

    assert there.at("/ok")[0].is_signed_with("new")


async def test_the_next_server_delivers_what_waits(database: Database, there: Receiver) -> None:
    post = Post(database, LIMITS)
    hook = await post.hook(there.url("/ok"))
    row = await post.create()

    # Another one, as after a restart; nobody calls it.
    later = Post(database, LIMITS)
    async with later.working():
        await later.ended(hook)

    assert [one.event["sandboxId"] for one in there.at("/ok")] == [row.id]


async def test_a_webhook_whose_rows_cannot_be_read_does_not_stop_the_others(
    post: Post, database: Database, there: Receiver
) -> None:
    broken = await post.hook(there.url("/never"), CREATED, actor=OTHER)
    hook = await post.hook(there.url("/ok"))
    with database.transaction(writes=True) as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER bad AFTER INSERT ON events WHEN NEW.team_id = 'other' "
            "BEGIN UPDATE events SET type = 'nonsense' WHERE seq = NEW.seq; END"
        )

    await post.create(OTHER.team_id)
    await post.create()
    await post.ended(hook)
    await post.create()
    await post.ended(hook, 2)

    assert there.at("/never") == []
    assert broken.enabled
