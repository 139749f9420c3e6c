"""Unmodified E2B clients against our API, for the calls that need no daemon in the sandbox."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from e2b import (
    GuestUnresponsiveException,
    RateLimitException,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    SandboxQuery,
    ServiceBusyException,
    Template,
)
from fakes.live_api import KEY, OTHER_KEY, LiveApi, live_api
from fakes.world import small

from atoll.server.control.rows.changing import change
from atoll.server.domain.errors import UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import EndReason, Status, Target
from atoll.server.domain.sandbox import Sandbox as Row

CALLS = Path(__file__).with_name("e2b_control_calls.py")
# Each stands for a stretch of versions that speak alike: v1 create with a header for the sandbox, and v1
# with a checked form of keys. The installed one speaks v2.
OLDER = ["2.15.0", "2.45.1"]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_KEY", KEY)
    monkeypatch.setenv("E2B_API_URL", api.url)
    monkeypatch.delenv("E2B_SANDBOX_URL", raising=False)


def run_calls(python: str, api: LiveApi) -> None:
    done = subprocess.run(
        [python, str(CALLS), api.domain, uuid.uuid4().hex],
        env=os.environ | {"E2B_API_KEY": KEY, "E2B_API_URL": api.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "is content" in done.stdout


def test_the_installed_client_is_content(api: LiveApi) -> None:
    run_calls(sys.executable, api)


@pytest.mark.heavy
@pytest.mark.parametrize("version", OLDER)
def test_older_clients_are_content(api: LiveApi, tmp_path: Path, version: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"e2b=={version}"], check=True, timeout=280)

    run_calls(python, api)


def test_a_team_does_not_see_the_sandboxes_of_another() -> None:
    sandbox = Sandbox.create("base", metadata={"whose": "ours"})

    theirs = Sandbox.list(query=SandboxQuery(metadata={"whose": "ours"}), api_key=OTHER_KEY).next_items()
    killed = Sandbox.kill(sandbox.sandbox_id, api_key=OTHER_KEY)

    assert (theirs, killed) == ([], False)
    assert sandbox.get_info().sandbox_id == sandbox.sandbox_id
    assert sandbox.kill()


# The client takes the template "mcp-gateway" where none is named.
@pytest.mark.parametrize("template", ["base", None])
def test_what_mcp_would_need_is_said_once_and_clearly(api: LiveApi, template: str | None) -> None:
    with pytest.raises(SandboxException, match=r"400: .*mcp-gateway, which no template here has"):
        Sandbox.create(template, mcp={"github/a/b": {"run_cmd": "x", "install_cmd": "y"}})


def test_tags_are_read_as_clients_write_them(api: LiveApi) -> None:
    sandbox = Sandbox.create("base:latest", metadata={"tag": "yes"})

    assert sandbox.get_info().name == "base"
    assert Template.exists("base:latest")
    assert not Template.exists("nope:latest")
    with pytest.raises(SandboxException, match="404: tag 'v2' does not exist for template 'base'"):
        Sandbox.create("base:v2")
    assert sandbox.kill()


def test_who_connects_to_what_is_being_killed_is_told_so(api: LiveApi) -> None:
    sandbox = Sandbox.create("base")

    def killing(row: Row) -> Row:
        return replace(row, status=Status.KILLING, target=Target.KILLED, end_reason=EndReason.KILLED)

    written = change(api.world.store, SandboxId(sandbox.sandbox_id), killing)
    asyncio.run_coroutine_threadsafe(written, api.loop).result(10)

    with pytest.raises(SandboxException, match=r"409: .*being killed") as caught:
        Sandbox.connect(sandbox.sandbox_id)
    assert not isinstance(caught.value, SandboxNotFoundException)
    assert sandbox.kill()
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect(sandbox.sandbox_id)


def test_a_guest_that_hung_at_its_pause_is_told_and_comes_back_by_a_boot(api: LiveApi) -> None:
    sandbox = Sandbox.create("base")
    faults = api.world.faults
    faults.fail("probe", UnavailableError("silent"))
    with pytest.raises(ServiceBusyException):
        sandbox.pause(strict=True)
    # It is not sent again, as refusals with 503 are otherwise.
    assert faults.passed["probe"] == 1
    faults.fail("probe", UnavailableError("silent"))
    assert sandbox.pause()
    assert sandbox.get_info().envd_unresponsive_at_pause is True
    faults.fail("configure", UnavailableError("silent still"))

    with pytest.raises(GuestUnresponsiveException, match="did not answer when it was paused"):
        Sandbox.connect(sandbox.sandbox_id)

    assert Sandbox.connect(sandbox.sandbox_id, on_resume="reboot").sandbox_id == sandbox.sandbox_id
    assert not sandbox.get_info().envd_unresponsive_at_pause
    assert sandbox.kill()


def test_a_create_that_is_sent_twice_is_done_once(api: LiveApi) -> None:
    first = Sandbox.create("base", idempotency_key="abc-1")
    again = Sandbox.create("base", idempotency_key="abc-1")

    assert again.sandbox_id == first.sandbox_id
    with pytest.raises(SandboxException, match="422"):
        Sandbox.create("base", idempotency_key="abc-1", timeout=9)
    assert first.kill()


def test_a_full_server_says_so_without_being_asked_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live_api(tmp_path, small(max_sandboxes=2)) as full:
        monkeypatch.setenv("E2B_API_URL", full.url)
        sandboxes = [Sandbox.create("base") for _ in range(2)]

        with pytest.raises(RateLimitException, match="2") as caught:
            Sandbox.create("base")

        assert "429" in str(caught.value)
        assert all(one.kill() for one in sandboxes)
        assert Sandbox.create("base").kill()
