"""Creating, finding and ending sandboxes with the SDK, against the real API over control in memory."""

import asyncio
import re
from typing import Any

import pytest
from fakes.live_cloud import LiveCloud

from atoll import (
    AsyncSandbox,
    Incoming,
    InvalidArgumentError,
    Network,
    NotFoundError,
    Proxy,
    ProxyTLS,
    UnauthenticatedError,
    UnavailableError,
)
from atoll.sdk._async.api import AsyncApi
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.ingress import IngressPolicy
from atoll.server.domain.sandbox import OnDeadline


async def test_create_says_all_that_was_wished(sdk: Any, cloud: LiveCloud) -> None:
    sandbox = await sdk.create(
        "base", timeout=77, env={"A": "1"}, metadata={"job": "x=y"}, allow_internet_access=False,
        memory_mb=256, volumes={"/data": "notes"}, on_deadline="pause_files", auto_resume=True,
        **cloud.options,
    )  # fmt: skip
    plain = await sdk.create(**cloud.options)
    default = cloud.control.wishes.pop()
    await plain.close()
    wish = cloud.control.wishes[-1]
    await sandbox.close()

    assert wish.template == "base"
    assert wish.timeout.total_seconds() == 77
    assert dict(wish.env) == {"A": "1"}
    assert dict(wish.metadata) == {"job": "x=y"}
    assert not wish.egress.internet
    assert wish.limits.memory_bytes == 256 * 1024 * 1024
    assert wish.limits.cpus is None
    assert [(one.name, one.path) for one in wish.volumes] == [("notes", "/data")]
    assert (wish.on_deadline, wish.auto_resume) == (OnDeadline.PAUSE_FILES, True)
    assert (default.volumes, default.on_deadline, default.auto_resume) == ((), OnDeadline.KILL, False)


async def test_network_rules_are_said_and_replaced(sdk: Any, cloud: LiveCloud) -> None:
    network = Network(
        allow_out=("a.example",),
        deny_out=("0.0.0.0/0",),
        dns_servers=("9.9.9.9",),
        headers={"a.example": {"X-A": "s3cret"}},
        proxy=Proxy(address="p:1080", username="u", password="hush", tls=ProxyTLS(server_name="q")),
    )
    async with await sdk.create(network=network, **cloud.options) as sandbox:
        first = cloud.control.rows[sandbox.id].egress
        await sandbox.set_network(Network(deny_out=("8.8.8.8",)))
        second = cloud.control.rows[sandbox.id].egress
        closed = await sandbox.set_network(allow_internet_access=False)
        with pytest.raises(InvalidArgumentError, match="cannot be set"):
            await sandbox.set_network(Network(headers={"a.example": {"Host": "x"}}))

    assert (first.allow_out, first.deny_out, first.dns_servers) == (
        ("a.example",), ("0.0.0.0/0",), ("9.9.9.9",),
    )  # fmt: skip
    assert [(rule.domain, rule.headers) for rule in first.rules] == [("a.example", (("X-A", "s3cret"),))]
    assert first.proxy is not None
    assert (first.proxy.address, first.proxy.password) == ("p:1080", "hush")
    assert first.proxy.tls is not None
    assert first.proxy.tls.server_name == "q"
    assert second == EgressPolicy(deny_out=("8.8.8.8",))
    assert not closed.internet
    assert not any(word in repr(network) for word in ("hush", "s3cret"))


async def test_who_may_reach_it_is_said(sdk: Any, cloud: LiveCloud) -> None:
    incoming = Incoming(public=False, mask_host="localhost:${PORT}", https_ports=(8443,))
    private = await sdk.create(incoming=incoming, secured=False, **cloud.options)
    private_wish = cloud.control.wishes[-1]
    again = await sdk.get(private.id, **cloud.options)
    public = await sdk.create(**cloud.options)
    public_wish = cloud.control.wishes[-1]
    told = [(await one.info()).incoming for one in (private, again, public)]
    tokens = [one.traffic_token for one in (private, again, public)]
    shown = repr(private) + repr(await private.info())
    for one in (private, again, public):
        await one.close()

    assert private_wish.ingress == IngressPolicy(
        public=False, mask_host="localhost:${PORT}", https_ports=(8443,)
    )
    assert not private_wish.secured
    assert (public_wish.ingress, public_wish.secured) == (IngressPolicy(), True)
    assert told == [incoming, incoming, Incoming()]
    assert tokens[0] == tokens[1] is not None
    assert tokens[2] is None
    assert tokens[0] not in shown
    with pytest.raises(InvalidArgumentError, match="mask"):
        await sdk.create(incoming=Incoming(mask_host="a b"), **cloud.options)


async def test_each_create_has_a_name_of_its_own_or_the_callers(sdk: Any, cloud: LiveCloud) -> None:
    for name in (None, None, "nightly-7"):
        await (await sdk.create(idempotency_key=name, **cloud.options)).close()

    first, second, third = [wish.request_key for wish in cloud.control.wishes]
    assert first != second
    assert all(name is not None and re.fullmatch("[0-9a-f]{32}", name) for name in (first, second))
    assert third == "nightly-7"
    for name in ("", "A", "a b", "ü", "a\r\nX: y", "x" * 256):
        with pytest.raises(InvalidArgumentError, match="idempotency key"):
            await sdk.create(idempotency_key=name, **cloud.options)
    assert len(cloud.control.wishes) == 3


async def test_leaving_the_context_kills(sdk: Any, cloud: LiveCloud) -> None:
    async with await sdk.create(**cloud.options) as sandbox:
        running = [info.id for info in await sdk.list(**cloud.options)]

    assert running == [sandbox.id]
    assert await sdk.list(**cloud.options) == []
    assert "ended" in repr(sandbox)


async def test_an_error_in_the_context_kills_too_and_is_the_one_that_is_seen(
    sdk: Any, cloud: LiveCloud
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with await sdk.create(**cloud.options):
            raise ZeroDivisionError

    assert await sdk.list(**cloud.options) == []


async def test_kill_says_whether_there_was_something(sandbox: Any) -> None:
    assert await sandbox.kill()
    assert not await sandbox.kill()


async def test_get_finds_it_and_connect_moves_its_deadline(sdk: Any, cloud: LiveCloud, sandbox: Any) -> None:
    before = await sandbox.info()

    found = await sdk.get(sandbox.id, **cloud.options)
    unmoved = (await found.info()).deadline
    joined = await sdk.connect(sandbox.id, timeout=3000, **cloud.options)
    moved = (await joined.info()).deadline
    await found.close()
    await joined.close()

    assert found.id == joined.id == sandbox.id
    assert unmoved == before.deadline
    assert (moved - before.created_at).total_seconds() == 3000


async def test_an_ended_sandbox_says_why_it_ended_and_cannot_be_connected_to(
    sdk: Any, cloud: LiveCloud, sandbox: Any
) -> None:
    await sandbox.kill()

    found = await sdk.get(sandbox.id, **cloud.options)
    with pytest.raises(NotFoundError):
        await sdk.connect(sandbox.id, **cloud.options)
    info = await found.info()
    await found.close()

    assert "ended" in repr(found)
    assert info.end_reason == "killed"


async def test_list_filters_by_metadata(sdk: Any, cloud: LiveCloud) -> None:
    for name in ("a", "b"):
        await (await sdk.create(metadata={"name": name}, **cloud.options)).close()

    listed = await sdk.list(metadata={"name": "b"}, **cloud.options)

    assert [info.metadata["name"] for info in listed] == ["b"]


async def test_a_list_longer_than_a_page_is_complete(
    sdk: Any, cloud: LiveCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atoll.sdk._async.api._PAGE", 2)
    monkeypatch.setattr("atoll.sdk._sync.api._PAGE", 2)
    made = set()
    for _ in range(5):
        sandbox = await sdk.create(**cloud.options)
        made.add(sandbox.id)
        await sandbox.close()

    assert {info.id for info in await sdk.list(**cloud.options)} == made


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        ({"template": "no-such"}, NotFoundError),
        ({"timeout": -1}, InvalidArgumentError),
        ({"timeout": 0}, InvalidArgumentError),
        ({"metadata": {"a": "\0"}}, InvalidArgumentError),
    ],
)
async def test_bad_wishes_are_refused(
    sdk: Any, cloud: LiveCloud, wish: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await sdk.create(**wish, **cloud.options)


@pytest.mark.parametrize("sandbox_id", ["../templates", "a/b", "", "x" * 100, "i\0"])
async def test_an_id_cannot_name_another_path(sdk: Any, cloud: LiveCloud, sandbox_id: str) -> None:
    with pytest.raises(InvalidArgumentError):
        await sdk.get(sandbox_id, **cloud.options)


async def test_a_cancelled_create_leaves_no_sandbox(
    cloud: LiveCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    create = AsyncApi.create

    async def slow_create(self: AsyncApi, wish: Any, name: str | None) -> Any:
        begun.set()
        await go_on.wait()
        return await create(self, wish, name)

    monkeypatch.setattr(AsyncApi, "create", slow_create)
    creating = asyncio.create_task(AsyncSandbox.create(**cloud.options))
    await begun.wait()

    creating.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await creating

    assert len(cloud.control.wishes) == 1
    assert await AsyncSandbox.list(**cloud.options) == []


async def test_a_wrong_key_is_refused(sdk: Any, cloud: LiveCloud) -> None:
    with pytest.raises(UnauthenticatedError):
        await sdk.create(**{**cloud.options, "api_key": "e2b_" + "0" * 40})


async def test_nobody_there_is_said_with_what_to_do(sdk: Any) -> None:
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        await sdk.create(api_url="http://127.0.0.1:9", api_key="k")

    assert "atoll up" in (caught.value.resolution or "")


async def test_without_address_or_key_the_error_says_how_to_get_them(
    sdk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ATOLL_API_URL", raising=False)
    monkeypatch.delenv("ATOLL_API_KEY", raising=False)

    with pytest.raises(InvalidArgumentError, match="atoll env"):
        await sdk.create()
    with pytest.raises(UnauthenticatedError, match="atoll env"):
        await sdk.create(api_url="http://127.0.0.1:9")
    with pytest.raises(InvalidArgumentError, match="http://host:port"):
        await sdk.create(api_url="127.0.0.1:9", api_key="k")


async def test_the_environment_is_enough(sdk: Any, cloud: LiveCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_API_URL", cloud.url + "/")
    monkeypatch.setenv("ATOLL_API_KEY", cloud.options["api_key"])

    async with await sdk.create() as sandbox:
        assert sandbox.id


async def test_a_port_has_a_host_name_and_an_address(cloud: LiveCloud, sandbox: Any) -> None:
    port = cloud.url.rsplit(":", 1)[1]

    assert sandbox.host(3000) == f"3000-{sandbox.id}.localhost:{port}"
    assert sandbox.url(3000) == f"http://3000-{sandbox.id}.localhost:{port}"
    with pytest.raises(InvalidArgumentError):
        sandbox.host(70000)


async def test_repr_says_what_it_is_and_shows_no_secret(cloud: LiveCloud, sandbox: Any) -> None:
    text = repr(sandbox) + repr(sandbox.commands) + repr(sandbox.files) + repr(sandbox.pty)

    assert f"{sandbox.id} from 'base', running" in text
    assert cloud.options["api_key"] not in text


async def test_templates_are_listed(sdk: Any, cloud: LiveCloud) -> None:
    assert "base" in [template.name for template in await sdk.templates(**cloud.options)]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), b"5"])
async def test_what_json_cannot_say_is_an_invalid_argument(sdk: Any, cloud: LiveCloud, wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be sent"):
        await sdk.create(timeout=wrong, **cloud.options)
    with pytest.raises(InvalidArgumentError, match="cannot be sent"):
        await sdk.create(metadata={"a": "\ud800"}, **cloud.options)
    with pytest.raises(InvalidArgumentError, match="cannot be sent"):
        # Longer than any address may be.
        await sdk.list(metadata={"a": "x" * 70_000}, **cloud.options)
    async with await sdk.create(**cloud.options) as sandbox:
        for call in (sandbox.set_timeout, sandbox.resume, sandbox.fork, sandbox.snapshot):
            with pytest.raises(InvalidArgumentError, match="cannot be sent"):
                await call(wrong)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), 10**10])
async def test_a_call_takes_a_positive_time_that_clocks_can_tell(
    sdk: Any, cloud: LiveCloud, wrong: Any
) -> None:
    with pytest.raises(InvalidArgumentError, match="request_timeout"):
        await sdk.list(**{**cloud.options, "request_timeout": wrong})
