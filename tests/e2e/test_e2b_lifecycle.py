"""The released E2B client creates, finds and ends real sandboxes."""

import asyncio
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from e2b import (
    AsyncSandbox,
    AuthenticationException,
    NotFoundException,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
)
from e2b.sandbox.sandbox_api import SandboxQuery


def test_create_info_list_kill(client_options: dict[str, Any]) -> None:
    sandbox = Sandbox.create(
        "minimal", timeout=60, metadata={"job": "a b&c"}, envs={"GREETING": "hi"}, **client_options
    )
    try:
        info = sandbox.get_info()
        listed = Sandbox.list(query=SandboxQuery(metadata={"job": "a b&c"}), **client_options).next_items()
        greeting = sandbox.commands.run("echo $GREETING $E2B_SANDBOX_ID").stdout
    finally:
        killed = sandbox.kill()

    assert info.sandbox_id == sandbox.sandbox_id
    assert info.metadata == {"job": "a b&c"}
    assert 0 < (info.end_at - info.started_at).total_seconds() <= 61
    assert [item.sandbox_id for item in listed] == [sandbox.sandbox_id]
    assert greeting == f"hi {sandbox.sandbox_id}\n"
    assert killed
    assert not Sandbox.kill(sandbox.sandbox_id, **client_options)
    assert not sandbox.is_running()


def test_connect_from_elsewhere_finds_the_same_machine(
    sandbox: Sandbox, client_options: dict[str, Any]
) -> None:
    sandbox.files.write("here", "1")

    other = Sandbox.connect(sandbox.sandbox_id, timeout=120, **client_options)

    assert other.files.read("here") == "1"


def test_set_timeout_moves_the_deadline_and_the_reaper_keeps_it(client_options: dict[str, Any]) -> None:
    sandbox = Sandbox.create("minimal", timeout=60, **client_options)

    sandbox.set_timeout(1)
    limit = time.monotonic() + 15
    while sandbox.is_running() and time.monotonic() < limit:
        time.sleep(0.2)

    assert not sandbox.is_running()
    with pytest.raises((NotFoundException, SandboxNotFoundException)):
        Sandbox.get_info(sandbox.sandbox_id, **client_options)


def test_bad_requests_say_what_is_wrong(client_options: dict[str, Any]) -> None:
    with pytest.raises(SandboxException, match="template 'no-such' not found"):
        Sandbox.create("no-such", **client_options)
    with pytest.raises(SandboxException, match="Timeout must be greater than 0"):
        Sandbox.create("minimal", timeout=-1, **client_options)
    with pytest.raises(SandboxException, match="Invalid sandbox ID"):
        Sandbox.get_info("no-sandbox", **client_options)
    with pytest.raises((NotFoundException, SandboxNotFoundException)):
        Sandbox.connect("i" + "0" * 20, **client_options)
    with pytest.raises(AuthenticationException):
        Sandbox.create("minimal", **{**client_options, "api_key": "e2b_" + "0" * 40})


def test_ten_megabytes_of_json_are_refused(client_options: dict[str, Any]) -> None:
    request = urllib.request.Request(
        client_options["api_url"] + "/v2/sandboxes",
        data=b'{"templateID":"minimal","metadata":{"a":"' + b"x" * 10_000_000 + b'"}}',
        headers={"X-API-KEY": client_options["api_key"], "Content-Type": "application/json"},
    )

    with pytest.raises((urllib.error.HTTPError, urllib.error.URLError)) as caught:
        urllib.request.urlopen(request, timeout=30)

    if isinstance(caught.value, urllib.error.HTTPError):
        assert caught.value.code in {400, 413}
        caught.value.close()


def fetch_when_open(request: urllib.request.Request) -> str:
    limit = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 502 or time.monotonic() > limit:
                raise
            time.sleep(0.2)


def test_a_port_of_the_sandbox_is_reached_by_host_and_by_header(
    sandbox: Sandbox, client_options: dict[str, Any]
) -> None:
    for bind in ("0.0.0.0", "127.0.0.1"):
        port = {"0.0.0.0": 8101, "127.0.0.1": 8102}[bind]
        sandbox.commands.run(
            f"mkdir -p web && echo {bind} > web/index.html && "
            f"python3 -m http.server --bind {bind} --directory web {port}",
            background=True,
        )
        request = urllib.request.Request(
            client_options["api_url"] + "/", headers={"Host": sandbox.get_host(port)}
        )
        assert fetch_when_open(request) == f"{bind}\n"


def test_a_closed_port_is_said_to_be_closed(sandbox: Sandbox, client_options: dict[str, Any]) -> None:
    request = urllib.request.Request(
        client_options["api_url"] + "/", headers={"Host": sandbox.get_host(8199)}
    )

    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)

    assert caught.value.code == 502
    assert b"port is not open" in caught.value.read()


async def test_the_async_client_runs_ten_sandboxes_at_once(client_options: dict[str, Any]) -> None:
    async def one(n: int) -> str:
        sandbox = await AsyncSandbox.create("minimal", timeout=120, **client_options)
        try:
            return (await sandbox.commands.run(f"echo {n}")).stdout
        finally:
            await sandbox.kill()

    outputs = await asyncio.gather(*(one(n) for n in range(10)))

    assert outputs == [f"{n}\n" for n in range(10)]
